"""The report phase: everything the store holds of an experiment, as a page, as Markdown, and on a run."""

import importlib.metadata
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from massact import __version__
from massact.domain import Response
from massact.errors import MassactError
from massact.labels import parse_label
from massact.names import file_name
from massact.query import Answers, BestRow
from massact.query.selection import is_below_floor, recipe_of
from massact.report import (
    Commit,
    CosineMatrix,
    Judging,
    Provenance,
    Report,
    ReportInput,
    Sample,
    SampleRole,
    VectorFact,
    build_report,
)
from massact.report.page import read_for_findings, write_findings
from massact.store.read import RunStore
from massact.store.read.base import Stored
from massact.store.read.contents import stored_runs
from massact.store.schema import Artifact, EvaluationRow, JudgeMetric, Kind, MlflowTag, StoredPoint, Tag
from massact.store.write.client import provenance_tags
from massact.store.write.experiments import UI_ADDRESS
from massact.store.write.stages import read_calibration
from massact.store.write.tensors import read_responses
from massact.store.write.tracker import OpenRun
from massact.sweep.accounting import phase_params
from massact.sweep.context import Session
from massact.sweep.planner import load_answers
from massact.sweep.vectors import StoredVectors, pair_cosines
from massact.toy import is_toy
from massact.vectors.geometry import cosine
from massact.vectors.massive_dims import Calibration

# What a report says of where its numbers come from, and of the vectors behind them.

_PACKAGES = ("mlflow", "torch", "transformers", "scikit-learn")
MOST_LABELS = 9
"""Labels of a place whose vectors are set side by side."""


def provenance(session: Session, store: RunStore, rows: Sequence[EvaluationRow], n_failed: int) -> Provenance:
    """Versions, commits, datasets, counts, times and what the judge was asked.

    Args:
        rows: the whole evaluations.
        n_failed: evaluations that failed and were not finished since.
    """
    name = session.experiment.name
    baselines = [one.row for one in store.baselines(name)]
    timed = [*rows, *baselines]
    generating, judging = (
        sum(getattr(row, field) or 0.0 for row in timed) for field in ("generation_seconds", "judge_seconds")
    )
    return Provenance(
        n_evaluations=len(rows),
        total_seconds=generating + judging if timed else None,
        generation_seconds=generating if timed else None,
        judge_seconds=judging if timed else None,
        git_commit=provenance_tags().get(MlflowTag.GIT_COMMIT),
        # massact itself is not installed where `mlflow run` made the environment
        versions={"massact": __version__, **{one: importlib.metadata.version(one) for one in _PACKAGES}},
        counts=_counts(store, name, rows, n_baselines=len(baselines), n_failed=n_failed),
        commits=_commits(session),
        datasets=_datasets(session),
        judging=_judging(session, store),
    )


def _datasets(session: Session) -> dict[str, str]:
    """The digest of each trait's dataset; one that cannot be read any more is left out."""
    found = {}
    for trait in session.experiment.traits:
        with suppress(MassactError):
            found[trait.name] = session.datasets.of(trait).digest
    return found


def _counts(
    store: RunStore, name: str, rows: Sequence[EvaluationRow], *, n_baselines: int, n_failed: int
) -> dict[str, int]:
    """Cells by kind; a kind that there is none of is left out."""
    found = {
        "of them taken over from a label with an alike vector": sum(row.same_as is not None for row in rows),
        "of them imported": sum(row.origin == "imported" for row in rows),
        "baselines": n_baselines,
        "screenings, given up on a part of the questions": len(store.screenings(name)),
        "confirmations on other questions": len(store.confirmations(name)),
        "failed": n_failed,
    }
    return {what: count for what, count in found.items() if count}


def _commits(session: Session) -> tuple[Commit, ...]:
    """The commits that evaluations were made by, the most runs first."""
    tags = (MlflowTag.GIT_COMMIT, Tag.GIT_DIRTY)
    runs: Counter[str] = Counter()
    dirty: Counter[str] = Counter()
    for run in stored_runs(session.stores.tracking_uri, session.experiment.name, Kind.EVALUATION, tags=tags):
        commit = run.tags.get(MlflowTag.GIT_COMMIT, "")
        runs[commit] += 1
        dirty[commit] += run.tags.get(Tag.GIT_DIRTY) == "true"
    return tuple(Commit(commit, count, dirty[commit]) for commit, count in runs.most_common())


def _judging(session: Session, store: RunStore) -> Judging | None:
    """What the judges of all phases' runs were asked, together."""
    total: dict[str, float] = {}
    for phase in store.phases(session.experiment.name):
        found = session.stores.tracker.metrics(phase.run_id)
        for name in JudgeMetric:
            if name in found:
                total[name] = total.get(name, 0.0) + found[name]
    if not total:
        return None
    return Judging(
        calls=int(total.get(JudgeMetric.CALLS, 0)),
        prompt_tokens=int(total.get(JudgeMetric.PROMPT_TOKENS, 0)),
        completion_tokens=int(total.get(JudgeMetric.COMPLETION_TOKENS, 0)),
        cached=int(total.get(JudgeMetric.CACHED, 0)),
        cost_usd=total.get(JudgeMetric.COST),
    )


def vector_facts(rows: Iterable[EvaluationRow]) -> tuple[VectorFact, ...]:
    """Where the energy of each evaluated vector lies, once per layer; the newest where several tell."""
    found = {}
    for row in rows:
        if row.massive_energy is None or row.layer is None or row.position is None or row.label is None:
            continue
        fact = VectorFact(
            model=row.model,
            trait=row.trait,
            position=row.position,
            label=row.label,
            layer=row.layer,
            massive_energy=row.massive_energy,
        )
        found[fact.model, fact.trait, fact.position, fact.label, fact.layer] = fact
    return tuple(found.values())


def label_cosines(session: Session, answers: Answers) -> tuple[CosineMatrix, ...]:
    """Cosines between the labels of each place, at the layer of its best; a place without vectors has none."""
    found = []
    # without the scores by question, which nothing here needs
    rows = replace(answers, scores=None).best(session.experiment.coherence_floor).rows
    for model in session.experiment.models:
        for trait in session.experiment.traits:
            bests = [
                row
                for row in rows
                if (row.model, row.trait, row.status) == (model.name, trait.name, "ok")
                and row.method not in (None, "random_baseline")
                and row.vector_digest is not None  # an imported result has no vector in the store
            ]
            if not bests:
                continue
            try:
                vectors = StoredVectors(session, model, trait)
            except MassactError:
                continue  # extracted elsewhere
            for position in dict.fromkeys(row.position for row in bests):
                matrix = _matrix(vectors, [row for row in bests if row.position == position])
                found += [matrix] if matrix else []
    return tuple(found)


def _matrix(vectors: StoredVectors, bests: Sequence[BestRow]) -> CosineMatrix | None:
    top = max(bests, key=lambda row: (row.delta or 0.0) * (-1 if row.direction == "negative" else 1))
    labels = sorted(dict.fromkeys(row.label for row in bests), key=_order)[:MOST_LABELS]
    if top.layer is None or len(labels) < 2:
        return None
    try:
        found = [vectors.of(top.position, parse_label(label))[top.layer] for label in labels]
    except (MassactError, IndexError):  # extracted elsewhere, perhaps from a model of more layers
        return None
    return CosineMatrix(
        model=top.model,
        trait=top.trait,
        position=top.position,
        layer=top.layer,
        labels=tuple(labels),
        values=tuple(tuple(cosine(a, b) for b in found) for a in found),
    )


def _order(label: str) -> tuple[int, str, int]:
    """The uncleaned first, then those cleaned of all dims, before and after, then the others by dims."""
    recipe = recipe_of(label)
    if recipe is None:
        return (3, label, 0)
    n_dims = recipe.cleaning.n_dims
    if recipe.cleaning.when == "none":
        return (0, recipe.method, 0)
    return (1, label, 0) if n_dims == "all" else (2, recipe.method, n_dims)


# Responses that a report shows side by side: the baseline, the best, and the same vector over the cliff.


def pick_samples(
    session: Session, answers: Answers, baselines: Iterable[Stored[EvaluationRow]]
) -> Iterator[Sample]:
    """Per model and trait the answers to one question of each of the three, where responses were kept."""
    baselines = list(baselines)
    floor = session.experiment.coherence_floor
    # without the scores by question, which nothing here needs
    rows = replace(answers, scores=None).best(floor).rows
    bests = [row for row in rows if row.status == "ok" and row.method != "random_baseline"]
    for model in session.experiment.models:
        for trait in session.experiment.traits:
            mine = [row for row in bests if (row.model, row.trait) == (model.name, trait.name)]
            if mine:
                sign = -1 if trait.direction == "negative" else 1
                top = max(mine, key=lambda row: sign * (row.delta or 0.0))
                yield from _of_place(session, answers, baselines, top)
            else:
                place = _Place(session, f"{model.name}, {trait.name}")
                for one in baselines:
                    if (one.row.model, one.row.trait) == (model.name, trait.name):
                        place.judge = one.row.judge
                        yield from place.sample(one.run_id, "baseline", "unsteered")


def _of_place(
    session: Session, answers: Answers, baselines: Iterable[Stored[EvaluationRow]], top: BestRow
) -> Iterator[Sample]:
    trait = f", {top.trait}" if len(session.experiment.traits) > 1 else ""
    place = _Place(session, f"{top.model}{trait}: {top.label} at {top.position}, layer {top.layer}")
    used = answers.evaluations.samples[top.setting or ""]
    place.judge = used.judge
    floor = session.experiment.coherence_floor
    over = _over_cliff(answers, top, floor)
    over_run = None if over is None else _run_with_responses(answers, over)
    place.ask_what_broke(over_run, floor)
    for one in baselines:
        if one.row.key == used.baseline_key:
            yield from place.sample(one.run_id, "baseline", "unsteered")
    yield from place.sample(_run_with_responses(answers, top), "best", f"coefficient {top.coefficient:g}")
    if over is not None:
        yield from place.sample(over_run, "over the cliff", f"coefficient {over.coefficient:g}")


@dataclass
class _Place:
    """Where samples stand side by side: all answer the question of the first."""

    session: Session
    name: str
    judge: str | None = None
    question: str | None = None

    def ask_what_broke(self, run_id: str | None, floor: float) -> None:
        """Choose the question whose answer broke as much as the run's answers did on the mean."""
        scored = [(one, one.coherence) for one in self._responses(run_id) if one.coherence is not None]
        below = [(one, coherence) for one, coherence in scored if coherence < floor]
        if below:
            mean = statistics.fmean(coherence for _, coherence in scored)
            self.question = min(below, key=lambda pair: abs(pair[1] - mean))[0].question

    def _responses(self, run_id: str | None) -> list[Response]:
        """What a run kept; nothing where it kept none, which `--save-responses` decides."""
        if run_id is None:
            return []
        try:
            return list(read_responses(self.session.stores.fetch(run_id, Artifact.RESPONSES)))
        except MassactError:
            return []

    def sample(self, run_id: str | None, role: SampleRole, how: str) -> Iterator[Sample]:
        """The run's response to the question of the place, if it kept any."""
        responses = self._responses(run_id)
        if not responses:
            return
        same = (one for one in responses if one.question == self.question)
        response = next(same, responses[0])
        self.question = self.question or response.question
        yield Sample(
            title=f"{role[0].upper()}{role[1:]}: {how}",
            question=response.question,
            response=response.response,
            trait=response.trait,
            coherence=response.coherence,
            run_id=run_id or "",
            place=self.name,
            role=role,
            judge=self.judge,
        )


def _run_with_responses(answers: Answers, one: BestRow | StoredPoint) -> str | None:
    """The run whose responses were scored: of a result that was taken over, that of the other label."""
    if one.same_as is None:
        return one.run_id
    at = (one.layer, one.coefficient, one.delta)
    points = _points(answers, one, one.same_as)
    return next(
        (point.run_id for point in points if (point.layer, point.coefficient, point.delta) == at), None
    )


def _over_cliff(answers: Answers, best: BestRow, floor: float) -> StoredPoint | None:
    """The smallest coefficient beyond the best, of the same vector, whose text is below the floor."""
    beyond = [
        point
        for point in _points(answers, best, best.label)
        if (point.vector_digest, point.layer) == (best.vector_digest, best.layer)
        and abs(point.coefficient) > abs(best.coefficient or 0.0)
        and is_below_floor(point, floor)
    ]
    return min(beyond, key=lambda point: abs(point.coefficient), default=None)


def _points(answers: Answers, one: BestRow | StoredPoint, label: str) -> Iterable[StoredPoint]:
    """The evaluations of a label where another's result is."""
    return answers.evaluations.by_place.get(
        (one.setting or "", one.model, one.trait, one.position, label), ()
    )


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """A report and where it lies."""

    report: Report
    html: Path
    markdown: Path
    findings: Path | None = None

    @property
    def summary(self) -> str:
        """What a person needs to know of it in a terminal: the checklist, and where the pages are."""
        checks = [*self.report.criteria, *self.report.sanity]
        lines = [f"- [{'x' if one.ok else ' '}] {one.text}: {one.detail}" for one in checks]
        lines += ["", f"report: {self.html}", f"        {self.markdown}"]
        return "\n".join(lines if self.findings is None else [*lines, f"findings: {self.findings}"])


def run_report(
    session: Session, output: Path, parent: OpenRun | None = None, *, findings: Path | None = None
) -> WrittenReport:
    """Write the report under `output`/<experiment>, and log it as a run of kind `report`.

    Args:
        findings: a file whose marked section is written anew with what the report found.

    Raises:
        UsageError: that file cannot be written, or its marks are not in order; the report is not made then.
    """
    if findings is not None:
        read_for_findings(findings)
    tracker = session.stores.tracker
    with tracker.phase("report", kind=Kind.REPORT, parent=parent, params=phase_params(session)) as run:
        session.say("writing the report")
        report = build_report(_collect(session, run))
        folder = output / _folder_name(output, session.experiment.name)
        written = WrittenReport(
            report, folder / Artifact.REPORT_HTML, folder / Artifact.REPORT_MARKDOWN, findings
        )
        _write(report, folder)
        if findings is not None:
            write_findings(findings, report.findings)
        with tracker.artifacts(run) as artifacts:
            _write(report, artifacts)
        tracker.set_tag(run, MlflowTag.NOTE, written.summary)
        for one in report.criteria:
            tracker.set_tag(
                run, f"{Tag.VERDICT}.{one.name}", f"{'met' if one.ok else 'not met'}: {one.detail}"
            )
    return written


def _folder_name(output: Path, experiment: str) -> str:
    """The folder of an experiment's report: within `output`, and no other experiment's."""
    return file_name(experiment, [one.name for one in output.iterdir()] if output.is_dir() else ())


def _write(report: Report, folder: Path) -> None:
    """The page, the Markdown, and the figures that the Markdown shows."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for page, text in ((Artifact.REPORT_HTML, report.html), (Artifact.REPORT_MARKDOWN, report.markdown)):
        # a store that others wrote may hold characters that no file can
        (folder / page).write_text(text, encoding="utf-8", errors="backslashreplace")
    for name, png in report.figures.items():
        (folder / "figures" / f"{name}.png").write_bytes(png)


def _collect(session: Session, run: OpenRun) -> ReportInput:
    experiment = session.experiment
    answers = load_answers(session, with_scores=True, with_confirmations=True)
    with session.stores.read() as store:
        baselines = store.baselines(experiment.name)
        whole = [one.row for one in store.evaluations(experiment.name)]
        published = tuple(one.row for one in store.published(experiment.name))
        facts = provenance(session, store, whole, len(answers.failures))
        stages = {one.row.model: one for one in store.stages(Kind.CALIBRATION, experiment.name)}
    address = (
        session.stores.tracking_uri.rstrip("/")
        if session.stores.tracking_uri.startswith("http")
        else UI_ADDRESS
    )
    return ReportInput(
        experiment=experiment,
        answers=answers,
        baselines=tuple(one.row for one in baselines),
        calibrations={name: _calibration(session, one.run_id) for name, one in stages.items()},
        generated_at=datetime.now(UTC),
        provenance=facts,
        samples=tuple(pick_samples(session, answers, baselines)),
        run_link=lambda run_id: f"{address}/#/experiments/{run.experiment_id}/runs/{run_id}",
        toy=any(is_toy(model.instruct.reference) for model in experiment.models),
        same_vector_cosines=pair_cosines(session, answers),
        published=published,
        vectors=vector_facts(whole),
        cosines=label_cosines(session, answers),
    )


def _calibration(session: Session, run_id: str) -> Calibration:
    return read_calibration(session.stores.tracker.fetch(run_id, Artifact.CALIBRATION))
