"""A finished run with everything that belongs to it, before any store has it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from massact.errors import RunRefusedError
from massact.store.schema import TAG_LIMIT, MlflowTag

_STATUSES = ("FINISHED", "FAILED", "KILLED")
_KEY_LIMIT, _PARAM_LIMIT = 250, 6000


@dataclass(frozen=True, slots=True)
class Step:
    """One value of a stepped metric."""

    name: str
    value: float
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """Everything of one finished run."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    started_at: int  # milliseconds since 1970
    finished_at: int  # milliseconds since 1970
    status: str = "FINISHED"
    files: Mapping[str, bytes] = field(default_factory=dict)  # artifacts: content by path within the run

    @property
    def all_tags(self) -> dict[str, str]:
        """The tags with the name among them, where MLflow keeps it a second time."""
        return {**self.tags, MlflowTag.NAME.value: self.name}

    @property
    def history(self) -> list[Step]:
        """All values of all metrics."""
        return [*(Step(name, value, 0) for name, value in self.metrics.items()), *self.steps]


def check_runs(runs: Iterable[FinishedRun]) -> None:
    """What MLflow would refuse in the middle, or cut without a word, is refused before anything is written."""
    for run in runs:
        if problem := _problem(run):
            raise RunRefusedError(f"the run {run.name!r} cannot be written: {problem}")


def _problem(run: FinishedRun) -> str | None:
    if run.status not in _STATUSES:
        return f"status {run.status!r} is not an end; there are {', '.join(_STATUSES)}"
    for key in (*run.params, *run.tags, *run.metrics, *run.files, *(step.name for step in run.steps)):
        if not _is_key(key):
            return f"MLflow takes no param, metric, tag or artifact of the name {key!r}"
    texts = [("name", run.name, _KEY_LIMIT)]
    texts += [(f"param {key!r}", value, _PARAM_LIMIT) for key, value in run.params.items()]
    texts += [(f"tag {key!r}", value, TAG_LIMIT) for key, value in run.tags.items()]
    for what, value, limit in texts:
        if len(value) > limit:
            return f"its {what} has {len(value)} characters, MLflow keeps {limit}"
        if not _is_unicode(value):
            return f"its {what} holds half a character, which no store can keep"
    return None


def _is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8: Python's text may hold lone surrogates, JSON's too."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


@cache
def _is_key(key: str) -> bool:
    from mlflow.utils.validation import path_not_unique, validate_param_and_metric_name

    # a path that leads out of the run's folder is not unique either
    is_plain = validate_param_and_metric_name(key) and not path_not_unique(key)  # type: ignore[no-untyped-call]
    return bool(is_plain) and 0 < len(key) <= _KEY_LIMIT
