"""What a command works with: its experiment, stores, models, datasets and judges, and how it is interrupted."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from massact.config import Experiment, TraitConfig
from massact.data.traits import TraitDataset, dataset_warnings, load_trait
from massact.domain import QuestionSet
from massact.errors import NothingToConfirmError
from massact.evaluation import Progress, silent
from massact.sweep.executors.options import Workload
from massact.sweep.models import Judges, Models
from massact.sweep.stores import Stores

__all__ = ["Session", "Workload"]

Say = Callable[[str], None]
FEW_CONFIRMING = 5
"""Fewer questions than these say little about a winner."""


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
    ) -> None:
        """
        Args:
            say: takes a line about the work (the command line writes it to stderr).
            show: takes a result's text (the command line writes it to stdout).
        """
        self.experiment, self.workload = experiment, workload or Workload()
        self.progress, self.say, self.show = progress, say, show
        self.interruption = Interruption(say)
        self.stores = Stores(experiment, tracking_uri, self.workload, say)
        self.models = Models(experiment, self.stores, self.workload, say)
        self.datasets = Datasets(experiment, say)
        self.judges = Judges(experiment, self.models, self.datasets.of, say=say)


class Datasets:
    """The traits' datasets of one experiment, each read once."""

    def __init__(self, experiment: Experiment, say: Say) -> None:
        self._experiment, self._say = experiment, say
        self._read: dict[str, TraitDataset] = {}
        self._warned_of: set[str] = set()

    def of(self, trait: TraitConfig) -> TraitDataset:
        """A trait's dataset; what is doubtful about it is said the first time."""
        if trait.name not in self._read:
            dataset = load_trait(self._experiment.resolve(trait.dataset))
            for warning in dataset_warnings(dataset, trait.direction):
                self._say(f"warning: {trait.name}: {warning}")
            self._read[trait.name] = dataset
        return self._read[trait.name]

    def questions(self, trait: TraitConfig, subset: int | None = None) -> QuestionSet:
        """The questions that are asked, and that winners are chosen by.

        Raises:
            DataError: there are fewer than the subset, or the split leaves a part without any.
        """
        return self.of(trait).question_set(
            self._experiment.subset if subset is None else subset,
            confirm_share=self._experiment.confirm_share,
        )

    def confirming(self, trait: TraitConfig) -> QuestionSet:
        """The questions that winners are confirmed on.

        Raises:
            NothingToConfirmError: the experiment file keeps none for that.
            DataError: the split leaves a part without questions.
        """
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
            confirm = f"{n} question confirms" if n == 1 else f"{n} questions confirm"
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
        self.signal = int(signal.SIGINT)
        """The last signal that came."""

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
