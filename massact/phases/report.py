"""The report phase: everything the store holds of an experiment, as a page, as Markdown, and on a run."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from massact.names import file_name
from massact.phases.geometry import pair_cosines
from massact.phases.grid import load_answers
from massact.phases.report_facts import label_cosines, provenance, vector_facts
from massact.phases.samples import pick_samples
from massact.phases.session import Session
from massact.phases.steps import phase_params
from massact.report import Report, ReportInput, build_report
from massact.report.findings import read_for_findings, write_findings
from massact.schema import Artifact, Kind, MlflowTag, Tag
from massact.toy import is_toy
from massact.tracking.stages import read_calibration
from massact.tracking.tracker import OpenRun
from massact.tracking.views import UI_ADDRESS
from massact.vectors.massive import Calibration


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
    tracker = session.tracker
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
    with session.store() as store:
        baselines = store.baselines(experiment.name)
        whole = [one.row for one in store.evaluations(experiment.name)]
        published = tuple(one.row for one in store.published(experiment.name))
        facts = provenance(session, store, whole, len(answers.failures))
        stages = {one.row.model: one for one in store.stages(Kind.CALIBRATION, experiment.name)}
    address = session.tracking_uri.rstrip("/") if session.tracking_uri.startswith("http") else UI_ADDRESS
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
    return read_calibration(session.tracker.fetch(run_id, Artifact.CALIBRATION))
