"""Where the numbers come from: models, datasets and judges as the rows tell, commits, counts, time and cost."""

from collections.abc import Iterable, Iterator, Mapping

from massact.report.evidence import Evidence, Provenance, counted, listed
from massact.report.section import MISSING, Section, Table
from massact.store.schema import EvaluationRow, JudgeMetric

_DIGITS = 12
"""Of a digest or a commit."""
_MOST_COMMITS = 4


def samples_section(evidence: Evidence) -> Section:
    """The responses; each format shows `Facts.sample_rows` in its way."""
    text = () if evidence.facts.samples else ("No responses were kept, or none were handed to the report.",)
    return Section("samples", "Responses", text)


def provenance_section(evidence: Evidence) -> Section:
    """All of it as one table."""
    table = Table.of("Provenance", ("what", "value"), list(_pairs(evidence)))
    return Section("provenance", "Where the numbers come from", (), (table,))


def _pairs(evidence: Evidence) -> Iterator[tuple[str, str]]:
    facts = evidence.facts.provenance
    samples = list(evidence.answers.evaluations.samples.values())
    used = [*samples, *evidence.baselines]
    yield "experiment file", str(evidence.experiment.file)
    yield "generated", evidence.facts.generated_at.isoformat(" ", "minutes")
    yield "evaluations", str(facts.n_evaluations)
    for name, count in facts.counts.items():
        yield name, str(count)
    yield "generating and judging", _times(facts)
    models = (f"{row.model_id}@{_short(row.model_revision)} ({row.dtype or '?'})" for row in used)
    yield "models", _words(models)
    yield "chat templates", _words(f"{row.model} {_short(row.chat_template_digest)}" for row in used)
    yield "datasets", _words(f"{row.trait} {_short(row.trait_digest)}" for row in used)
    yield "question sets", _words(map(_questions, used))
    yield "judge", _words(map(_judge, samples or used))
    yield "judging", _judging(facts.judging, evidence.experiment.judge.kind)
    yield "commits of the evaluations", _commits(facts)
    yield "commit of the report", facts.git_commit or MISSING
    yield "versions of the report", _words(f"{name} {version}" for name, version in facts.versions.items())


def _words(words: Iterable[str]) -> str:
    return listed(sorted(set(words)), limit=12) or MISSING


def _short(digest: str | None) -> str:
    return "?" if digest is None else digest[:_DIGITS]


def _questions(row: EvaluationRow) -> str:
    part = "all questions" if row.subset == 0 else f"the first {row.subset}" if row.subset else "?"
    count = "" if row.n_questions is None else f", {row.n_questions} asked"
    return f"{row.trait} {_short(row.question_set)} ({part}{count})"


def _judge(row: EvaluationRow) -> str:
    return f"{row.judge} (model {_short(row.judge_model)}, prompt {_short(row.judge_prompt)})"


def _times(facts: Provenance) -> str:
    known = [
        (seconds, what)
        for seconds, what in ((facts.generation_seconds, "generating"), (facts.judge_seconds, "judging"))
        if seconds is not None
    ]
    if not known:
        return MISSING
    parts = ", ".join(f"{_duration(seconds)} {what}" for seconds, what in known)
    return f"{_duration(sum(seconds for seconds, _ in known))} ({parts})"


def _duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _judging(asked: Mapping[str, float], kind: str) -> str:
    """What the judge was asked; money only where a price is known or an API was paid."""
    if not asked:
        return "the phases' runs do not tell what their judge was asked"
    parts = [counted(int(asked.get(JudgeMetric.CALLS, 0)), "call")]
    tokens = [int(asked.get(name, 0)) for name in (JudgeMetric.PROMPT_TOKENS, JudgeMetric.COMPLETION_TOKENS)]
    if any(tokens):
        parts.append(f"{tokens[0]:,} + {tokens[1]:,} tokens")
    if asked.get(JudgeMetric.CACHED):
        parts.append(f"{counted(int(asked[JudgeMetric.CACHED]), 'response')} judged before")
    if JudgeMetric.COST in asked:
        parts.append(f"{asked[JudgeMetric.COST]:.4f} USD at the file's prices")
    elif kind == "openai":
        parts.append("no price given")
    return ", ".join(parts)


def _commits(facts: Provenance) -> str:
    words = []
    for made_by in facts.commits:
        dirty = ""
        if made_by.n_dirty:
            count = "all" if made_by.n_dirty == made_by.n_runs else made_by.n_dirty
            dirty = f", {count} with changes that no commit holds"
        name = made_by.commit[:_DIGITS] or "not told"
        words.append(f"{name} ({counted(made_by.n_runs, 'run')}{dirty})")
    return listed(words, limit=_MOST_COMMITS) or MISSING
