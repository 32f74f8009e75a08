"""The judges of one command: opened once each, their verdicts remembered, checked by canaries before a sweep."""

from collections.abc import Callable
from pathlib import Path

from massact.config import Experiment, JudgeConfig, ModelConfig, TraitConfig
from massact.config.parse import CACHE_OFF
from massact.data.traits import TraitDataset
from massact.errors import ConfigError
from massact.judges import Judge, Subject, Usage, open_judge
from massact.judges.caching import CACHE_FILE, CachingJudge, JudgeCache, identity_digest
from massact.judges.canaries import (
    CANARIES_VERSION,
    Canary,
    CanaryResult,
    english_canaries,
    run_canaries,
    toy_canaries,
)
from massact.judges.local import ModelSource

Say = Callable[[str], None]
Elsewhere = Callable[[Judge, JudgeConfig, Subject, ModelConfig | None, Path | None], Judge]
"""Puts another process in the place of a judge, for its subject, the model it judges and its cache's file."""


class Judges:
    """Opens judges for the traits of one experiment."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        folder: Path,
        dataset: Callable[[TraitConfig], TraitDataset],
        steered: Callable[[ModelConfig], ModelSource],
        say: Say,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """
        Args:
            folder: where the judge cache lies unless the file names another place.
            dataset: reads a trait's dataset.
            steered: the model that is steered, for the judge `self`.
            elsewhere: puts another process in the place of a judge; `None`: it judges in this one.
        """
        self._elsewhere = elsewhere
        self._experiment, self._folder, self._dataset = experiment, folder, dataset
        self._steered, self._say = steered, say
        self._open: dict[tuple[JudgeConfig, str, str], CachingJudge] = {}
        self._caches: dict[Path, JudgeCache] = {}
        self._failures: dict[str, str] = {}
        self._told: set[str] = set()

    def of(self, config: JudgeConfig, trait: TraitConfig, model: ModelConfig | None = None) -> CachingJudge:
        """A judge for a trait, asked about equal text once.

        Args:
            model: whose responses are judged; only the judge `self` differs by it, and needs it where the
                experiment has several.

        Raises:
            UsageError: it cannot be used.
        """
        model = self._model(model) if config.kind == "self" else None
        wanted = (config, trait.name, model.name if model else "")
        if wanted not in self._open:
            dataset = self._dataset(trait)
            subject = Subject(
                dataset.definition,
                dataset.eval_prompt,
                steered=self._steered(model) if model else None,
                resolve=self._experiment.resolve,
            )
            if config.kind == "likelihood":
                self._check_scope(trait, dataset)
            judge = open_judge(config, subject)
            if self._elsewhere is not None:
                judge = self._elsewhere(judge, config, subject, model, self._cache_path(config))
            self._open[wanted] = CachingJudge(judge, self._cache(config))
        return self._open[wanted]

    @property
    def usage(self) -> Usage:
        """What all judges of this command were asked."""
        return sum((judge.usage for judge in self._open.values()), Usage())

    def failures(self, config: JudgeConfig, judge: CachingJudge) -> str:
        """Which canaries a judge fails, empty where none: asked once for each judge, and remembered in the cache.

        Raises:
            JudgeError: the judge as a whole cannot be used.
        """
        digest, cache = _check_digest(judge), self._cache(config)
        known = self._failures.get(digest)
        if known is None and cache is not None:
            known = cache.check(digest)
        if known is None:
            return self.check(config, judge, repeats=1)[1]
        self._failures[digest] = known
        return known

    def check(
        self, config: JudgeConfig, judge: CachingJudge, *, repeats: int
    ) -> tuple[list[CanaryResult], str]:
        """What a judge makes of the canaries, asked anew, and which it fails; the latter is remembered.

        Raises:
            JudgeError: the judge as a whole cannot be used.
        """
        results = run_canaries(judge.inner, canaries_for(config), repeats=repeats)
        failures = "; ".join(f"{one.canary.name}: {one.failure}" for one in results if one.failure)
        digest, cache = _check_digest(judge), self._cache(config)
        self._failures[digest] = failures
        # what could not be asked may be answered the next time
        if cache is not None and all(verdict.scored for one in results for verdict in one.verdicts):
            cache.keep_check(digest, failures)
        return results, failures

    @property
    def all_failures(self) -> str:
        """Those of all judges that were checked so far."""
        return "; ".join(dict.fromkeys(one for one in self._failures.values() if one))

    def is_news(self, failures: str) -> bool:
        """Whether this is asked about these failures for the first time."""
        is_new = failures not in self._told
        self._told.add(failures)
        return is_new

    def _check_scope(self, trait: TraitConfig, dataset: TraitDataset) -> None:
        from massact.judges.likelihood import check_scope

        models = {
            one.name: self._experiment.resolve(one.instruct.reference) for one in self._experiment.models
        }
        check_scope(trait.name, definition=dataset.definition, questions=dataset.questions, models=models)

    def _model(self, model: ModelConfig | None) -> ModelConfig:
        if model is None and len(self._experiment.models) > 1:
            raise ConfigError(
                "the judge self is the steered model: name the model whose responses it is to judge"
            )
        return model or self._experiment.models[0]

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
        return self._folder / CACHE_FILE


def _check_digest(judge: CachingJudge) -> str:
    return f"{identity_digest(judge.identity).hex()}-{CANARIES_VERSION}"


def canaries_for(config: JudgeConfig) -> list[Canary]:
    """The canaries in the language that a judge reads."""
    return toy_canaries() if config.kind == "likelihood" else english_canaries(relevance=config.relevance)
