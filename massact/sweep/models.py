"""The models of one command with the executor that uses them, and its judges, checked by canaries before a sweep."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from massact.config import ChatConfig, Experiment, JudgeConfig, ModelConfig, TraitConfig, VariantConfig
from massact.config.judges import CACHE_OFF
from massact.data.prompt_files import read_side
from massact.data.traits import TraitDataset
from massact.domain import CHOICES, DEFAULT_SPOOL
from massact.errors import ConfigError, MissingPrerequisiteError
from massact.judges import Judge, ModelSource, Subject, Usage, canaries, open_judge
from massact.judges.caching import CACHE_FILE, CachingJudge, JudgeCache, identity_digest
from massact.judges.canaries import CanaryResult
from massact.models.load import Description, SteerableModel, describe, read_description, read_notes
from massact.plugins import load_plugin
from massact.sweep.executors import CommandContext, RayOptions, Workload
from massact.sweep.executors.base import Executor, JudgeUse, Loaded, ModelUse, Opening
from massact.sweep.executors.local import LocalExecutor, load_use
from massact.sweep.stores import Stores
from massact.toy import is_toy

Say = Callable[[str], None]


class Models:
    """The models of one command: who evaluates cells with them, and the one in this process's memory."""

    def __init__(self, experiment: Experiment, stores: Stores, workload: Workload, say: Say) -> None:
        self._experiment, self._stores, self._workload, self._say = experiment, stores, workload, say
        self._loaded: tuple[object, SteerableModel] | None = None
        self._described: dict[tuple[str, str], Description] = {}
        self._warned_of: set[str] = set()
        self.executor = stores.executor = self._open_executor()
        """Runs cells; nothing is started before cells are to be run."""

    def _open_executor(self) -> Executor:
        """Who evaluates cells."""
        stores, workload = self._stores, self._workload
        name, key_variable = self._experiment.name, self._experiment.judge.api_key_env
        context = CommandContext(stores.tracking_uri, name, workload.spool.absolute(), key_variable)
        if workload.ray is not None or workload.executor == "ray":
            from massact.sweep.executors.ray.executor import RayExecutor

            options = workload.ray or RayOptions()
            return RayExecutor(options, context, spool=lambda: stores.spool, say=self._say)
        if workload.executor == "local":
            return LocalExecutor(self.load, lambda: stores.spool)
        opening = Opening(context, load=self.load, spool=lambda: stores.spool, say=self._say)
        executor: Executor = load_plugin("executors", workload.executor)(opening)
        return executor

    def use(self, config: ModelConfig, variant: VariantConfig) -> ModelUse:
        """A variant as it is loaded; how a model is asked is said of the one that is steered."""
        resolve, adapter = self._experiment.resolve, self._experiment.resolve_adapter(variant)
        options = config.load if variant == config.instruct else replace(config.load, chat=ChatConfig())
        return ModelUse(resolve(variant.reference), variant.revision, adapter, options)

    def get(self, config: ModelConfig, variant: VariantConfig) -> SteerableModel:
        """A variant, loaded in this process."""
        model = self.load(self.use(config, variant))
        self._described[config.name, variant.name] = describe(model)
        return model

    def load(self, use: ModelUse) -> SteerableModel:
        """A model in this process. One is kept in memory: asking for another lets the first go."""
        if self._loaded is None or self._loaded[0] != use:
            self._loaded = None
            if (line := f"loading {self._named(use)}") not in self._warned_of:  # one is loaded again for each phase
                self._warned_of.add(line)
                self._say(line)
            self._loaded = (use, load_use(use))
        return self._loaded[1]

    def _named(self, use: ModelUse) -> str:
        """What the experiment file calls it; of a judge's model the reference."""
        named = (
            f"{model.name} ({variant.name})"
            for model in self._experiment.models
            for variant in (model.instruct, model.base)
            if self.use(model, variant) == use
        )
        return next(named, use.reference)

    def loaded(self, config: ModelConfig, variant: VariantConfig) -> Loaded:
        """What a variant says of itself where cells are evaluated, once it is loaded there."""
        if self._workload.ray is not None:
            self._loaded = None  # the workers may share its device
        loaded = self.executor.loaded(self.use(config, variant))
        self._described[config.name, variant.name] = loaded.description
        self._say_notes(config.name, loaded.description.notes)
        if loaded.unused_settings and config.name not in self._warned_of:
            self._warned_of.add(config.name)
            self._say(
                f"note: {config.name}: its generation_config.json asks for {loaded.unused_settings}, which is not "
                "used: `generation` in the experiment file alone says how responses are generated (temperature 0 is "
                "greedy)"
            )
        return loaded

    def description(self, config: ModelConfig, variant: VariantConfig) -> Description:
        """What identifies a variant, without loading it where its files tell."""
        names = (config.name, variant.name)
        if names not in self._described:
            use = self.use(config, variant)
            described = read_description(use.reference, revision=use.revision, adapter=use.adapter, options=use.options)
            if described is None and self._stores.is_dry:
                raise MissingPrerequisiteError(f"only the weights of {variant.reference} tell its dtype")
            self._described[names] = described or self.loaded(config, variant).description
        return self._described[names]

    def tell_way(self, config: ModelConfig) -> None:
        """Say what there is to know of how a model is steered, without loading it."""
        use = self.use(config, config.instruct)
        self._say_notes(config.name, read_notes(use.reference, use.revision, options=use.options))

    def _say_notes(self, name: str, notes: Iterable[str]) -> None:
        for note in notes:
            if (line := f"note: {name}: {note} (docs/models.md)") not in self._warned_of:
                self._warned_of.add(line)
                self._say(line)


class Judges:
    """Opens judges for the traits of one experiment."""

    def __init__(
        self, experiment: Experiment, models: Models, dataset: Callable[[TraitConfig], TraitDataset], *, say: Say
    ) -> None:
        """`models` are for the judge `self`."""
        self._experiment, self._models, self._dataset, self._say = experiment, models, dataset, say
        self._open: dict[tuple[JudgeConfig, str, str], CachingJudge] = {}
        self._caches: dict[Path, JudgeCache] = {}
        self._failures: dict[str, str] = {}
        self._mute: dict[str, str] = {}  # how many canaries a judge left unscored where most were, else nothing
        self._told: set[str] = set()

    def of(
        self, trait: TraitConfig, model: ModelConfig | None = None, *, config: JudgeConfig | None = None
    ) -> CachingJudge:
        """A judge for a trait, asked about equal text once; without a `config` the experiment's. Whose responses are
        judged, the `model`, matters to the judge `self` alone."""
        config = config or self._experiment.judge
        if not config.reads_steered:
            model = None
        elif model is None and len(self._experiment.models) > 1:
            raise ConfigError("the judge self is the steered model: name the model whose responses it is to judge")
        else:
            model = model or self._experiment.models[0]
        wanted = (config, trait.name, model.name if model else "")
        if wanted not in self._open:
            dataset, models = self._dataset(trait), self._models
            steered = None
            if model is not None:
                about = (model, model.instruct)
                steered = ModelSource(partial(models.description, *about), partial(models.get, *about))
            subject = Subject(
                dataset.definition,
                dataset.eval_prompt,
                trait=trait.name,
                questions=dataset.questions,
                sides=contrasts(dataset) if config.parts[0].kind == "classifier" else ((), ()),
                folder=str(self._experiment.file.parent.resolve()),
                steered=steered,
                resolve=self._experiment.resolve,
            )
            if any(part.kind == "likelihood" for part in config.parts):
                from massact.judges.likelihood import check_scope

                named = {
                    model.name: self._experiment.resolve(model.instruct.reference) for model in self._experiment.models
                }
                check_scope(trait.name, definition=dataset.definition, questions=dataset.questions, models=named)
            judge = self._placed(open_judge(config, subject), config, subject, model)
            self._open[wanted] = CachingJudge(judge, self._cache(config), thinking=config.thinking)
        return self._open[wanted]

    def _placed(self, judge: Judge, config: JudgeConfig, subject: Subject, model: ModelConfig | None) -> Judge:
        """A judge where the executor has its judges: in this process, or one of the executor's in its place."""
        cache = self._cache_path(config)
        use = JudgeUse(
            config=config,
            subject=replace(subject, steered=None, resolve=str),
            models=tuple((part.model, subject.resolve(part.model)) for part in config.parts if part.kind == "hf"),
            steered=None if model is None else self._models.use(model, model.instruct),
            identity=judge.identity,
            cache=None if cache is None else cache.absolute(),
        )
        return self._models.executor.judge(use) or judge

    @property
    def usage(self) -> Usage:
        """What all judges of this command were asked."""
        return sum((judge.usage for judge in self._open.values()), Usage())

    def failures(self, config: JudgeConfig, judge: CachingJudge) -> str:
        """Which canaries a judge fails, empty where none: asked once for each judge, and remembered in the cache."""
        digest, cache = _check_digest(judge), self._cache(config)
        known = self._failures.get(digest)
        if known is None and cache is not None:
            known = cache.check(digest)
        if known is None:
            return self.check(config, judge, repeats=1)[1]
        self._failures[digest] = known
        return known

    def check(self, config: JudgeConfig, judge: CachingJudge, *, repeats: int) -> tuple[list[CanaryResult], str]:
        """What a judge makes of the canaries, asked anew, and which it fails; the latter is remembered."""
        is_toy_text = all(is_toy(model.instruct.reference) for model in self._experiment.models)
        results = canaries.run_canaries(judge.inner, canaries_for(config, is_toy_text), repeats=repeats)
        failures = "; ".join(f"{result.canary.name}: {result.failure}" for result in results if result.failure)
        self.tell_note(judge)
        digest, cache = _check_digest(judge), self._cache(config)
        self._failures[digest] = failures
        unscored = [result for result in results if not all(verdict.scored for verdict in result.verdicts)]
        self._mute[digest] = f"{len(unscored)} of {len(results)}" if 2 * len(unscored) > len(results) else ""
        # what could not be asked may be answered the next time
        if cache is not None and all(verdict.scored for result in results for verdict in result.verdicts):
            cache.keep_check(digest, failures)
        return results, failures

    def tell_note(self, judge: CachingJudge) -> None:
        """Say, once, what a judge that is prepared has to say of itself."""
        note = getattr(judge.inner, "note", "")
        if note and self.is_news(note):
            self._say(f"note: {note}")

    @property
    def all_failures(self) -> str:
        """Those of all judges that were checked so far."""
        return "; ".join(dict.fromkeys(failure for failure in self._failures.values() if failure))

    def is_mute(self, judge: CachingJudge) -> str:
        """How many of how many canaries a judge that was checked left unscored; empty where most are scored."""
        return self._mute.get(_check_digest(judge), "")

    def is_news(self, failures: str) -> bool:
        """Whether this is asked about these failures for the first time."""
        is_new = failures not in self._told
        self._told.add(failures)
        return is_new

    def _cache(self, config: JudgeConfig) -> JudgeCache | None:
        path = self._cache_path(config)
        if path is None:
            return None
        if path not in self._caches:
            self._caches[path] = JudgeCache(path, say=self._say)
        return self._caches[path]

    def _cache_path(self, config: JudgeConfig) -> Path | None:
        if config.cache == CACHE_OFF:
            return None
        if config.cache:
            return Path(self._experiment.resolve(config.cache)).expanduser()
        return Path(DEFAULT_SPOOL).parent / CACHE_FILE


def _check_digest(judge: CachingJudge) -> str:
    return f"{identity_digest(judge.identity).hex()}-{canaries.CANARIES_VERSION}"


def canaries_for(config: JudgeConfig, is_toy_text: bool = False) -> list[canaries.Canary]:
    """The canaries in the language that a judge reads, perhaps the toys', with bounds that its kind can keep."""
    if config.kind == CHOICES:  # it reads no text
        return []
    coherence = config.parts[-1]
    reads_toys = coherence.kind == "likelihood" or (coherence.kind == "perplexity" and is_toy_text)
    shown = canaries.toy_canaries() if reads_toys else canaries.english_canaries(relevance=coherence.relevance)
    if config.kind == "likelihood":
        return shown
    bounds = canaries.by_likelihood if coherence.kind == "perplexity" else canaries.any_trait
    return [bounds(canary) for canary in shown]


def contrasts(dataset: TraitDataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts that a classifier is fitted on: the contrastive prompts that stand on one side alone, and labelled
    responses where the trait's folder has any in `responses`."""
    sides = [list(dataset.positive), list(dataset.negative)]
    folder = dataset.folder / "responses"
    if folder.is_dir():
        sides[0] += read_side(folder, "positive")[1]
        sides[1] += read_side(folder, "negative")[1]
    first, second = ([prompt.text for prompt in side] for side in sides)
    return tuple(text for text in first if text not in second), tuple(text for text in second if text not in first)
