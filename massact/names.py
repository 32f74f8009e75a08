"""What a name may be, and the file name that is made from one.

Experiments, models, variants, traits, judges and users are named by people, by files of others and by stores that
others wrote. Their names become MLflow names, tags, folders and cells of tables, so one rule holds for all."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from massact.errors import UsageError

LONGEST_NAME = 200  # characters of a name
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that no name holds: control, format (bidi) and surrogate characters, separators of lines."""
_JOINERS = re.compile(r"(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")
"""Zero-width joiners where scripts such as Persian and emoji need them; `folded` does not tell names apart by them."""
_LONGEST_FILE = 120  # bytes; file systems take 255, and endings come on top
_PLAIN = re.compile(r"\w(?:[\w .-]*[\w-])?")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)\s*(\..*)?", re.IGNORECASE)
"""Windows takes these for devices, whatever their ending."""


def check_name(name: str, what: str = "name", *, may_be_path: bool = False) -> str:
    """The name in Unicode's composed form (NFC), without white space around it. `what`: what is named, for the message.
    `may_be_path`: whether it may lead through folders: the reference of a model does. Raises UsageError: it is empty,
    too long, holds characters that do not show, or leads through a folder."""
    text = unicodedata.normalize("NFC", name.strip())
    if not text:
        raise UsageError(f"the {what} is empty: write a name")
    if len(text) > LONGEST_NAME and not may_be_path:
        raise UsageError(f"the {what} {shown(text)} has {len(text)} characters; a name has {LONGEST_NAME} at most")
    hidden = next((c for c in _JOINERS.sub("", text) if unicodedata.category(c) in _INVISIBLE), None)
    if hidden is not None:
        raise UsageError(
            f"the {what} {shown(text)} holds the character U+{ord(hidden):04X}, which does not show: write a name of "
            "letters, digits and signs that do"
        )
    if not may_be_path and any(part in (".", "..") for part in re.split(r"[/\\]", text)):
        raise UsageError(f"the {what} {shown(text)} leads through a folder: write a name without . or .. as a part")
    return text


def as_held(name: str, held: Iterable[str]) -> str:
    """The name as a store holds it, perhaps in another of Unicode's forms; the name itself where it holds none."""
    composed, names = unicodedata.normalize("NFC", name.strip()), list(held)
    alike = (name for name in names if unicodedata.normalize("NFC", name.strip()) == composed)
    return name if name in names else next(alike, name)


def check_distinct(names: Iterable[str]) -> None:
    """Raises UsageError: two names differ in upper and lower case or in Unicode's forms alone, as people overlook."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(folded(name), name)
        if other != name:
            raise UsageError(
                f"the names {shown(name)} and {shown(other)} differ in upper and lower case alone, "
                "or in characters that do not show"
            )


def folded(name: str) -> str:
    """The same text for names that differ in case or in Unicode's forms alone."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _JOINERS.sub("", name)).casefold())


def file_name(name: str, taken: Iterable[str] = ()) -> str:
    """A name for one file or folder, on any system: the name itself where it can be, else a part of it and a digest.
    `taken`: names beside it; where one of them differs in case alone, a digest tells the two apart."""
    text = unicodedata.normalize("NFC", name)
    is_plain = _PLAIN.fullmatch(text) and not _RESERVED.fullmatch(text) and len(text.encode()) <= _LONGEST_FILE
    if is_plain and all(other == text or folded(other) != folded(text) for other in taken):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    stem = re.sub(r"[^\w-]+", "_", text).strip("_")
    while len(stem.encode()) > _LONGEST_FILE - len(digest) - 1:
        stem = stem[:-1]
    return f"{stem}-{digest}" if stem else digest


def visible(text: str) -> str:
    """A text that a terminal and any file can show in one line: what does not show is written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _INVISIBLE else c for c in text)


def shown(value: object) -> str:
    """A value as messages quote it: short, and in one line."""
    text = repr(value)
    return visible(text if len(text) <= 80 else f"{text[:80]}…")
