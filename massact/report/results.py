"""Sections of tables alone: gaps and what to try next, bests, controls, confirmations, responses, provenance."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from statistics import fmean

from massact.query.groups import setting_notes, slices
from massact.query.questions.best import BestRow, best_row, ranked
from massact.query.questions.confirmations import ConfirmationRow, ConfirmedPlace
from massact.query.same_vector import taken_over_note
from massact.query.stats.coherent import SURE, coherent_chances
from massact.query.tables import COSTS, GRID_END, number_column
from massact.report.evidence import Evidence, Place, Provenance, listed, place_of
from massact.report.section import (
    MISSING,
    Cell,
    Row,
    Section,
    Table,
    group_cell,
    key_places,
    number,
    rows_table,
    signed,
    span,
)
from massact.store.schema import EvaluationRow, JudgeMetric
from massact.store.schema.rows import AgreementRow
from massact.words import counted

_VERDICTS = {
    "disagrees": "disagrees with people on",
    "agrees": "agrees with people on",
    "cannot say": "too few scores on",
}
REAL = ("probe", "mean_diff")  # what a random direction is compared with


def gaps_section(evidence: Evidence) -> Section:
    """What every group of the matrix has, and what to try where it has nothing."""
    groups = evidence.answers.groups
    at = f"at {evidence.floor.bound}"
    text = f"{evidence.n_gaps} of {counted(len(groups), 'declared group')} remain without a result {at}."
    if groups and not evidence.n_gaps:
        text = f"Every one of the {counted(len(groups), 'declared group')} has a result {at}."
    remaining = [row for row in evidence.gaps() if row.status in ("below_floor", "failed") and row.is_current]
    tries = rows_table(evidence, "Gaps that remain, and what to try next", remaining)
    tables = (*(gap_matrix(evidence, trait) for trait in evidence.traits), tries) if groups else ()
    bests = (evidence.best(place_of(group), group.label) for group in groups)
    notes = (
        *setting_notes(slices(evidence.answers.evaluations)),
        *taken_over_note([best for best in bests if best], "best", "bests"),
    )
    return Section("gaps", "Results by group", (text, *notes), tables)


def gap_matrix(evidence: Evidence, trait: str, most: int | None = None) -> Table:
    """Labels against places, so many at most: `delta @ coherence` and how it stands, or why there is none."""
    every = [place for place in evidence.places() if place.trait == trait]
    places = key_places(evidence, every, most)
    known = {place: frozenset(evidence.labels(place)) for place in places}
    ends = [0.0, *(delta for place in places for label in known[place] for delta in _reach(evidence, place, label))]
    standings = {place: evidence.standings(place) for place in places}

    def cell(place: Place, label: str) -> Cell:
        if label not in known[place]:
            return Cell("")
        plain, reach = group_cell(evidence, place, label), _reach(evidence, place, label)
        width = max(ends) - min(ends) or 1.0
        first, last, value = ((delta - min(ends)) / width for delta in reach or (0.0, 0.0, 0.0))
        standing = standings[place].get(label, "")
        return replace(plain, standing=standing, bar=(first, last, value) if reach else None)

    labels = dict.fromkeys(label for place in places for label in evidence.labels(place))
    # headers of a matrix are narrow, and most windows are of the response
    headers = ("label", *(f"{place.model} {place.position.removeprefix('response')}" for place in places))
    rest = f" ({most} of {len(every)} places)" if len(places) < len(every) else ""
    what = f"Best delta @ coherence{evidence.of_trait(trait)}, at {evidence.floor.bound}"
    caption = f"{what}{rest}; bold: winner of its place, =: tied with it"
    return Table.of(caption, headers, [(label, *(cell(place, label) for place in places)) for label in labels])


def _reach(evidence: Evidence, place: Place, label: str) -> tuple[float, ...]:
    """Both ends of the interval of a best's delta, and the delta; where there is no interval, that alone for all."""
    best = evidence.best(place, label)
    if best is None or best.delta is None:
        return ()
    return (*(evidence.interval(place, label) or (best.delta, best.delta)), best.delta)


def best_section(evidence: Evidence) -> Section:
    text = (
        "The interval holds the true delta in 95 of 100 experiments; it allows for the best having been picked among "
        "many noisy evaluations, the winner among those of all labels. The expected delta is what the evaluations that "
        "it was picked among make of it: the one to count on. A label is tied where it cannot be told from the winner "
        "of its place."
    )
    if evidence.answers.costs:
        text += (
            " The cost is what it changes on tasks of lm-evaluation-harness, steered minus unsteered on the same "
            "documents, in hundredths of the task's metric."
        )
    places = [_best_rows(evidence, place) for place in evidence.run_places]
    n = sum(row.coherent_chance is not None and row.coherent_chance < SURE for rows in places for row in rows)
    if n:
        text += (
            f" Coherence is a mean over few questions too: {counted(n, 'best is', 'bests are')} truly at or above the "
            f"floor with a chance below {SURE:g}, which stands beside them."
        )
    if any(row.at_grid_end for rows in places for row in rows):
        text += (
            f" `{GRID_END.strip()}` stands behind a coefficient at the end of its grid: a better one may lie beyond it."
        )
    more = (number_column("relative_strength", ".2f"), COSTS)
    tables = tuple(rows_table(evidence, "Bests", rows, more) for rows in places)
    return Section("best", "Best of every group", (text,), tables)


def _best_rows(evidence: Evidence, place: Place) -> list[BestRow]:
    """The best of each label that was run at a place, the winner first, as `massact best` tells of it."""
    scores, costs, chances = evidence.answers.scores, evidence.answers.costs, dict[str, float]()
    if scores is not None:
        chances = coherent_chances(evidence.whole[place], evidence.floor, scores)
    beliefs = evidence.beliefs_of(place) if scores is not None else None
    rows = []
    for part in evidence.strata[place].slices.values():
        row = best_row(part, evidence.floor, beliefs=beliefs)
        chance = chances.get(row.run_id or "")
        rows.append(replace(row, coherent_chance=chance, costs=costs.get(row.key or "", ())))
    return sorted(rows, key=lambda row: (row.delta is None, ranked(row)))


def judges_held(evidence: Evidence) -> dict[str, list[AgreementRow]]:
    """The judges of the report's places by name, each with what came of holding it against people."""
    told = {(r.judge, r.judge_model, r.judge_prompt, r.trait, r.score): r for r in evidence.facts.agreements}
    used = {stratum.sample for stratum in evidence.strata.values() if stratum.sample is not None}
    held: dict[str, list[AgreementRow]] = {name: [] for name in sorted({row.judge for row in used})}
    asked = {(row.judge, row.judge_model, row.judge_prompt, row.trait) for row in used}
    for who, row in told.items():
        if who[:4] in asked:
            held[row.judge].append(row)
    return held


def judge_in_words(judge: str, held: Sequence[AgreementRow]) -> str:
    """A judge's name and whether people find as it does."""
    on = {verdict: [f"{row.trait} ({row.score})" for row in held if row.verdict == verdict] for verdict in _VERDICTS}
    parts = [f"{_VERDICTS[verdict]} {listed(names)}" for verdict, names in on.items() if names]
    return f"{judge} ({'; '.join(parts) or 'never held against people'})"


def _held_rows(held: Iterable[AgreementRow]) -> Iterator[Row]:
    for row in held:
        spans = ((row.pearson, row.pearson_low, row.pearson_high), (row.kappa, row.kappa_low, row.kappa_high),
                 (row.weighted_kappa, row.weighted_kappa_low, row.weighted_kappa_high))  # fmt: skip
        figures = (
            f"{number(v, '.2f')}{'' if low is None else f' ({low:.2f} to {high:.2f})'}" for v, low, high in spans
        )
        who = (row.judge, row.trait, row.score, str(row.n_responses), str(row.n_annotators))
        yield (*who, *figures, number(row.people, ".2f"), row.verdict)


def controls_section(evidence: Evidence) -> Section:
    baselines = [
        (
            row.model,
            row.trait,
            number(row.trait_mean, ".1f"),
            number(row.coherence_mean, ".1f"),
            f"{row.n_scored} of {row.n_questions}",
            row.judge,
        )
        for row in evidence.baselines
    ]
    headers = ("model", "trait", "#trait mean", "#coherence", "#scored", "judge")
    held = [row for rows in judges_held(evidence).values() for row in rows]
    judged = ("judge", "trait", "score", "#responses", "#people", "Pearson", "kappa", "weighted kappa",
              "#between people", "verdict")  # fmt: skip
    tables = (
        Table.of("Judges held against people, weighted kappa by bands of the scores", judged, _held_rows(held)),
        Table.of("Baselines: the same questions, unsteered", headers, baselines),
    )
    return Section("controls", "Baselines", () if baselines else ("No baseline was evaluated.",), tables)


_WHY = (
    "A winner was chosen on the questions that it was scored on, so its delta is too good. Every winner, and every "
    "label tied with it, was evaluated once more, on questions that took no part in choosing. Shrinkage is the "
    "selected delta minus the confirmed one, in the direction that is wanted."
)


def confirmed_section(evidence: Evidence) -> Section | None:
    """Winners on other questions; `None` where none are kept for that and nothing was confirmed."""
    answer = evidence.confirmations()
    rows = answer.rows
    if evidence.experiment.confirm_share is None and not rows:
        return None
    key, title, command = "confirmed", "Confirmed on other questions", evidence.command("confirm")
    done = [row for row in rows if row.status == "confirmed"]
    if not done:
        return Section(key, title, (f"Winners were not confirmed on other questions yet: {command} does.",))
    text = [_WHY, f"Mean shrinkage: {mean_shrinkages(done)}."]
    n_open = sum(row.status == "unconfirmed" for row in rows)
    if n_open:
        open_rows = counted(n_open, "winner or tied label is", "winners and tied labels are")
        text.append(f"{open_rows} not confirmed yet: {command}.")
    lines = tuple(f"{evidence.name(place_of(place))}: {_verdict(place)}{_picked(place)}." for place in answer.places)
    lines += tuple(f"{evidence.name(place_of(r))}, `{r.label}`: {r.confirmed_note}." for r in rows if r.confirmed_note)
    table = rows_table(evidence, "Winners and labels tied with them, as selected and as confirmed", rows)
    return Section(key, title, tuple(text), (table,), lines)


def confirmed_verdicts(evidence: Evidence) -> dict[str, str]:
    """The same in a few words each, for the tags of a run; empty where nothing was confirmed."""
    answer = evidence.confirmations()
    done = [row for row in answer.rows if row.status == "confirmed"]
    if not done:
        return {}
    known = [place.wins_again for place in answer.places if place.wins_again is not None]
    return {"winners": f"{sum(known)} of {len(known)} win again", "mean_shrinkage": mean_shrinkages(done)}


def mean_shrinkages(done: Sequence[ConfirmationRow]) -> str:
    """Of winners, whom luck favoured most, and of those tied with them: in points, and over how many cells."""
    parts = []
    for standing, name in (("winner", "winners"), ("tied", "labels tied with them")):
        known = [row.shrinkage for row in done if row.standing == standing and row.shrinkage is not None]
        if known:
            parts.append(f"{name} {signed(fmean(known))} ({len(known)})")
    return ", ".join(parts)


def _verdict(place: ConfirmedPlace) -> str:
    """Whether the winner of a place still wins among the tied."""
    winner = f"`{place.winner}`"
    if place.wins_again is None:
        return f"{winner} is not confirmed"
    tied = counted(place.n_cells - 1, "label")
    if place.wins_again:
        among = f", ahead of {tied} tied with it" if place.n_cells > 1 else ", with no label tied with it"
        n_open = place.n_cells - place.n_confirmed
        return f"{winner} wins again{among}" + (f" ({n_open} not confirmed)" if n_open else "")
    if place.confirmed_winner is None:
        return f"{winner} falls below the floor, and so does all that was confirmed"
    return f"{winner} was chosen; `{place.confirmed_winner}`, tied with it, is ahead on these questions"


def _picked(place: ConfirmedPlace) -> str:
    """What is known of the label that wins now, where it was picked among several."""
    if place.confirmed_winner_delta is None or place.n_confirmed < 2:
        return ""
    limits = span(place.confirmed_winner_low, place.confirmed_winner_high)
    corrected = f"{signed(place.confirmed_winner_delta)} ({limits})"
    return f"; corrected for the picking its delta is {corrected}"


_DIGITS = 12  # of a digest or a commit
_MOST_COMMITS = 4


def samples_section(evidence: Evidence) -> Section:
    """The responses; each format shows `Facts.sample_rows` in its way."""
    text = () if evidence.facts.samples else ("No responses were kept, or none were handed to the report.",)
    return Section("samples", "Responses", text)


def provenance_section(evidence: Evidence) -> Section:
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
    models = (f"{row.model}: {row.model_id}@{_short(row.model_revision)} ({row.dtype or '?'})" for row in used)
    yield "models", _words(models)
    yield "chat templates", _words(f"{row.model} {_short(row.chat_template_digest)}" for row in used)
    yield "datasets", _words(f"{row.trait} {_short(row.trait_digest)}" for row in used)
    yield "question sets", _words(map(_questions, used))
    judges = (
        f"{row.judge} (model {_short(row.judge_model)}, prompt {_short(row.judge_prompt)})" for row in samples or used
    )
    yield "judge", _words(judges)
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


def _times(facts: Provenance) -> str:
    both = {"generating": facts.generation_seconds, "judging": facts.judge_seconds}
    known = {what: seconds for what, seconds in both.items() if seconds is not None}
    parts = ", ".join(f"{_duration(seconds)} {what}" for what, seconds in known.items())
    return f"{_duration(sum(known.values()))} ({parts})" if known else MISSING


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as `1:02:03`."""
    return str(timedelta(seconds=round(seconds)))


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
    for commit, n_runs, n_dirty in facts.commits:
        n = "all" if n_dirty == n_runs else n_dirty
        dirty = f", {n} with changes that no commit holds" if n_dirty else ""
        words.append(f"{commit[:_DIGITS] or 'not told'} ({counted(n_runs, 'run')}{dirty})")
    return listed(words, limit=_MOST_COMMITS) or MISSING
