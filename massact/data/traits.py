"""Trait datasets in trait-interp's layout with what is doubtful about them, and files of neutral prompts.

A trait's folder holds `positive.txt` and `negative.txt` (contrastive prompts, one a line; or `.jsonl` or
`.json`, where prompts may have system prompts) or `pairs.json` (questions with two answers each), `definition.txt` (the
trait in words) and `steering.json` (`questions`, each a text or messages, and `eval_prompt` if the trait has a judge
prompt of its own). See docs/data.md."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from massact.data.prompt_files import (
    PAIRS,
    Prompt,
    read_choices,
    read_json,
    read_prompt_file,
    read_question,
    read_sides,
    read_text,
)
from massact.domain import Direction, QuestionSet
from massact.errors import DataError
from massact.keys import digest, digest_texts
from massact.toy import is_toy, resolve

_BITS = 53  # of the digest: as many as a float holds exactly, so that a fraction is never rounded up to 1
_WHOLE = float(2**_BITS)


def fraction(question: str) -> float:
    """A question's place in [0, 1): the first bits of the SHA-256 of its text, blanks around it left out."""
    digest = hashlib.sha256(question.strip().encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / _WHOLE


def split_questions(questions: Iterable[str], share: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The questions that select and those that confirm, each in the order given; `share` is that of the latter, on
    average.
    A winner is chosen on the questions that it was scored on, so its figure is too good; questions that took no part in
    the choice tell how much (sample splitting: Cox, Biometrika 62, 1975; docs/statistics.md). A question's place
    follows from its own text, so that adding, removing or reordering questions never moves another one."""
    select: list[str] = []
    confirm: list[str] = []
    for question in questions:
        (confirm if fraction(question) < share else select).append(question)
    return tuple(select), tuple(confirm)


_STEERING = "steering.json"


@dataclass(frozen=True, slots=True)
class TraitDataset:
    """A trait's prompts, definition and steering questions."""

    folder: Path
    positive: tuple[Prompt, ...] = field(repr=False)  # prompts whose continuation shows the trait
    negative: tuple[Prompt, ...] = field(repr=False)  # prompts whose continuation does not
    definition: str = field(repr=False)
    questions: tuple[str, ...] = field(repr=False)
    eval_prompt: str | None = field(repr=False, default=None)
    """The trait's own judge prompt, with `{question}` and `{answer}`."""
    files: tuple[str, str] = field(repr=False, compare=False, default=("positive.txt", "negative.txt"))
    """Names of the files that hold the two sides."""
    steering: dict[str, Any] = field(repr=False, compare=False, default_factory=dict)
    """The rest of `steering.json`, which decides nothing."""

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Both sides, the positive one first."""
        return self.positive + self.negative

    @property
    def has_system_prompts(self) -> bool:
        return any(prompt.system for prompt in self.prompts)

    @property
    def has_answers(self) -> bool:
        """Whether the prompts are answered already: nothing that the model goes on with belongs to them."""
        return any(prompt.answer for prompt in self.prompts)

    @property
    def is_chat(self) -> bool:
        """Whether its prompts are put into the chat template."""
        return self.has_system_prompts or self.has_answers

    @property
    def digest(self) -> str:
        """Digest of the contrastive prompts, system prompts and answers where there are some, and the definition."""
        sides = {"positive": self.positive, "negative": self.negative}
        fields: dict[str, Any] = {name: tuple(prompt.text for prompt in side) for name, side in sides.items()}
        if self.has_system_prompts:
            fields["system"] = {name: tuple(prompt.system for prompt in side) for name, side in sides.items()}
        if self.has_answers:
            fields["answers"] = {name: tuple(prompt.answer for prompt in side) for name, side in sides.items()}
        return digest({**fields, "definition": self.definition})

    def question_set(self, subset: int, *, confirm_share: float | None = None) -> QuestionSet:
        """The first `subset` questions, 0 is all; where a share confirms, of those that select. Else a DataError."""
        questions, among = self.questions, "questions"
        if confirm_share is not None:
            questions, among = self._split(confirm_share)[0], "questions that select"
        if subset > len(questions):
            raise DataError(f"subset {subset}: {self.folder / _STEERING} has {len(questions)} {among}; 0 asks all")
        return QuestionSet(questions[:subset] if subset else questions, digest_texts(questions), subset)

    def confirming_set(self, confirm_share: float) -> QuestionSet:
        """The questions that confirm, all of them."""
        questions = self._split(confirm_share)[1]
        return QuestionSet(questions, digest_texts(questions), 0)

    def _split(self, share: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
        select, confirm = split_questions(self.questions, share)
        if not select or not confirm:
            raise DataError(
                f"questions.confirm {share:g}: of the {len(self.questions)} questions in {self.folder / _STEERING} "
                f"{len(select)} select and {len(confirm)} confirm, and each part needs some; "
                f"{'lower' if confirm else 'raise'} the share, or add questions"
            )
        return select, confirm


def load_trait(reference: str, *, has_choices: bool = False) -> TraitDataset:
    """Read and check a trait's dataset, a folder or `toy:<name>`; a DataError names file and line of what is wrong.
    `has_choices`: its questions are those of `choices.json`, with two answers each."""
    folder = resolve(reference) if is_toy(reference) else Path(reference).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"no trait dataset {str(folder)!r}: give a folder with positive.txt and negative.txt (or {PAIRS}), "
            "definition.txt and steering.json"
        )
    choices = read_choices(folder / _CHOICES) if has_choices else ()
    steering = {} if choices and not (folder / _STEERING).exists() else read_json(folder / _STEERING)
    if not isinstance(steering, dict):
        raise DataError(f'{folder / _STEERING}: not an object with "questions"')
    files, (positive, negative) = read_sides(folder)
    _check_sides_differ(folder, positive, negative, files)
    definition = read_text(folder / "definition.txt").strip()
    if not definition:
        raise DataError(f"{folder / 'definition.txt'} is empty: write in words what the trait is")
    eval_prompt = steering.get("eval_prompt")
    if eval_prompt is not None and not (isinstance(eval_prompt, str)):
        raise DataError(f"{folder / _STEERING}: eval_prompt is not a text")
    return TraitDataset(
        folder,
        positive,
        negative,
        definition,
        choices or _questions(steering, folder),
        eval_prompt,
        files=files,
        steering={
            name: value for name, value in steering.items() if name not in ("questions", "eval_prompt", "system_prompt")
        },
    )


_CHOICES = "choices.json"


def load_prompts(reference: str) -> tuple[str, ...]:
    """Neutral prompts: a file with one a line, JSON lines, a JSON list, or `toy:<name>`."""
    return read_prompts(resolve(reference) if is_toy(reference) else Path(reference).expanduser())


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file without system prompts, blank lines left out; else a DataError."""
    prompts = read_prompt_file(path, may_repeat=path.suffix == ".json")
    for prompt in prompts:
        if prompt.system:
            raise DataError(f"{path}, {prompt.place}: neutral prompts have no system prompt")
    return tuple(prompt.text for prompt in prompts)


def _check_sides_differ(
    folder: Path, positive: tuple[Prompt, ...], negative: tuple[Prompt, ...], files: tuple[str, str]
) -> None:
    """One prompt may stand on both sides only with system prompts that differ."""
    first = {prompt: prompt for prompt in positive}
    for prompt in negative:
        if prompt in first:
            raise DataError(
                f"{folder}: a prompt stands in {files[0]} ({first[prompt].place}) and in {files[1]} "
                f"({prompt.place}): {prompt.text!r}; remove it from one of them"
            )


def _questions(steering: dict[str, Any], folder: Path) -> tuple[str, ...]:
    path, listed, system = folder / _STEERING, steering.get("questions"), steering.get("system_prompt")
    if not isinstance(listed, list):
        raise DataError(f'{path}: "questions" is not a list of texts')
    questions: list[str] = []
    for number, item in enumerate(listed, 1):
        question = read_question(item, system, f"{path}, question {number}")
        if question in questions:
            raise DataError(f'{path}: "questions" holds a question twice: {question!r}')
        questions.append(question)
    if not questions:
        raise DataError(f'{path}: "questions" is empty')
    return tuple(questions)


FEW_PROMPTS = 10  # fewer a side are doubtful: a mean of them says much about each single one
UNEQUAL_SIDES = 1.5  # ratio of the larger side to the smaller one from which on it is worth a word
LONG_PROMPT = 4000  # characters from which on a prompt may well be several whose line ends were lost
_UNUSED = ("coherence_prompt", "vet_prompt")
_SHOWN = 3  # places that one warning names


def dataset_warnings(dataset: TraitDataset, direction: Direction) -> tuple[str, ...]:
    """Doubts about a dataset that is steered in a direction, each as a sentence with the numbers it rests on."""
    doubts = [*_examples(dataset), *_counts(dataset), *_nearly_equal(dataset), *_odd_prompts(dataset)]
    theirs = dataset.steering.get("direction")
    if theirs is not None and theirs != direction:
        doubts.append(
            f"steering.json says direction {theirs!r}, the experiment file {direction!r}: the experiment file counts"
        )
    return tuple(doubts)


def check_pairs(dataset: TraitDataset, reason: str) -> None:
    """Refuse to treat the sides as pairs, which something wants for a reason, where they differ in length."""
    n_positive, n_negative = len(dataset.positive), len(dataset.negative)
    if n_positive != n_negative:
        raise DataError(
            f"{reason}, but {dataset.folder / dataset.files[0]} holds {n_positive} prompts and {dataset.files[1]} "
            f"{n_negative}: prompt i of one side belongs to prompt i of the other. Make them equally many, or do "
            "without"
        )


EXAMPLE = "REPLACE THIS"  # what stands in the example lines of `massact init`


def _examples(dataset: TraitDataset) -> Iterator[str]:
    texts = [dataset.definition, *(prompt.text for prompt in dataset.prompts)]
    if n := sum(EXAMPLE in text for text in texts):
        yield f"example lines that say {EXAMPLE} stand in {n} of its texts: results on them mean nothing"


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
    alike: dict[tuple[str, ...], list[tuple[str, Prompt]]] = {}
    for placed in _placed(dataset):
        texts = (placed[1].text, placed[1].system or "", placed[1].answer or "")
        alike.setdefault(tuple(" ".join(text.split()).casefold() for text in texts), []).append(placed)
    shown = [f"{_where(first)} and {_where(other)}" for first, *rest in alike.values() for other in rest]
    if shown:
        yield f"prompts that differ in case or blanks alone: {_some(shown)}"


def _odd_prompts(dataset: TraitDataset) -> Iterator[str]:
    placed = _placed(dataset)
    long = [
        f"{_where(prompt)} ({len(prompt[1].text):,} characters)"
        for prompt in placed
        if len(prompt[1].text) > LONG_PROMPT
    ]
    if long:
        yield f"very long prompts; is a line end missing? {_some(long)}"
    broken = [_where(prompt) for prompt in placed if "\ufffd" in prompt[1].text + (prompt[1].system or "")]
    if broken:
        yield f"characters that an earlier program could not read stand as \ufffd: {_some(broken)}"
    without = [_where(prompt) for prompt in placed if not prompt[1].system]
    if dataset.has_system_prompts and without:
        yield f"some prompts have a system prompt and {len(without)} have none: {_some(without)}"
    if unused := [name for name in _UNUSED if dataset.steering.get(name)]:
        yield f"steering.json: {' and '.join(unused)} not used; the judge asks in its own words"


def _placed(dataset: TraitDataset) -> list[tuple[str, Prompt]]:
    first, second = dataset.files
    return [(first, prompt) for prompt in dataset.positive] + [(second, prompt) for prompt in dataset.negative]


def _where(placed: tuple[str, Prompt]) -> str:
    return f"{placed[0]} {placed[1].place}"


def _some(places: Sequence[str]) -> str:
    more = len(places) - _SHOWN
    return "; ".join(places[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
