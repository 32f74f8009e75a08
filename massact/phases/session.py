"""What the phases of one command share: the experiment, its stores, and the one model in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from massact.config import Experiment, ModelConfig, TraitConfig, VariantConfig
from massact.domain import QuestionSet
from massact.judges import Judge, open_judge
from massact.models.load import SteerableModel, load_model
from massact.pipeline.dataset import TraitDataset, load_trait
from massact.pipeline.progress import Progress, silent
from massact.store import RunStore, open_store
from massact.tracking.tracker import Tracker

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Workload:
    """How work is done, none of which changes a result."""

    batch_rows: int = 256
    """Responses generated side by side at most."""
    save_responses: str = "all"
    """`all`, `best` (those that were the best of their group when they were made) or `none`."""
    max_rounds: int = 3
    """How often a phase goes back to fill the gaps that remain."""


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
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self.workload = workload or Workload()
        self.progress = progress
        self.say = say
        self.show = show
        self._loaded: tuple[object, SteerableModel] | None = None
        self._judges: dict[str, Judge] = {}
        self._datasets: dict[str, TraitDataset] = {}

    @cached_property
    def tracker(self) -> Tracker:
        """The writer; the first use creates the store where there is none."""
        return Tracker(
            self.tracking_uri,
            self.experiment.name,
            description=self.experiment.description,
            floor=self.experiment.coherence_floor,
        )

    @contextmanager
    def store(self) -> Iterator[RunStore]:
        """The reader. The store is there once a run was opened."""
        store = open_store(self.tracking_uri)
        try:
            yield store
            for warning in store.warnings:
                self.say(f"warning: {warning}")
        finally:
            store.close()

    def model(self, config: ModelConfig, variant: VariantConfig) -> SteerableModel:
        """A loaded variant. One is kept in memory: asking for another lets the first go."""
        wanted = (config.name, variant.name)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None
            self.say(f"loading {variant.reference}")
            model = load_model(
                self.experiment.resolve(variant.reference),
                revision=variant.revision,
                dtype=config.dtype,
                device=config.device,
            )
            self._loaded = (wanted, model)
        return self._loaded[1]

    def dataset(self, trait: TraitConfig) -> TraitDataset:
        """A trait's dataset, read once."""
        if trait.name not in self._datasets:
            self._datasets[trait.name] = load_trait(self.experiment.resolve(trait.dataset))
        return self._datasets[trait.name]

    def questions(self, trait: TraitConfig, subset: int | None = None) -> QuestionSet:
        """The questions that are asked."""
        return self.dataset(trait).question_set(self.experiment.subset if subset is None else subset)

    def judge(self, trait: TraitConfig) -> Judge:
        """The experiment's judge for a trait."""
        if trait.name not in self._judges:
            dataset = self.dataset(trait)
            self._judges[trait.name] = open_judge(
                self.experiment.judge, definition=dataset.definition, eval_prompt=dataset.eval_prompt
            )
        return self._judges[trait.name]
