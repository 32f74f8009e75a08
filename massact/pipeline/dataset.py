"""Trait datasets in trait-interp's layout, and files of neutral prompts.

A trait's folder holds `positive.txt` and `negative.txt` (contrastive prompts, one a line),
`definition.txt` (the trait in words) and `steering.json` (`questions`, and `eval_prompt` if the
trait has a judge prompt of its own).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from massact.domain import QuestionSet
from massact.errors import DataError
from massact.keys import digest, digest_texts
from massact.toy import is_toy, resolve


@dataclass(frozen=True, slots=True)
class TraitDataset:
    """A trait's prompts, definition and steering questions."""

    folder: Path
    positive: tuple[str, ...] = field(repr=False)
    """Prompts whose continuation shows the trait."""
    negative: tuple[str, ...] = field(repr=False)
    """Prompts whose continuation does not."""
    definition: str = field(repr=False)
    questions: tuple[str, ...] = field(repr=False)
    eval_prompt: str | None = field(repr=False, default=None)
    """The trait's own judge prompt, with `{question}` and `{answer}`."""

    @property
    def digest(self) -> str:
        """Digest of the contrastive prompts and the definition."""
        return digest({"positive": self.positive, "negative": self.negative, "definition": self.definition})

    def question_set(self, subset: int) -> QuestionSet:
        """The first `subset` questions; 0 is all.

        Raises:
            DataError: the trait has fewer questions.
        """
        if subset > len(self.questions):
            raise DataError(
                f"subset {subset}: {self.folder / 'steering.json'} has {len(self.questions)} questions; 0 asks all"
            )
        asked = self.questions[:subset] if subset else self.questions
        return QuestionSet(asked, digest_texts(self.questions), subset)


def load_trait(reference: str) -> TraitDataset:
    """Read and check a trait's dataset.

    Args:
        reference: a folder, or `toy:<name>` for an embedded one.

    Raises:
        DataError: a file is missing, empty or malformed; the message names it.
    """
    folder = resolve(reference) if is_toy(reference) else Path(reference).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"no trait dataset {str(folder)!r}: give a folder with positive.txt, negative.txt, definition.txt "
            "and steering.json"
        )
    steering = _read_steering(folder / "steering.json")
    positive, negative = read_prompts(folder / "positive.txt"), read_prompts(folder / "negative.txt")
    both = set(positive) & set(negative)
    if both:
        raise DataError(f"{folder}: a prompt stands in positive.txt and in negative.txt: {sorted(both)[0]!r}")
    definition = _read_text(folder / "definition.txt").strip()
    if not definition:
        raise DataError(f"{folder / 'definition.txt'} is empty: write in words what the trait is")
    eval_prompt = steering.get("eval_prompt")
    if eval_prompt is not None and not isinstance(eval_prompt, str):
        raise DataError(f"{folder / 'steering.json'}: eval_prompt is not a text")
    return TraitDataset(folder, positive, negative, definition, _questions(steering, folder), eval_prompt)


def load_prompts(reference: str) -> tuple[str, ...]:
    """Neutral prompts: a file with one a line, a JSON list, or `toy:<name>`.

    Raises:
        DataError: the file is missing, empty or malformed.
    """
    path = resolve(reference) if is_toy(reference) else Path(reference).expanduser()
    if path.suffix != ".json":
        return read_prompts(path)
    document = _read_json(path)
    items = document.get("prompts") if isinstance(document, dict) else document
    found = [_prompt_text(item) for item in items] if isinstance(items, list) else []
    prompts = tuple(prompt for prompt in found if isinstance(prompt, str) and prompt.strip())
    if not prompts or len(prompts) < len(found):
        raise DataError(
            f'{path}: not a list of prompts; write ["…", …] or {{"prompts": [{{"text": "…"}}, …]}}'
        )
    return prompts


def _prompt_text(item: object) -> object:
    return item.get("text", item.get("prompt")) if isinstance(item, dict) else item


def read_prompts(path: Path) -> tuple[str, ...]:
    """The lines of a prompt file, blank ones left out.

    Raises:
        DataError: the file is missing or empty, is not UTF-8, or a prompt stands twice.
    """
    # splitlines would also cut at a form feed or a line separator, which no editor shows as a line's end
    lines = [line.strip() for line in _read_text(path).split("\n")]
    prompts = [line for line in lines if line]
    if not prompts:
        raise DataError(f"{path} holds no prompt; write one a line")
    if len(set(prompts)) < len(prompts):
        twice = next(prompt for prompt in prompts if prompts.count(prompt) > 1)
        raise DataError(f"{path}, line {len(lines) - lines[::-1].index(twice)}: stands twice: {twice!r}")
    return tuple(prompts)


def _questions(steering: dict[str, object], folder: Path) -> tuple[str, ...]:
    questions = steering.get("questions")
    if not isinstance(questions, list) or not all(isinstance(q, str) and q.strip() for q in questions):
        raise DataError(f'{folder / "steering.json"}: "questions" is not a list of texts')
    if not questions or len(set(questions)) < len(questions):
        raise DataError(f'{folder / "steering.json"}: "questions" is empty or holds a question twice')
    return tuple(questions)


def _read_steering(path: Path) -> dict[str, object]:
    document = _read_json(path)
    if not isinstance(document, dict):
        raise DataError(f'{path}: not an object with "questions"')
    return document


def _read_json(path: Path) -> object:
    try:
        document: object = json.loads(_read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    return document


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
