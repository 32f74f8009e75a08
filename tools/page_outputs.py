"""Hold README.md and the tutorial to what the commands print: run their questions on the demo's store, compare.

A question about another experiment (`--experiment`) is left as it stands.

Run from the project's root, after `make demo`: python tools/page_outputs.py [--write] [FOLDER]
FOLDER is where the demo ran; `--write` puts what was printed into the pages. Ends with 1 where a page is not current.
"""

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/tutorial.md")
QUESTIONS = ("gaps", "best", "compare", "curve", "coefficients", "sensitivity", "judges", "confirmations", "runs")
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^```pycon\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> Iterator[list[str]]:
    """The `massact` commands of a page, as words, without `massact` and without a comment behind them."""
    for block in _BLOCK.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ massact "):
                yield shlex.split(line[2:], comments=True)[1:]


def with_outputs(page: str, folder: Path) -> str:
    """The page with the output of each question, and of its Python, as printed on the store in `folder`."""
    page = _BLOCK.sub(lambda block: f"```console\n{_console(block.group(1), folder)}```", page)
    return _PYTHON.sub(lambda block: f"```pycon\n{_pycon(block.group(1), folder)}```", page)


def _console(block: str, folder: Path) -> str:
    kept, drops = [], False
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            words = shlex.split(line[2:], comments=True)
            drops = words[0] == "massact" and words[1] in QUESTIONS and "--experiment" not in words
            kept += [line, _answer(words[1:], folder)] if drops else [line]
        elif not drops:
            kept.append(line)
    return "".join(kept)


def _answer(words: list[str], folder: Path) -> str:
    """What a question prints: the table, then its notes; without the line that names experiment and store."""
    done = subprocess.run(
        [sys.executable, "-m", "massact", *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT), "MASSACT_EXPERIMENT": "experiments/toy.yaml"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode > 1:
        raise SystemExit(f"massact {shlex.join(words)} ended with {done.returncode}: {done.stderr}")
    notes = [line for line in done.stderr.splitlines(keepends=True) if not line.startswith("experiment ")]
    return done.stdout + "".join(notes)


def _pycon(block: str, folder: Path) -> str:
    code = "\n".join(example.source.rstrip("\n") for example in doctest.DocTestParser().get_examples(block))
    script = f"import code\nfor line in {code.splitlines()!r}: shell.push(line)"
    done = subprocess.run(
        [sys.executable, "-c", "import code\nshell = code.InteractiveConsole()\n" + script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    if done.stderr.strip():
        raise SystemExit(f"Python on a page: {done.stderr}")
    lines = [f"{'>>>' if not line.startswith(' ') else '...'} {line}".rstrip() for line in code.splitlines()]
    return "\n".join(lines) + "\n" + done.stdout


def main(arguments: list[str]) -> int:
    """Compare, or write; 0 where every page is current."""
    folders = [argument for argument in arguments if argument != "--write"]
    folder = Path(folders[0]) if folders else ROOT
    outdated = 0
    for name in PAGES:
        page = (ROOT / name).read_text(encoding="utf-8")
        current = with_outputs(page, folder)
        if current != page and "--write" in arguments:
            (ROOT / name).write_text(current, encoding="utf-8")
        elif current != page:
            outdated += 1
            sys.stdout.write(f"{name} is not what the commands print; run python tools/page_outputs.py --write\n")
    return min(outdated, 1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
