"""In which fields settings differ: in words, and as fields and columns of the rows of an answer."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from operator import attrgetter
from typing import Any, TypeVar

from massact.query.rows import Answer, shortened
from massact.store.schema import EvaluationRow

JUDGE_FIELDS = ("judge", "judge_model", "judge_prompt")
SETTING_FIELDS = (
    "model_variant", "adapter", "prompt_set", "n_questions", "direction", *JUDGE_FIELDS, "question_set", "subset",
    "trait_digest", "chat_template_digest", "thinking", "template_arguments", "max_new_tokens", "temperature", "seed",
    "model_id", "model_revision", "dtype", "vector_source",
)  # fmt: skip
"""What a row tells of its setting; the first that tell two settings apart are columns of a narrow table."""
_ADAPTER = "+adapter:"

AnswerT = TypeVar("AnswerT", bound=Answer[Any])
Samples = Mapping[tuple[str, str], Mapping[str, EvaluationRow]]  # of each model and trait a row of each setting


def setting_value(row: EvaluationRow, name: str) -> Any:
    """A field of `SETTING_FIELDS`; `None` where the row does not tell."""
    revision, mark, adapter = (row.model_revision or "").partition(_ADAPTER)
    if name == "adapter":
        return adapter if mark else None if row.model_revision is None else "none"
    return revision or None if name == "model_revision" else getattr(row, name)


def differing_fields(rows: Collection[EvaluationRow]) -> tuple[str, ...]:
    """The fields in which settings differ. What an imported file does not tell is no difference that anybody could act
    on, unless nothing else tells the settings apart."""
    of = {name: [setting_value(row, name) for row in rows] for name in SETTING_FIELDS}
    names = [name for name in SETTING_FIELDS if len({*of[name]} - {None}) > 1]
    if len({*zip(*(of[name] for name in names), strict=True)} if names else [()]) == len(rows):
        return tuple(names)
    some = [name for name in SETTING_FIELDS if name not in names and len({*of[name]}) > 1]
    return tuple(name for name in SETTING_FIELDS if name in (*names, *some))


def differences(samples: Iterable[EvaluationRow]) -> str:
    """In words, in what some settings differ, or that their runs do not tell."""
    rows = sorted(samples, key=attrgetter("setting"))
    words = []
    for name in differing_fields(rows):
        values = [setting_value(row, name) for row in rows]
        short = shortened(values)
        shown = dict.fromkeys("not told" if value is None else short[value] for value in values)
        words.append(f"{name} ({', '.join(shown)})")
    if len({row.origin for row in rows}) > 1:
        words.append("some are imported")
    return "; ".join(words) or (
        "what the runs do not tell: those of earlier versions keep neither the digest of the trait's dataset nor "
        "that of the chat template"
    )


def with_differences(answer: AnswerT, samples: Samples, *, has_several_baselines: bool) -> AnswerT:
    """The answer with the fields in which the settings of its rows differ, in every row."""
    names = _names(samples)
    if has_several_baselines:
        names = (*names, "baseline_trait_mean")
    if not names:
        return answer
    by_setting = {setting: row for some in samples.values() for setting, row in some.items()}

    def differing(row: Any) -> Any:
        if not (is_dataclass(row) and hasattr(row, "differs")):
            return row
        setting = getattr(row, "setting", None) or getattr(row, "setting_b", None)
        sample = by_setting.get(setting or "")
        own = {"setting": setting, "baseline_trait_mean": getattr(row, "baseline_trait_mean", None)}
        values = {
            name: own[name] if name in own else None if sample is None else setting_value(sample, name)
            for name in names
        }
        return replace(row, differs=values)  # type: ignore[type-var]  # rows are dataclasses

    parts: dict[str, Any] = {
        field.name: tuple(map(differing, value))
        for field in fields(answer)
        if isinstance(value := getattr(answer, field.name), tuple)
    }
    return replace(answer, **parts)


def _names(samples: Samples) -> tuple[str, ...]:
    """Fields in which settings of one model and trait differ; the settings too where these do not tell them apart."""
    names: set[str] = set()
    for some in samples.values():
        rows = list(some.values())
        differing = differing_fields(rows) if len(rows) > 1 else ()
        names.update(differing)
        if len({tuple(setting_value(row, name) for name in differing) for row in rows}) < len(rows):
            names.add("setting")
    return tuple(name for name in (*SETTING_FIELDS, "setting") if name in names)
