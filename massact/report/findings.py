"""The plan's findings document: a marked section of a file that people write, the rest of it left alone."""

import os
import tempfile
from pathlib import Path

from massact.errors import UsageError
from massact.report.document import Document
from massact.report.markdown import checklist
from massact.report.table import escape_markdown

BEGIN = "<!-- massact findings: begin; written anew by `massact report --findings`, up to the end mark -->"
END = "<!-- massact findings: end -->"
_BEGIN_MARK, _END_MARK = "<!-- massact findings: begin", "<!-- massact findings: end"
_SECTIONS = ("coefficients", "before-after", "curve", "confirmed", "published")
"""Sections of the report whose tables and advice are findings."""


def render_findings(document: Document) -> str:
    """The section's text: answers, recommendations and the tables they rest on, without figures."""
    given = document.given
    parts = [f"## Findings: {escape_markdown(given.experiment.name)}"]
    if document.banner:
        parts.append(f"> **{document.banner}**")
    facts = document.about[-2:]
    parts += [escape_markdown(text) for text in (*facts, document.caveat)]
    for answer in document.answers:
        parts += [f"### {answer.question}", escape_markdown(answer.verdict)]
        parts.append("\n".join(f"- {escape_markdown(line)}" for line in answer.lines))
    parts += ["### Success criteria", checklist(document.criteria)]
    for section in document.sections:
        if section.key not in _SECTIONS:
            continue
        parts += [f"### {section.title}", *map(escape_markdown, section.text)]
        if section.bullets:
            parts.append("\n".join(f"- {escape_markdown(line)}" for line in section.bullets))
        for table in section.tables:
            parts += [f"**{escape_markdown(table.caption)}**", table.markdown(given.run_link)]
    return "\n\n".join(part for part in parts if part)


def read_for_findings(file: Path) -> str:
    """The file as it is, empty where there is none yet: looked at before anything is worked out.

    Raises:
        UsageError: it cannot be read, its folder does not exist, or its marks are not one pair in order.
    """
    try:
        text = file.read_bytes().decode() if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file} as UTF-8 text: {error}. Name another file") from error
    if not file.parent.is_dir():
        raise UsageError(f"cannot write {file}: its folder does not exist. Make it, or name another file")
    begins, ends = text.count(_BEGIN_MARK), text.count(_END_MARK)
    if (begins, ends) not in ((0, 0), (1, 1)) or text.find(_END_MARK) < text.find(_BEGIN_MARK):
        raise UsageError(
            f"{file}: the marks of the findings section are not one pair in order ({begins} begin, {ends} end): "
            "nothing was written. Leave one of each, or take both out to have the section added at the end"
        )
    return text


def with_findings(text: str, findings: str) -> str:
    """A text with its marked section replaced; without marks the section is added at the end."""
    section = f"{BEGIN}\n\n{findings.strip()}\n\n{END}"
    if _BEGIN_MARK not in text:
        return f"{text.rstrip()}\n\n{section}\n" if text.strip() else f"{section}\n"
    before, _, rest = text.partition(_BEGIN_MARK)
    _, _, after = rest.partition(_END_MARK)
    return f"{before}{section}{after.partition('-->')[2]}"


def write_findings(file: Path, findings: str) -> None:
    """Write the section into the file, whole or not at all.

    Raises:
        UsageError: the file cannot be written, or its marks are not in order.
    """
    text = with_findings(read_for_findings(file), findings)
    target = file.resolve()  # a link stays one
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            out.write(text)
        Path(name).chmod(target.stat().st_mode & 0o7777 if target.exists() else 0o644)
        Path(name).replace(target)
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror}. Name a file in a folder of yours"
        ) from error
