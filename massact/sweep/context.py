"""What a command works with: its experiment, stores, models, datasets and judges, and how it is interrupted."""

import signal
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING

from massact.config import Experiment, ModelConfig, TraitConfig
from massact.data.traits import TraitDataset, dataset_warnings, load_trait
from massact.domain import CHOICES, QuestionSet
from massact.errors import JudgeError, NothingToConfirmError
from massact.evaluation import Progress, silent
from massact.judges import Usage
from massact.judges.caching import CachingJudge
from massact.query import Answers
from massact.query.load import read_answers
from massact.store.schema import JudgeMetric, MlflowTag, Tag, WorkerMetric
from massact.store.write.finished_run import Step
from massact.store.write.tracker import OpenRun
from massact.sweep.executors import Workload
from massact.sweep.executors.base import WorkerReport
from massact.sweep.stores import Stores
from massact.words import counted

if TYPE_CHECKING:
    from massact.sweep.models import Judges, Models

__all__ = ["Session", "Workload"]

Say = Callable[[str], None]
_LONGEST_WARNING = 300  # characters of what a judge fails in; the tag of the phase's run has all
FEW_CONFIRMING = 5  # fewer questions than these say little about a winner


class Session:
    """One command's work on one experiment file."""

    def __init__(
        self,
        experiment: Experiment,
        tracking_uri: str,
        *,
        workload: Workload | None = None,
        progress: Progress = silent,
        say: Say = lambda _line: None,
        show: Say = lambda _text: None,
        verbose: bool = False,
    ) -> None:
        """`say` takes a line about the work, `show` a result's text: for stderr and stdout. `verbose`: tables and every
        step are told, not only what they come to."""
        self.experiment, self.workload = experiment, workload or Workload()
        self.progress, self.say, self.show, self.verbose = progress, say, show, verbose
        self.interruption = Interruption(say)
        self.stores = Stores(experiment, tracking_uri, self.workload, say)
        self.datasets = Datasets(experiment, say)
        if self.workload.ray is not None or self.workload.executor != "local":
            self.models  # noqa: B018  an executor elsewhere may hold results that no store has yet

    @cached_property
    def models(self) -> "Models":
        """The models and who runs cells with them; the first use loads torch."""
        from massact.sweep.models import Models

        return Models(self.experiment, self.stores, self.workload, self.say)

    @cached_property
    def judges(self) -> "Judges":
        """The judges of the traits."""
        from massact.sweep.models import Judges

        return Judges(self.experiment, self.models, self.datasets.of, say=self.say)

    @property
    def usage(self) -> Usage:
        """What all judges of this command were asked."""
        return self.judges.usage if "judges" in vars(self) else Usage()

    @property
    def reports(self) -> Sequence[WorkerReport]:
        """What each of the executor's workers did."""
        return self.models.executor.reports if "models" in vars(self) else ()

    def detail(self, line: str) -> None:
        """Say a step of the work, where every step is told."""
        if self.verbose:
            self.say(line)

    def tell(self, text: str, brief: str) -> None:
        """Show a result's tables where they are wanted, and what they come to; nothing where that is empty."""
        for part in (text if self.verbose else "", brief):
            if part:
                self.show(part)


class Datasets:
    """The traits' datasets of one experiment, each read once."""

    def __init__(self, experiment: Experiment, say: Say) -> None:
        self._experiment, self._say = experiment, say
        self._read: dict[str, TraitDataset] = {}
        self._warned_of: set[str] = set()

    def of(self, trait: TraitConfig) -> TraitDataset:
        """A trait's dataset; what is doubtful about it is said the first time."""
        if trait.name not in self._read:
            is_chosen = self._experiment.judge.kind == CHOICES
            dataset = load_trait(self._experiment.resolve(trait.dataset), has_choices=is_chosen)
            for warning in dataset_warnings(dataset, trait.direction):
                self._say(f"warning: {trait.name}: {warning}")
            self._read[trait.name] = dataset
        return self._read[trait.name]

    def questions(self, trait: TraitConfig, subset: int | None = None) -> QuestionSet:
        """The questions that are asked, and that winners are chosen by."""
        return self.of(trait).question_set(
            self._experiment.subset if subset is None else subset, confirm_share=self._experiment.confirm_share
        )

    def confirming(self, trait: TraitConfig) -> QuestionSet:
        """The questions that winners are confirmed on; NothingToConfirmError where the experiment file keeps none."""
        share = self._experiment.confirm_share
        if share is None:
            raise NothingToConfirmError(
                f"{self._experiment.file} keeps no questions for confirming: declare `questions: {{confirm: 0.4}}` or "
                "another share at its top level, evaluate on the questions that are left for choosing (massact main, "
                "or its phases), then run massact confirm"
            )
        questions = self.of(trait).confirming_set(share)
        n = len(questions.questions)
        if n < FEW_CONFIRMING and trait.name not in self._warned_of:
            self._warned_of.add(trait.name)
            confirm = counted(n, "question confirms", "questions confirm")
            self._say(
                f"warning: {trait.name}: only {confirm}, which tells little: raise questions.confirm, or add questions"
            )
        return questions


_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The work was interrupted; the text says what was done and how to go on."""


class Interruption:
    """Counts the interruptions of a command, and says what each of them ends."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._is_finishing = False
        self.count = 0
        self.signal = int(signal.SIGINT)  # the last signal that came

    @property
    def is_requested(self) -> bool:
        """Whether no new cells are to be begun."""
        return self.count > 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take the signals for as long as the block runs. Outside the main thread it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # one that is ignored, as in a job that a shell put into the background, stays ignored
        before = {n: signal.getsignal(n) for n in _NUMBERS}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        try:
            yield
        finally:
            # once it was interrupted the command ends with a code of its own, which one more must not change
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if self.count else handler)

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """While the block runs a first interruption is only noted: the block looks at `is_requested` itself."""
        self._is_finishing = True
        try:
            yield
        finally:
            self._is_finishing = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.signal = number
        if self.count > 1 or not self._is_finishing:
            raise Interrupted("interrupted: what was finished is kept; run the same command again to go on")
        try:
            self._say("interrupted: finishing the cells in hand; once more stops at once")
        except RuntimeError:
            return  # it came while a line was being written, and the stream takes no second one within it


# The run of a phase: what its answers rest on, and what its work took of the judge and of each worker.


def ready_judge(session: Session, run: OpenRun, trait: TraitConfig, model: ModelConfig) -> CachingJudge:
    """The experiment's judge, loaded and checked; a warning and a tag tell where it fails its canaries. Raises
    JudgeError where it leaves most unscored and is not forced to go on."""
    config, judge = session.experiment.judge, session.judges.of(trait, model)
    judge.prepare()
    session.judges.tell_note(judge)
    failures = session.judges.failures(config, judge)
    short = textwrap.shorten(failures, _LONGEST_WARNING, placeholder=" …")
    if (n := session.judges.is_mute(judge)) and not session.workload.force:
        raise JudgeError(
            f"the judge {config.name} leaves {n} canaries unscored ({short}): nothing is evaluated with it; massact "
            "judge-check shows what it makes of each, --force evaluates all the same"
        )
    if failures and session.judges.is_news(failures):
        session.say(
            f"warning: the judge {config.name} fails canaries ({short}): its scores may mean little; see massact "
            "judge-check"
        )
    all_failures = session.judges.all_failures
    session.stores.tracker.set_tag(run, Tag.JUDGE_CHECK, f"failed: {all_failures}" if all_failures else "passed")
    return judge


def phase_params(session: Session) -> dict[str, object]:
    """Params of every entry point's run: what its answers rest on."""
    experiment = session.experiment
    return {
        "experiment": experiment.name,
        "experiment_file": experiment.file,
        "judge": experiment.judge.name,
        "coherence_floor": f"{experiment.coherence_floor:g}",
        "max_new_tokens": experiment.generation.max_new_tokens,
    }


@contextmanager
def open_phase(
    session: Session,
    name: str,
    parent: OpenRun | None = None,
    params: Mapping[str, object] | None = None,
    *,
    say: bool = True,
) -> Iterator[OpenRun]:
    """The run of an entry point; what judges and workers did is kept on it and, with `say`, told."""
    with session.stores.tracker.phase(name, parent=parent, params={**phase_params(session), **(params or {})}) as run:
        used = session.usage
        reports = {report.number: report for report in session.reports}
        logs: tuple[Callable[[], None], ...] = (
            lambda: _log_workers(session, run, reports, say=say),
            lambda: _log_judging(session, run, session.usage - used, say=say),
        )
        try:
            yield run
        except BaseException:
            # what went wrong may be the store, which is not waited for twice
            session.stores.patience.is_under_way = False
            for log in logs:
                with suppress(Exception):
                    log()
            raise
        for log in logs:
            log()


def keep_outcome(
    session: Session, run: OpenRun, name: str, verdicts: Mapping[str, str], text: str, files: Mapping[str, bytes] = {}
) -> None:
    """Keep what a phase came to on its run: as its note, as NAME.md, and its verdicts as tags."""
    tracker = session.stores.tracker
    tracker.set_tag(run, MlflowTag.NOTE, text)
    for verdict, said in verdicts.items():
        tracker.set_tag(run, f"{Tag.VERDICT}.{verdict}", said)
    with tracker.artifacts(run) as folder:
        for path, content in {f"{name}.md": f"{text}\n".encode(), **files}.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)


def _log_judging(session: Session, run: OpenRun, used: Usage, *, say: bool) -> None:
    if used == Usage():
        return
    prices = session.experiment.judge.prices
    cost = None if prices is None else used.cost(prompt=prices.prompt, completion=prices.completion)
    if say:
        parts = [counted(used.calls, "judge call")]
        if used.prompt_tokens or used.completion_tokens:
            parts.append(f"{used.prompt_tokens:,} + {used.completion_tokens:,} tokens")
        if cost is not None:
            parts.append(f"{cost:.4f} USD")
        before = counted(used.cached, "response was", "responses were")
        session.detail(f"{', '.join(parts)}; {before} judged before")
    metrics = {
        JudgeMetric.CALLS: used.calls,
        JudgeMetric.PROMPT_TOKENS: used.prompt_tokens,
        JudgeMetric.COMPLETION_TOKENS: used.completion_tokens,
        JudgeMetric.CACHED: used.cached,
        JudgeMetric.COST: cost,
    }
    known = {name.value: float(value) for name, value in metrics.items() if value is not None}
    session.stores.tracker.log(run, metrics=known)


def _log_workers(session: Session, run: OpenRun, before: Mapping[int, WorkerReport], *, say: bool) -> None:
    since = (_since(before.get(report.number), report) for report in session.reports)
    if not (reports := [report for report in since if report.present_seconds > 0]):
        return
    steps, text = [step for report in reports for step in _steps(report)], _text(reports)
    session.stores.tracker.log(run, metrics={WorkerMetric.WORKERS.value: float(len(reports))}, steps=steps)
    session.stores.tracker.set_tag(run, Tag.EXECUTOR, f"ray: {text}")
    if say:
        session.say(text)


def _since(before: WorkerReport | None, after: WorkerReport) -> WorkerReport:
    if before is None:
        return after
    figures = ("cells", "tokens", "busy_seconds", "present_seconds")
    since = {name: getattr(after, name) - getattr(before, name) for name in figures}
    return replace(after, is_lost=after.is_lost and not before.is_lost, **since)


def _steps(worker_report: WorkerReport) -> list[Step]:
    values = {
        WorkerMetric.CELLS: worker_report.cells,
        WorkerMetric.CELL_RATE: worker_report.cells / worker_report.present_seconds,
        WorkerMetric.SPEED: worker_report.tokens / worker_report.present_seconds,
        WorkerMetric.UTILISATION: min(1.0, worker_report.busy_seconds / worker_report.present_seconds),
        WorkerMetric.LOST: worker_report.is_lost,
    }
    return [Step(name.value, float(value), worker_report.number) for name, value in values.items()]


def _text(reports: Sequence[WorkerReport]) -> str:
    n, n_nodes = len(reports), len({report.node for report in reports if report.node})
    busy = sum(report.busy_seconds for report in reports) / sum(report.present_seconds for report in reports)
    n_lost, n_cells = sum(report.is_lost for report in reports), sum(report.cells for report in reports)
    lost = f", {n_lost} of them lost" if n_lost else ""
    where = f"{counted(n, 'worker')} on {counted(n_nodes, 'machine')}{lost}"
    return f"{where}: {counted(n_cells, 'cell')}, busy {min(1.0, busy):.0%} of the time"


def load_answers(
    session: Session, phase: str | None = None, *, with_scores: bool = False, with_confirmations: bool = False
) -> Answers:
    """What the store holds, with the declared matrix of one phase or of all; perhaps with scores and confirmations."""
    experiment = session.experiment
    with session.stores.read() as store:
        answers = read_answers(store, experiment, phase)
        if with_scores:
            answers = answers.with_scores(store, experiment.coherence_floor)
        if with_confirmations:
            answers = answers.with_confirmations(store, experiment.name, experiment.coherence_floor)
    return answers
