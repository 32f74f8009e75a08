"""Where the numbers come from: versions, commits, datasets, judges, how many cells, how long, at what cost."""

from collections.abc import Iterable, Iterator

from massact.report.evidence import Evidence, Judging, Provenance, ReportInput, counted, listed
from massact.report.result_tables import baselines_in_use
from massact.report.table import MISSING, Section, Table, cells, columns
from massact.store.schema import EvaluationRow

_DIGITS = 12
"""Of a digest or a commit."""
_MOST_COMMITS = 4


def provenance_section(given: ReportInput, evidence: Evidence) -> Section:
    """All of it as one table."""
    pairs = list(_pairs(given, evidence))
    table = Table("Provenance", columns("what", "value"), tuple(cells(*pair) for pair in pairs))
    return Section("provenance", "Where the numbers come from", (), (table,))


def _pairs(given: ReportInput, evidence: Evidence) -> Iterator[tuple[str, str]]:
    facts = given.provenance
    samples = list(evidence.answers.evaluations.samples.values())
    used = [*samples, *baselines_in_use(evidence, given.baselines)]
    yield "experiment file", str(given.experiment.file)
    yield "generated", given.generated_at.isoformat(" ", "minutes")
    yield "evaluations", str(facts.n_evaluations)
    for name, count in facts.counts.items():
        yield name, str(count)
    yield "generating and judging", _times(facts)
    yield (
        "models",
        _words(f"{row.model_id}@{_short(row.model_revision)} ({row.dtype or '?'})" for row in used),
    )
    yield "datasets", _words(f"{trait} {_short(digest)}" for trait, digest in sorted(facts.datasets.items()))
    yield "question sets", _words(map(_questions, used))
    yield "judge", _words(map(_judge, samples or used))
    yield "judging", _judging(facts.judging, given.experiment.judge.kind)
    yield "commits of the evaluations", _commits(facts)
    yield "commit of the report", facts.git_commit or MISSING
    yield "versions", _words(f"{name} {version}" for name, version in sorted(facts.versions.items()))


def _words(found: Iterable[str]) -> str:
    return listed(sorted(set(found)), limit=12) or MISSING


def _short(digest: str | None) -> str:
    return "?" if digest is None else digest[:_DIGITS]


def _questions(row: EvaluationRow) -> str:
    asked = "all questions" if row.subset == 0 else f"the first {row.subset}" if row.subset else "?"
    count = "" if row.n_questions is None else f", {row.n_questions} asked"
    return f"{row.trait} {_short(row.question_set)} ({asked}{count})"


def _judge(row: EvaluationRow) -> str:
    return f"{row.judge} (model {_short(row.judge_model)}, prompt {_short(row.judge_prompt)})"


def _times(facts: Provenance) -> str:
    if facts.total_seconds is None:
        return MISSING
    parts = [
        f"{duration(seconds)} {what}"
        for what, seconds in (("generating", facts.generation_seconds), ("judging", facts.judge_seconds))
        if seconds is not None
    ]
    total = duration(facts.total_seconds)
    return f"{total} ({', '.join(parts)})" if parts else total


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _judging(judging: Judging | None, kind: str) -> str:
    """What the judge was asked; money only where a price is known or an API was paid."""
    if judging is None:
        return "the phases' runs do not tell what their judge was asked"
    parts = [counted(judging.calls, "call")]
    if judging.prompt_tokens or judging.completion_tokens:
        parts.append(f"{judging.prompt_tokens:,} + {judging.completion_tokens:,} tokens")
    if judging.cached:
        parts.append(f"{counted(judging.cached, 'response')} judged before")
    if judging.cost_usd is not None:
        parts.append(f"{judging.cost_usd:.4f} USD at the file's prices")
    elif kind == "openai":
        parts.append("no price given")
    return ", ".join(parts)


def _commits(facts: Provenance) -> str:
    if not facts.commits:
        return MISSING
    said = []
    for one in facts.commits:
        dirty = ""
        if one.n_dirty:
            dirty = (
                f", {'all' if one.n_dirty == one.n_runs else one.n_dirty} with changes that no commit holds"
            )
        said.append(f"{one.commit[:_DIGITS] or 'not told'} ({counted(one.n_runs, 'run')}{dirty})")
    return listed(said, limit=_MOST_COMMITS)
