"""Where a judge that is a local model has it from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from massact.config import LoadConfig
from massact.models.load import Description, SteerableModel, describe, load_model, read_description


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model, and what identifies it."""

    describe: Callable[[], Description]
    """What identifies the model, without its weights where its files tell."""
    load: Callable[[], SteerableModel]
    """The model; asked at every scoring, so that none is kept in memory for the judge alone."""


@lru_cache(maxsize=1)
def hub_source(reference: str, *, revision: str | None, options: LoadConfig) -> ModelSource:
    """A model of the judge's own, loaded when it is first needed and kept: one for all traits.

    Raises:
        ModelError: there is no such model.
    """
    described = read_description(reference, revision=revision, options=options)
    kept: list[SteerableModel] = []

    def load() -> SteerableModel:
        if not kept:
            kept.append(load_model(reference, revision=revision, options=options))
        return kept[0]

    # where the files do not tell its dtype, only the loaded model does
    return ModelSource(lambda: described or describe(load()), load)
