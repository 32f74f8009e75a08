"""What is doubtful in a trait's dataset, though it can be used: told once, and kept with what is extracted."""

from collections.abc import Callable, Iterator, Sequence

from massact.data.prompt_files import Prompt
from massact.data.traits import TraitDataset
from massact.domain import Direction
from massact.errors import DataError

FEW_PROMPTS = 10
"""Fewer a side are doubtful: a mean of them says much about each single one."""
UNEQUAL_SIDES = 1.5
"""Ratio of the larger side to the smaller one from which on it is worth a word."""
LONG_PROMPT = 4000
"""Characters from which on a prompt may well be several whose line ends were lost."""
_UNUSED = ("coherence_prompt", "vet_prompt")
_SHOWN = 3
"""Places that one warning names."""


def dataset_warnings(dataset: TraitDataset, direction: Direction) -> tuple[str, ...]:
    """Doubts about a dataset, each as a sentence with the numbers it rests on.

    Args:
        direction: in which the experiment file steers the trait.
    """
    checks: tuple[Callable[[TraitDataset], Iterator[str]], ...] = (
        _counts,
        _nearly_equal,
        _long_prompts,
        _replaced_characters,
        _some_system_prompts,
        _unused_prompts,
    )
    found = [warning for check in checks for warning in check(dataset)]
    theirs = dataset.steering.get("direction")
    if theirs is not None and theirs != direction:
        found.append(
            f"steering.json says direction {theirs!r}, the experiment file {direction!r}: the experiment file counts"
        )
    return tuple(found)


def check_pairs(dataset: TraitDataset) -> None:
    """Refuse to treat the sides as pairs where they cannot be.

    Raises:
        DataError: they differ in length.
    """
    n_positive, n_negative = len(dataset.positive), len(dataset.negative)
    if n_positive != n_negative:
        raise DataError(
            f"extraction.vetting.filter is paired, but {dataset.folder / dataset.files[0]} holds {n_positive} prompts "
            f"and {dataset.files[1]} {n_negative}: prompt i of one side belongs to prompt i of the other. Make them "
            "equally many, or write filter: independent"
        )


def _counts(dataset: TraitDataset) -> Iterator[str]:
    counts = len(dataset.positive), len(dataset.negative)
    if max(counts) > UNEQUAL_SIDES * min(counts):
        yield (
            f"the sides are unequal: {counts[0]} positive and {counts[1]} negative prompts; a probe leans towards "
            "the larger side"
        )
    if min(counts) < FEW_PROMPTS:
        yield (
            f"{counts[0]} positive and {counts[1]} negative prompts are few: with fewer than {FEW_PROMPTS} a side a "
            "vector follows single prompts"
        )


def _nearly_equal(dataset: TraitDataset) -> Iterator[str]:
    """Prompts that differ in case or blanks alone, on one side or on both."""
    alike: dict[tuple[str, str], list[tuple[str, Prompt]]] = {}
    for file, side in zip(dataset.files, (dataset.positive, dataset.negative), strict=True):
        for prompt in side:
            alike.setdefault(_folded(prompt), []).append((file, prompt))
    shown = [f"{_where(first)} and {_where(one)}" for first, *rest in alike.values() for one in rest]
    if shown:
        yield f"prompts that differ in case or blanks alone: {_some(shown)}"


def _folded(prompt: Prompt) -> tuple[str, str]:
    return (" ".join(prompt.text.split()).casefold(), " ".join((prompt.system or "").split()).casefold())


def _long_prompts(dataset: TraitDataset) -> Iterator[str]:
    long = [
        f"{_where(one)} ({len(one[1].text):,} characters)"
        for one in _placed(dataset)
        if len(one[1].text) > LONG_PROMPT
    ]
    if long:
        yield f"very long prompts; is a line end missing? {_some(long)}"


def _replaced_characters(dataset: TraitDataset) -> Iterator[str]:
    broken = [_where(one) for one in _placed(dataset) if "\ufffd" in one[1].text + (one[1].system or "")]
    if broken:
        yield f"characters that an earlier program could not read stand as \ufffd: {_some(broken)}"


def _some_system_prompts(dataset: TraitDataset) -> Iterator[str]:
    without = [_where(one) for one in _placed(dataset) if not one[1].system]
    if dataset.has_system_prompts and without:
        yield f"some prompts have a system prompt and {len(without)} have none: {_some(without)}"


def _unused_prompts(dataset: TraitDataset) -> Iterator[str]:
    unused = [name for name in _UNUSED if dataset.steering.get(name)]
    if unused:
        yield f"steering.json: {' and '.join(unused)} not used; the judge asks in its own words"


def _placed(dataset: TraitDataset) -> list[tuple[str, Prompt]]:
    first, second = dataset.files
    return [(first, one) for one in dataset.positive] + [(second, one) for one in dataset.negative]


def _where(one: tuple[str, Prompt]) -> str:
    return f"{one[0]} {one[1].place}"


def _some(places: Sequence[str]) -> str:
    more = len(places) - _SHOWN
    return "; ".join(places[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
