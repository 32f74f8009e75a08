"""The report phase: everything the store holds of an experiment, as a page, as Markdown, and on a run."""

import importlib.metadata
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from massact import __version__
from massact.addresses import write_folder
from massact.domain import DEFAULT_SPOOL, RANDOM, Response
from massact.errors import MassactError
from massact.floors import as_floor
from massact.labels import parse_label
from massact.names import file_name
from massact.query import Answers
from massact.query.answers import Confirmed
from massact.query.costs import costs_of
from massact.query.groups import is_below_floor
from massact.query.questions.best import BestRow, ask_best, ranked
from massact.query.questions.costs import ask_costs
from massact.query.questions.effects import ask_effects
from massact.report import style
from massact.report.evidence import CosineMatrix, Evidence, Facts, Provenance, Sample, SampleRole, energies_of
from massact.report.page import Report, build_report, read_for_findings, write_findings
from massact.report.summary import brief
from massact.store.databases import ui_address
from massact.store.read import RunStore, stored_runs
from massact.store.read.base import Stored
from massact.store.responses import read_responses
from massact.store.schema import Artifact, EvaluationRow, JudgeMetric, Kind, MlflowTag, StoredPoint, Tag
from massact.store.write.client import provenance_tags
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session, load_answers, phase_params
from massact.sweep.vectors import StoredVectors, pair_cosines
from massact.toy import is_toy
from massact.vectors.arrays import array_cosine
from massact.vectors.massive_dims import read_calibration
from massact.workflow.outcome import tell_evaluations

FIGURES = Path(DEFAULT_SPOOL).with_name("figures")
"""Where figures are kept for the next report."""
_PACKAGES = ("mlflow", "torch", "transformers", "scikit-learn")
_MOST_LABELS = 9  # labels of a place whose vectors are set side by side


@dataclass(frozen=True, slots=True)
class WrittenReport:
    report: Report
    html: Path
    markdown: Path
    findings: Path | None = None

    @property
    def checklist(self) -> str:
        checks = [*self.report.criteria, *self.report.sanity]
        return "\n".join(f"- [{'x' if check.ok else ' '}] {check.text}: {check.detail}" for check in checks)

    @property
    def summary(self) -> str:
        """What a person needs to know of it in a terminal: what was found, and where the pages are."""
        report = self.report
        found = brief(report.evidence, report.answers, [*report.criteria, *report.sanity])
        lines = [found, "", f"report: {self.html}", f"        {self.markdown}"]
        return "\n".join(lines if self.findings is None else [*lines, f"findings: {self.findings}"])


def run_report(
    session: Session, output: Path, parent: OpenRun | None = None, *, findings: Path | None = None
) -> WrittenReport:
    """Write the report under `output`/<experiment>, and log it as a run of kind `report`. In the file `findings` the
    marked section is written anew with what the report found. Raises UsageError: it cannot be written, or its marks are
    not in order; the report is not made then."""
    if findings is not None:
        read_for_findings(findings)
    tracker = session.stores.tracker
    with tracker.phase("report", kind=Kind.REPORT, parent=parent, params=phase_params(session)) as run:
        session.say("writing the report")
        report = build_report(_collect(session, run), FIGURES / f"{file_name(session.experiment.name)}.json")
        tell_evaluations(session, run, report.evidence)
        # within `output`, and no other experiment's
        taken = [path.name for path in output.iterdir()] if output.is_dir() else ()
        folder = output / file_name(session.experiment.name, taken)
        pages = (folder / Artifact.REPORT_HTML, folder / Artifact.REPORT_MARKDOWN)
        written = WrittenReport(report, *pages, findings)
        _write(report, folder)
        if findings is not None:
            write_findings(findings, report.findings)
        with tracker.artifacts(run) as artifacts:
            _write(report, artifacts)
        tracker.set_tag(run, MlflowTag.NOTE, f"{written.checklist}\n\n{written.summary}")
        for criterion in report.criteria:
            verdict = f"{'met' if criterion.ok else 'not met'}: {criterion.detail}"
            tracker.set_tag(run, f"{Tag.VERDICT}.{criterion.name}", verdict)
    return written


def _write(report: Report, folder: Path) -> None:
    """The page, the Markdown, and the figures that the Markdown shows."""
    texts: dict[str, str] = {Artifact.REPORT_HTML: report.html, Artifact.REPORT_MARKDOWN: report.markdown}
    texts |= {f"figures/{name}.svg": svg for name, svg in report.figures.items()}
    # a store that others wrote may hold characters that no file can
    files = {name: text.encode(errors="backslashreplace") for name, text in texts.items()}
    write_folder(folder, files, "Name another --output")


def _collect(session: Session, run: OpenRun) -> Evidence:
    experiment, tracker = session.experiment, session.stores.tracker
    answers = load_answers(session, with_scores=True, with_confirmations=True)
    with session.stores.read() as store:
        baselines = store.baselines(experiment.name)
        whole = [stored.row for stored in store.evaluations(experiment.name)]
        published = tuple(stored.row for stored in store.published(experiment.name))
        agreements = tuple(stored.row for stored in store.agreements(experiment.name))
        effects = Confirmed.counting(store, store.side_effects(experiment.name), experiment.least_scored)
        answers = replace(answers, costs=costs_of(store, experiment.name))
        held = replace(answers, controls=tuple(store.controls(experiment.name)), side_effects=effects)
        held = held.with_scores(store, experiment.coherence_floor)
        provenance = _provenance(session, store, [*whole, *(stored.row for stored in baselines)], answers)
        stages = {stage.row.model: stage.run_id for stage in store.stages(Kind.CALIBRATION, experiment.name)}
    calibrations = {model: tracker.fetch(run_id, Artifact.CALIBRATION) for model, run_id in stages.items()}
    address = ui_address(session.stores.tracking_uri)
    # without the scores by question, which nothing here needs
    bests = ask_best.of(replace(answers, scores=None), experiment.coherence_floor).rows
    bests = tuple(row for row in bests if row.status == "ok" and row.method != RANDOM)
    facts = Facts(
        baselines=tuple(stored.row for stored in baselines),
        calibrations={model: read_calibration(path) for model, path in calibrations.items()},
        published=published,
        agreements=agreements,
        costs=ask_costs.of(held, experiment.coherence_floor).rows,
        effects=ask_effects.of(held, experiment.coherence_floor).rows,
        energies=energies_of(whole),
        label_cosines=tuple(_label_cosines(session, bests)),
        samples=tuple(_samples(session, answers, bests, baselines)),
        provenance=provenance,
        generated_at=datetime.now(UTC),
        run_link=lambda run_id: f"{address}/#/experiments/{run.experiment_id}/runs/{run_id}",
        toy=any(is_toy(model.instruct.reference) for model in experiment.models),
    )
    return Evidence.of(experiment, replace(answers, cosines=pair_cosines(session, answers)), facts)


def _provenance(session: Session, store: RunStore, rows: Sequence[EvaluationRow], answers: Answers) -> Provenance:
    """Versions, commits, counts, times and what the judge was asked. `rows`: the whole evaluations and baselines."""
    name = session.experiment.name
    evaluations = [row for row in rows if row.kind is Kind.EVALUATION]
    counts = {
        "of them taken over from a label with an alike vector": sum(row.same_as is not None for row in evaluations),
        "of them imported": sum(row.origin == "imported" for row in evaluations),
        "baselines": len(rows) - len(evaluations),
        "screenings, given up on a part of the questions": len(store.screenings(name)),
        "confirmations on other questions": len(store.confirmations(name)),
        "failed": len(answers.failures),
    }
    return Provenance(
        n_evaluations=len(evaluations),
        generation_seconds=sum(row.generation_seconds or 0.0 for row in rows) if rows else None,
        judge_seconds=sum(row.judge_seconds or 0.0 for row in rows) if rows else None,
        git_commit=provenance_tags().get(MlflowTag.GIT_COMMIT),
        # massact itself is not installed where `mlflow run` made the environment
        versions={"massact": __version__, **{name: importlib.metadata.version(name) for name in _PACKAGES}},
        counts={what: count for what, count in counts.items() if count},
        commits=_commits(session),
        judging=_judging(session, store),
    )


def _commits(session: Session) -> tuple[tuple[str, int, int], ...]:
    """The commits that evaluations were made by, the most runs first."""
    tags = (MlflowTag.GIT_COMMIT, Tag.GIT_DIRTY)
    runs, dirty = Counter[str](), Counter[str]()
    for run in stored_runs(session.stores.tracking_uri, session.experiment.name, Kind.EVALUATION, tags=tags):
        commit = run.tags.get(MlflowTag.GIT_COMMIT, "")
        runs[commit] += 1
        dirty[commit] += run.tags.get(Tag.GIT_DIRTY) == "true"
    return tuple((commit, count, dirty[commit]) for commit, count in runs.most_common())


def _judging(session: Session, store: RunStore) -> dict[str, float]:
    """What the judges of all phases' runs were asked, together."""
    total: dict[str, float] = defaultdict(float)
    for phase in store.phases(session.experiment.name):
        metrics = session.stores.tracker.metrics(phase.run_id)
        for name in JudgeMetric:
            if name in metrics:
                total[name] += metrics[name]
    return total


def _label_cosines(session: Session, bests: Iterable[BestRow]) -> Iterator[CosineMatrix]:
    """Cosines between the labels of each place, at the layer of its best; a place without vectors has none."""
    # an imported result has no vector in the store
    known = [row for row in bests if row.method is not None and row.vector_digest is not None]
    for model, trait in product(session.experiment.models, session.experiment.traits):
        if rows := [row for row in known if (row.model, row.trait) == (model.name, trait.name)]:
            with suppress(MassactError):  # extracted elsewhere
                vectors = StoredVectors(session, model, trait)
                for position in dict.fromkeys(row.position for row in rows):
                    yield from _matrix(vectors, [row for row in rows if row.position == position])


def _matrix(vectors: StoredVectors, bests: Sequence[BestRow]) -> Iterator[CosineMatrix]:
    top = min(bests, key=ranked)
    labels = sorted(dict.fromkeys(row.label for row in bests), key=_order)[:_MOST_LABELS]
    if top.layer is None or len(labels) < 2:
        return
    with suppress(MassactError, IndexError):  # extracted elsewhere, perhaps from a model of more layers
        of_layer = [vectors.array(top.position, parse_label(label))[top.layer] for label in labels]
        values = tuple(tuple(array_cosine(a, b) for b in of_layer) for a in of_layer)
        yield CosineMatrix(top.model, top.trait, top.position, top.layer, tuple(labels), values)


def _order(label: str) -> tuple[bool, bool, str, int]:
    """The uncleaned first, then those cleaned of all dims, then the others by dims."""
    rank, _, is_all, n_dims = style.legend_order(label)
    return (rank > 0, not is_all, style.method_of(label), n_dims)


_Asked = tuple[str | None, SampleRole, str, str | None]
"""A run to sample, its part in the story, how it steers, and its judge."""


def _samples(
    session: Session, answers: Answers, bests: Iterable[BestRow], baselines: Sequence[Stored[EvaluationRow]]
) -> Iterator[Sample]:
    """Per model and trait the answers to one question of baseline, best and over the cliff, where they were kept."""
    bests = list(bests)
    for model, trait in product(session.experiment.models, session.experiment.traits):
        names = (model.name, trait.name)
        if rows := [row for row in bests if (row.model, row.trait) == names]:
            yield from _of_place(session, answers, baselines, min(rows, key=ranked))
            continue
        unsteered = (baseline for baseline in baselines if (baseline.row.model, baseline.row.trait) == names)
        asked: Iterator[_Asked] = ((stored.run_id, "baseline", "unsteered", stored.row.judge) for stored in unsteered)
        yield from _side_by_side(session, ", ".join(names), asked, None)


def _of_place(
    session: Session, answers: Answers, baselines: Iterable[Stored[EvaluationRow]], top: BestRow
) -> Iterator[Sample]:
    trait = f", {top.trait}" if len(session.experiment.traits) > 1 else ""
    used, floor = answers.evaluations.samples[top.setting or ""], session.experiment.coherence_floor
    unsteered = [baseline.run_id for baseline in baselines if baseline.row.key == used.baseline_key]
    best_run, over = _run_with_responses(answers, top), _over_cliff(answers, top, floor)
    asked: list[_Asked] = [(run_id, "baseline", "unsteered", used.judge) for run_id in unsteered]
    asked.append((best_run, "best", f"coefficient {top.coefficient:g}", used.judge))
    question = None
    if over is not None:
        over_run = _run_with_responses(answers, over)
        asked.append((over_run, "over the cliff", f"coefficient {over.coefficient:g}", used.judge))
        question = _broken(_kept(session, over_run), floor)
    name = f"{top.model}{trait}: {top.label} at {top.position}, layer {top.layer}"
    yield from _side_by_side(session, name, asked, question)


def _broken(responses: Iterable[Response], floor: float) -> str | None:
    """The question whose answer broke as much as the run's answers did on the mean."""
    told = ((r.question, as_floor(floor).of_response(r)) for r in responses)
    scored = [(question, as_floor(floor).measure(value)) for question, value in told if value is not None]
    mean = statistics.fmean(measure for _, measure in scored) if scored else 0.0
    below = ((abs(measure - mean), question) for question, measure in scored if measure < floor)
    return min(below, key=lambda entry: entry[0], default=(0.0, None))[1]


def _kept(session: Session, run_id: str | None) -> list[Response]:
    """What a run kept; nothing where it kept none, which `--save-responses` decides."""
    with suppress(MassactError):
        if run_id is not None:
            return list(read_responses(session.stores.fetch(run_id, Artifact.RESPONSES)))
    return []


def _side_by_side(session: Session, place: str, asked: Iterable[_Asked], question: str | None) -> Iterator[Sample]:
    """Each run's response to one question, else the first that one of them kept."""
    for run_id, role, how, judge in asked:
        if not (responses := _kept(session, run_id)):
            continue
        response = next((response for response in responses if response.question == question), responses[0])
        question = question or response.question
        told: dict[str, Any] = {name: getattr(response, name) for name in _TOLD}
        title = f"{role[0].upper()}{role[1:]}: {how}"
        yield Sample(title=title, run_id=run_id or "", place=place, role=role, judge=judge, **told)


_TOLD = ("question", "response", "trait", "coherence", "thinking", "is_answered")


def _run_with_responses(answers: Answers, result: BestRow | StoredPoint) -> str | None:
    """The run whose responses were scored: of a result that was taken over, that of the other label."""
    if result.same_as is None:
        return result.run_id
    at = (result.layer, result.coefficient, result.delta)
    points = _points(answers, result, result.same_as)
    return next((point.run_id for point in points if (point.layer, point.coefficient, point.delta) == at), None)


def _over_cliff(answers: Answers, best: BestRow, floor: float) -> StoredPoint | None:
    """The smallest coefficient beyond the best, of the same vector, whose text is below the floor."""
    below = (point for point in _points(answers, best, best.label) if is_below_floor(point, floor))
    here = (point for point in below if (point.vector_digest, point.layer) == (best.vector_digest, best.layer))
    beyond = (point for point in here if abs(point.coefficient) > abs(best.coefficient or 0.0))
    return min(beyond, key=lambda point: abs(point.coefficient), default=None)


def _points(answers: Answers, result: BestRow | StoredPoint, label: str) -> Iterable[StoredPoint]:
    """The evaluations of a label where another's result is."""
    place = (result.setting or "", result.model, result.trait, result.position, label)
    return answers.evaluations.by_place.get(place, ())
