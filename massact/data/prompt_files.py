"""Files of prompts: one a line, JSON lines, a JSON list, CAA's pairs; every complaint names the file and the line."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from massact.domain import Choice, Conversation
from massact.errors import DataError, lfs_advice
from massact.json_text import JsonError, parse_json

PROMPT_FILES = (".txt", ".jsonl", ".json")  # endings of a side's file: a prompt a line, an object a line, or a list
_EXPECTED = {
    ".jsonl": '{"prompt": "…", "system_prompt": "…"} (a system prompt may be left out)',
    ".json": '["…", …] or {"prompts": [{"prompt": "…", "system_prompt": "…"}, …]}',
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and what a system prompt says before it."""

    text: str
    system: str | None = None  # system prompt; `None` where there is none
    place: str = field(default="", compare=False, repr=False)  # where it stands in its file, such as `line 4`
    answer: str | None = None  # what stands after the text as its answer already; `None` where the model is to go on

    @property
    def whole(self) -> str:
        """The text, and its answer below it."""
        return self.text if self.answer is None else f"{self.text}\n\n{self.answer}"


def read_side(folder: Path, name: str) -> tuple[Path, tuple[Prompt, ...]]:
    """The prompts of one side of a trait, such as `positive`, and the one file that holds them; else a DataError."""
    found = [path for ending in PROMPT_FILES if (path := folder / f"{name}{ending}").exists()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(f"{folder}: {names} both hold prompts of the {name} side; keep one of them")
    if not found:
        raise DataError(
            f"{folder / name}.txt: no such file: write the prompts of the {name} side there, one a line (or in a "
            f"{name}.jsonl or {name}.json)"
        )
    return found[0], read_prompt_file(found[0])


PAIRS = "pairs.json"
_Sides = tuple[tuple[Prompt, ...], tuple[Prompt, ...]]


def read_sides(folder: Path) -> tuple[tuple[str, str], _Sides]:
    """The names of the files of both sides, which may be one, and their prompts."""
    pairs = folder / PAIRS
    if not pairs.exists():
        (first, positive), (second, negative) = (read_side(folder, side) for side in ("positive", "negative"))
        return (first.name, second.name), (positive, negative)
    if others := [path.name for side in ("positive", "negative") for path in folder.glob(f"{side}.*")]:
        raise DataError(f"{folder}: {PAIRS} and {', '.join(others)} both hold contrastive prompts; keep one kind")
    return (PAIRS, PAIRS), read_pairs(pairs)


def read_prompt_file(path: Path, *, may_repeat: bool = False) -> tuple[Prompt, ...]:
    """The prompts of a file, written as its ending says; DataError where one is malformed, or stands twice."""
    prompts = tuple({".jsonl": _json_lines, ".json": _json_list}.get(path.suffix, _plain_lines)(path))
    if not prompts:
        raise DataError(f"{path} holds no prompt; write {_EXPECTED.get(path.suffix, 'one a line')}")
    seen: set[Prompt] = set()
    for prompt in prompts:
        if prompt in seen and not may_repeat:
            raise DataError(f"{path}, {prompt.place}: stands twice: {prompt.text!r}; remove one of them")
        seen.add(prompt)
    return prompts


def read_pairs(path: Path) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Both sides of a file as CAA publishes it (Rimsky et al. 2023, arXiv:2312.06681): questions with two answers each.
    A question may stand twice, as in some of those files. Raises DataError: the file is malformed, or an answer is on
    both sides."""
    items = read_json(path)
    if not isinstance(items, list) or not items:
        raise DataError(f"{path}: not a list of objects with {', '.join(_PAIR)}")
    sides = [_pair(path, f"pair {number}", item) for number, item in enumerate(items, 1)]
    return tuple(first for first, _ in sides), tuple(second for _, second in sides)


def read_choices(path: Path) -> tuple[Choice, ...]:
    """The questions of such a file, to be chosen between (CAA's `test_dataset_ab.json`); else a DataError."""
    choices = []
    for matching, other in zip(*read_pairs(path), strict=True):
        choice = Choice(matching.text, (matching.answer or "", other.answer or ""))
        try:
            choice.orders  # noqa: B018  # looked at before a model is loaded
        except ValueError as error:
            raise DataError(f"{path}, {matching.place}: {error}") from error
        choices.append(choice)
    return tuple(choices)


_PAIR = ("question", "answer_matching_behavior", "answer_not_matching_behavior")


def _pair(path: Path, place: str, item: object) -> tuple[Prompt, Prompt]:
    texts = [item.get(key) if isinstance(item, dict) else None for key in _PAIR]
    for key, text in zip(_PAIR, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f'{path}, {place}: "{key}" is missing, empty or not a text')
    question, *answers = (str(text).strip() for text in texts)
    return Prompt(question, answer=answers[0], place=place), Prompt(question, answer=answers[1], place=place)


def read_text(path: Path) -> str:
    """A file's text, without its byte order mark, line ends as `\\n`. Raises DataError: it cannot be read, or is not
    UTF-8; the message names the line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _lines(content[: error.start].decode("utf-8", errors="replace")).count("\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    text = _lines(text)
    if advice := lfs_advice(content):
        raise DataError(f"{path}: {advice}")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{path}, line {line}: holds a zero byte, as UTF-16 does; save the file as UTF-8")
    return text


def read_json(path: Path) -> object:
    """A file's JSON document. Raises DataError: it cannot be read or is not JSON."""
    try:
        document: object = parse_json(read_text(path))
    except JsonError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    return document


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _plain_lines(path: Path) -> Iterator[Prompt]:
    # splitlines would also cut at a form feed or a line separator, which no editor shows as a line's end
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if text := line.strip():
            yield Prompt(text, place=f"line {number}")


def _json_lines(path: Path) -> Iterator[Prompt]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            item = parse_json(line)
        except JsonError as error:
            raise DataError(f"{path}, {place}: not JSON ({error}); write {_EXPECTED['.jsonl']}") from error
        if not isinstance(item, dict):
            raise DataError(f"{path}, {place}: not an object; write {_EXPECTED['.jsonl']}")
        yield _prompt(path, place, item)


def _json_list(path: Path) -> Iterator[Prompt]:
    document = read_json(path)
    items = document.get("prompts") if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise DataError(f"{path}: not a list of prompts; write {_EXPECTED['.json']}")
    system = document.get("system_prompt") if isinstance(document, dict) else None
    for number, item in enumerate(items, 1):
        prompt = _prompt(path, f"prompt {number}", item)
        yield prompt if prompt.system or not isinstance(system, str) else replace(prompt, system=system)


def _prompt(path: Path, place: str, item: object) -> Prompt:
    """A prompt as JSON gives it: the text is taken as it stands, blanks at its ends too."""
    fields = item if isinstance(item, dict) else {"prompt": item}
    text, system = prompt_text(fields), fields.get("system_prompt")
    if "prompt" not in fields and "instruction" in fields and fields.get("input"):
        raise DataError(
            f'{path}, {place}: an "input" beside the "instruction"; write both as they are to be read, as one "prompt"'
        )
    if not isinstance(text, str) or not text.strip():
        raise DataError(f'{path}, {place}: "prompt" is missing, empty or not a text')
    if not isinstance(system, str | None):
        raise DataError(f'{path}, {place}: "system_prompt" is not a text')
    return Prompt(text, system if system and system.strip() else None, place)


ROLES = ("system", "user", "assistant")


def read_question(item: object, system: str | None, where: str) -> str:
    """A question as `steering.json` has it: a text, an object with one, or messages that end with the user's. `system`
    is the system prompt of all that have none of their own; `where` names file and number in messages."""
    fields = item if isinstance(item, dict) else {"messages" if isinstance(item, list) else "question": item}
    own = fields.get("system_prompt", system)
    if not isinstance(own, str | None):
        raise DataError(f'{where}: "system_prompt" is not a text')
    if "messages" in fields:
        messages = list(_messages(fields["messages"], where))
    else:
        text = fields.get("question", prompt_text(fields))
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: write a text, or a list of messages with role and content")
        messages = [("user", text)]
    if own and own.strip() and messages[0][0] != "system":
        messages.insert(0, ("system", own))
    return messages[0][1] if len(messages) == 1 else Conversation(messages)


def _messages(listed: object, where: str) -> Iterator[tuple[str, str]]:
    """Role and content of each message: a system prompt at most, then user and assistant in turns."""
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{where}: messages are a list of objects with role and content")
    wanted: tuple[str, ...] = ("system", "user")
    for number, message in enumerate(listed, 1):
        place = f"{where}, message {number}"
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES:
            raise DataError(f"{place}: its role is {role!r}; write {', '.join(ROLES[:-1])} or {ROLES[-1]}")
        if role not in wanted:
            raise DataError(
                f"{place}: a message of the {role} cannot stand here, only of the {' or the '.join(wanted)}: a system "
                "prompt comes first, then user and assistant speak in turns"
            )
        if not isinstance(content, str) or not content.strip():
            raise DataError(f"{place}: its content is no text, or empty")
        wanted = ("assistant",) if role == "user" else ("user",)
        yield role, content
    if wanted != ("assistant",):
        raise DataError(f"{where}: the last message is not the user's, so that nothing is asked")


def prompt_text(fields: Mapping[str, object]) -> object:
    """What an object holds as its prompt, under one of the names that datasets have for it."""
    return next((fields[name] for name in ("prompt", "text", "instruction") if name in fields), None)
