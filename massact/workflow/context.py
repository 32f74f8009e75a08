"""What the phases of one command share: the experiment, its stores, and the one model in memory."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from massact.config import Experiment, JudgeConfig, ModelConfig, TraitConfig, VariantConfig
from massact.data.checks import dataset_warnings
from massact.data.traits import TraitDataset, load_trait
from massact.domain import QuestionSet
from massact.errors import MassactError, MissingPrerequisiteError, NothingToConfirmError, StoreError
from massact.judges import Judge, Subject
from massact.judges.caching import CachingJudge
from massact.judges.local import ModelSource
from massact.models.load import Description, SteerableModel, describe, read_description
from massact.models.source import former_revision
from massact.progress import Progress, silent
from massact.query.load import declared_by_data
from massact.store.read import RunStore, open_store
from massact.store.read.base import NoRuns
from massact.store.read.contents import is_absent, stored_runs
from massact.store.read.reader import StoreReader
from massact.store.schema import Kind
from massact.store.spool import DEFAULT_SPOOL, Spool, send_leftovers
from massact.store.write.artifacts import fetch_from
from massact.store.write.retry import Patience, StoreLostError, is_unreadable, uninterrupted
from massact.store.write.tracker import OpenRun, Tracker
from massact.sweep import executors
from massact.sweep.claims import Sharing
from massact.sweep.executors.base import Executor, JudgeUse, Loaded, ModelUse, Opening
from massact.sweep.executors.options import CommandContext, Workload
from massact.sweep.generating import load_use
from massact.sweep.interrupt import Interruption
from massact.workflow.judges import Elsewhere, Judges

# Which executor a command runs its cells with.

Say = Callable[[str], None]


def open_executor(
    workload: Workload,
    tracking_uri: str,
    experiment: Experiment,
    *,
    load: Callable[[ModelUse], SteerableModel],
    spool: Callable[[], Spool],
    say: Say,
) -> Executor:
    """The executor that a workload asks for; nothing is started before cells are to be run.

    Raises:
        UsageError: what it needs is not installed.
    """
    context = CommandContext(
        tracking_uri=tracking_uri,
        experiment=experiment.name,
        spool=workload.spool.absolute(),
        key_variable=experiment.judge.api_key_env,
    )
    name = "ray" if workload.ray is not None else workload.executor
    opening = Opening(context, load=load, spool=spool, say=say, ray=workload.ray)
    return executors.open_executor(name, opening)


def remote_judge(
    executor: Executor, model_use: Callable[[ModelConfig, VariantConfig], ModelUse]
) -> Elsewhere:
    """What puts a process of the executor's in the place of a judge, where it has any for that."""

    def elsewhere(
        judge: Judge, config: JudgeConfig, subject: Subject, model: ModelConfig | None, cache: Path | None
    ) -> Judge:
        use = JudgeUse(
            config=config,
            model=subject.resolve(config.model) if config.model else "",
            definition=subject.definition,
            eval_prompt=subject.eval_prompt,
            steered=None if model is None else model_use(model, model.instruct),
            identity=judge.identity,
            cache=None if cache is None else cache.absolute(),
        )
        return executor.judge(use) or judge

    return elsewhere


# Reading the run store with patience: once work is under way, a store that is down is asked again.


class _PatientStore:
    """Passes every reading on to a store that it opens, and opens anew after a failure."""

    def __init__(self, tracking_uri: str, patience: Patience) -> None:
        self._uri, self._patience = tracking_uri, patience
        self._store: RunStore | None = None
        self._warnings: list[str] = []
        self._patience.ask(uninterrupted(self._open), is_outage=is_unreadable)

    @property
    def warnings(self) -> list[str]:
        return [*self._warnings, *(self._store.warnings if self._store else [])]

    def close(self) -> None:
        if self._store is not None:
            self._warnings += self._store.warnings
            self._store.close()
        self._store = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def read(*args: Any, **kwargs: Any) -> Any:
            reading = uninterrupted(lambda: self._read(name, args, kwargs))
            return self._patience.ask(reading, is_outage=is_unreadable)

        return read

    def _read(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return getattr(self._open(), name)(*args, **kwargs)
        except Exception:
            self.close()
            raise

    def _open(self) -> RunStore:
        if self._store is None:
            is_none = not self._patience.is_under_way and is_absent(self._uri)
            self._store = StoreReader(NoRuns()) if is_none else open_store(self._uri)
        return self._store


def open_patient_store(tracking_uri: str, patience: Patience) -> RunStore:
    """The run store at a tracking URI, read with patience; one that is not there yet holds nothing.

    Raises:
        StoreError: as `massact.store.read.open_store`.
    """
    return cast(RunStore, _PatientStore(tracking_uri, patience))


def artifact_places(tracking_uri: str, experiment: str) -> dict[str, str]:
    """By run id, where the artifacts of each calibration and extraction lie."""
    return {
        run.run_id: run.artifact_uri
        for kind in (Kind.CALIBRATION, Kind.EXTRACTION)
        for run in stored_runs(tracking_uri, experiment, kind, tags=())
    }


__all__ = ["Session", "Workload"]
PARTING_SECONDS = 30.0
"""How long an ending command waits for the spools of other machines."""
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
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self.workload = workload or Workload()
        self.progress = progress
        self.say = say
        self.show = show
        self.patience = Patience(self.workload.store_timeout, say=say)
        self.interruption = Interruption(say)
        self.is_dry = False
        """Whether nothing is to be written, and no weights loaded."""
        self._places: dict[str, str] | None = None
        self._spool: Spool | None = None
        self._executor: Executor | None = None
        self._sharing: Sharing | None = None
        self._has_sent_leftovers = False
        self._loaded: tuple[object, SteerableModel] | None = None
        self._described: dict[tuple[str, str], Description] = {}
        self._datasets: dict[str, TraitDataset] = {}
        self._warned_of: set[str] = set()

    @cached_property
    def tracker(self) -> Tracker:
        """The writer; the first use creates the store where there is none."""
        return Tracker(
            self.tracking_uri,
            self.experiment.name,
            description=self.experiment.description,
            floor=self.experiment.coherence_floor,
            patience=self.patience,
            declared=declared_by_data(self.experiment),
            say=self.say,
        )

    @property
    def spool(self) -> Spool:
        """Where finished evaluations go; the first use makes the folder.

        Raises:
            SpoolFolderError: it cannot be made or written to.
        """
        if self._spool is None:
            self._spool = Spool(self.workload.spool, self.tracking_uri, self.experiment.name, say=self.say)
        return self._spool

    def sharing(self, run: OpenRun) -> Sharing:
        """What this command and others at once have taken, under the run of the phase that is at work."""
        if self._sharing is None or self._sharing.run_id != run.run_id:
            self._end_sharing()
            self._sharing = Sharing(self.tracker, run, patience=self.patience, say=self.say)
        return self._sharing

    def _end_sharing(self) -> None:
        if self._sharing is not None:
            self._sharing.close()

    def send_leftovers(self) -> None:
        """Send what earlier commands left in the spool for this store, so that it is not evaluated again.

        Raises:
            StoreError: the store does not take all of it.
        """
        if self._has_sent_leftovers:
            return
        reports = send_leftovers(self.workload.spool, self.tracking_uri, say=self.say, only_here=True)
        left = sum(one.left - len(one.refused) for one in reports) + self.executor.send_leftovers()
        if left > 0:
            raise StoreError(
                f"{left} evaluations of earlier commands wait in {self.workload.spool} and cannot be sent now: see "
                "massact sync, or name another folder with --spool to evaluate those cells again"
            )
        self._has_sent_leftovers = True

    def settle(self) -> None:
        """Wait until the store has what was evaluated so far.

        Raises:
            StoreLostError: it did not take all of it in time.
        """
        timeout = self.workload.store_timeout
        began = time.monotonic()
        left = 0 if self._executor is None else self._executor.settle(timeout)
        if self._spool is not None:
            left += self._spool.flush(max(0.0, timeout - (time.monotonic() - began)))
        # what the store refused is left too, but not waited for; the spool tells of it when it is closed
        if left and time.monotonic() - began >= timeout:
            raise StoreLostError(
                f"{left} evaluations wait in {self.workload.spool}: the tracking store did not take them within "
                f"{timeout:g} s; massact sync sends them when it does again"
            )

    def close(self) -> int:
        """Send what can be sent in a few seconds, and let go of the spool. Returns how many evaluations wait there."""
        left = 0
        self._end_sharing()
        try:
            left = 0 if self._executor is None else self._executor.close(PARTING_SECONDS)
        finally:
            left += 0 if self._spool is None else self._spool.close()
        return left

    def close_after(self, _error: BaseException) -> None:
        """The same after an error, which what goes wrong now must not hide."""
        try:
            self.close()
        except MassactError as second:
            self.say(f"error: {second}")

    def abandon(self) -> None:
        """Let go of workers and of the spool at once: what was evaluated is on the disk."""
        self._end_sharing()
        if self._executor is not None:
            self._executor.abandon()
        if self._spool is not None:
            self._spool.abandon()

    def fetch(self, run_id: str, path: str) -> Path:
        """An artifact on this machine.

        Raises:
            StoreError: the run holds no such artifact, or it cannot be had.
        """
        if not self.is_dry:
            return self.tracker.fetch(run_id, path)
        if self._places is None:
            self._places = artifact_places(self.tracking_uri, self.experiment.name)
        return fetch_from(self._places[run_id], path, tracking_uri=self.tracking_uri)

    @contextmanager
    def store(self) -> Iterator[RunStore]:
        """The reader, of a store that has all that was evaluated. It is there once a run was opened."""
        self.settle()
        store = open_patient_store(self.tracking_uri, self.patience)
        try:
            yield store
            for warning in store.warnings:
                self.say(f"warning: {warning}")
        finally:
            store.close()

    @property
    def executor(self) -> Executor:
        """Who runs cells; nothing is started before cells are to be run."""
        if self._executor is None:
            self._executor = open_executor(
                self.workload,
                self.tracking_uri,
                self.experiment,
                load=self.load,
                spool=lambda: self.spool,
                say=self.say,
            )
        return self._executor

    def model_use(self, config: ModelConfig, variant: VariantConfig) -> ModelUse:
        """A variant as it is loaded."""
        resolve = self.experiment.resolve
        adapter = self.experiment.resolve_adapter(variant)
        return ModelUse(resolve(variant.reference), variant.revision, adapter, config.load)

    def model(self, config: ModelConfig, variant: VariantConfig) -> SteerableModel:
        """A variant, loaded in this process."""
        model = self.load(self.model_use(config, variant))
        self._described[config.name, variant.name] = describe(model)
        self._note_former_results(config.name, model.identity.revision)
        return model

    def load(self, use: ModelUse) -> SteerableModel:
        """A model in this process. One is kept in memory: asking for another lets the first go."""
        if self._loaded is None or self._loaded[0] != use:
            self._loaded = None
            self.say(f"loading {use.reference}")
            self._loaded = (use, load_use(use))
        return self._loaded[1]

    def loaded(self, config: ModelConfig, variant: VariantConfig) -> Loaded:
        """What a variant says of itself where cells are evaluated, once it is loaded there."""
        if self.workload.ray is not None:
            self._loaded = None  # the workers may share its device
        found = self.executor.loaded(self.model_use(config, variant))
        self._described[config.name, variant.name] = found.description
        if found.unused_settings and config.name not in self._warned_of:
            self._warned_of.add(config.name)
            self.say(
                f"note: {config.name}: its generation_config.json asks for {found.unused_settings}, which is not used: "
                "`generation` in the experiment file alone says how responses are generated (temperature 0 is greedy)"
            )
        return found

    def description(self, config: ModelConfig, variant: VariantConfig) -> Description:
        """What identifies a variant, without loading it where its files tell."""
        wanted = (config.name, variant.name)
        if wanted not in self._described:
            use = self.model_use(config, variant)
            found = read_description(
                use.reference, revision=use.revision, adapter=use.adapter, options=use.options
            )
            if found is None and self.is_dry:
                raise MissingPrerequisiteError(f"only the weights of {variant.reference} tell its dtype")
            self._described[wanted] = found or self.loaded(config, variant).description
            self._note_former_results(config.name, self._described[wanted].identity.revision)
        return self._described[wanted]

    def _note_former_results(self, name: str, revision: str) -> None:
        """Say, once, where the store has results from when less of a local folder identified its model.

        Args:
            name: the model's in the experiment file, or the judge's.
            revision: that of the model, or of the judge's.
        """
        former = former_revision(revision)
        if former == revision or revision in self._warned_of or is_absent(self.tracking_uri):
            return
        self._warned_of.add(revision)
        experiment = self.experiment.name
        with self.store() as store:
            stages = [
                one for kind in (Kind.CALIBRATION, Kind.EXTRACTION) for one in store.stages(kind, experiment)
            ]
            stored = {one.row.model_revision for one in stages}
            for one in store.baselines(experiment):
                stored |= {one.row.model_revision, one.row.judge_model}
        if former in stored:
            self.say(
                f"note: {name}: the store has results of these weights from before generation settings, tokenizer and "
                "templates of a local folder counted as well. Nothing tells whether those files were the same then, so "
                "that they are kept, apart, as another setting's (docs/design/cell-identity.md)"
            )

    def dataset(self, trait: TraitConfig) -> TraitDataset:
        """A trait's dataset, read once."""
        if trait.name not in self._datasets:
            dataset = load_trait(self.experiment.resolve(trait.dataset))
            for warning in dataset_warnings(dataset, trait.direction):
                self.say(f"warning: {trait.name}: {warning}")
            self._datasets[trait.name] = dataset
        return self._datasets[trait.name]

    def questions(self, trait: TraitConfig, subset: int | None = None) -> QuestionSet:
        """The questions that are asked, and that winners are chosen by.

        Raises:
            DataError: there are fewer than the subset, or the split leaves a part without any.
        """
        return self.dataset(trait).question_set(
            self.experiment.subset if subset is None else subset, confirm_share=self.experiment.confirm_share
        )

    def confirming_questions(self, trait: TraitConfig) -> QuestionSet:
        """The questions that winners are confirmed on.

        Raises:
            NothingToConfirmError: the experiment file keeps none for that.
            DataError: the split leaves a part without questions.
        """
        share = self.experiment.confirm_share
        if share is None:
            raise NothingToConfirmError(
                f"{self.experiment.file} keeps no questions for confirming: declare `questions: {{confirm: 0.4}}` or "
                "another share at its top level, evaluate on the questions that are left for choosing (massact main, "
                "or its phases), then run massact confirm"
            )
        found = self.dataset(trait).confirming_set(share)
        n = len(found.questions)
        if n < FEW_CONFIRMING and trait.name not in self._warned_of:
            self._warned_of.add(trait.name)
            one = f"{n} question confirms" if n == 1 else f"{n} questions confirm"
            self.say(
                f"warning: {trait.name}: only {one}, which tells little: raise questions.confirm, or add questions"
            )
        return found

    @cached_property
    def judges(self) -> Judges:
        """The judges of this command."""
        return Judges(
            self.experiment,
            folder=Path(DEFAULT_SPOOL).parent,
            dataset=self.dataset,
            steered=lambda config: ModelSource(
                lambda: self.description(config, config.instruct), lambda: self.model(config, config.instruct)
            ),
            say=self.say,
            elsewhere=remote_judge(self.executor, self.model_use),
        )

    def judge(self, trait: TraitConfig, model: ModelConfig | None = None) -> CachingJudge:
        """The experiment's judge for a trait and the model whose responses it judges; see `Judges.of`."""
        judge = self.judges.of(self.experiment.judge, trait, model)
        self._note_former_results(judge.identity.id, judge.identity.model)
        return judge
