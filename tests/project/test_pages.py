"""README and the tutorial: their commands exist as written, and their outputs are what the demo's store answers."""

import os
import re
from pathlib import Path

import click
import pytest

from massact.cli.app import cli
from tools.page_outputs import PAGES, commands, with_outputs

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#([\w-]+))?\)|\]\(#([\w-]+)\)")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_takes_the_options_written_there(page: str, root: Path) -> None:
    found = list(commands((root / page).read_text(encoding="utf-8")))
    assert found
    for words in found:
        context = click.Context(cli)
        command = cli.get_command(context, words[0])
        assert command is not None, words
        command.make_parser(click.Context(command, parent=context)).parse_args(words[1:])


def test_every_target_of_make_that_a_page_names_exists(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z-]+)", (root / page).read_text(encoding="utf-8")):
            if target != "and":
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"


def test_readme_is_short(root: Path) -> None:
    assert len((root / "README.md").read_text(encoding="utf-8").split()) < 1200


def test_links_between_pages_lead_somewhere(root: Path) -> None:
    broken = []
    for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        for path, anchor, own in _LINK.findall(page.read_text(encoding="utf-8")):
            target = (page.parent / path) if path else page
            if not target.exists():
                broken.append(f"{page.relative_to(root)}: {path}")
            elif (anchor or own) and target.suffix == ".md" and (anchor or own) not in _anchors(target):
                broken.append(f"{page.relative_to(root)}: {path}#{anchor or own}")
    assert not broken


def test_every_page_is_in_the_index(root: Path) -> None:
    index = (root / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [page.relative_to(root / "docs").as_posix() for page in (root / "docs").rglob("*.md")]
    assert [page for page in pages if page != "README.md" and f"({page})" not in index] == []


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.slow
@pytest.mark.skipif("MASSACT_DEMO" not in os.environ, reason="MASSACT_DEMO names no folder where the demo has run")
@pytest.mark.parametrize("page", PAGES)
def test_outputs_of_a_page_are_what_the_demo_answers(page: str, root: Path) -> None:
    text = (root / page).read_text(encoding="utf-8")
    assert with_outputs(text, Path(os.environ["MASSACT_DEMO"])) == text
