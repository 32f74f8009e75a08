"""The files that an experiment begins with: what `massact init` writes."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from massact.data.traits import EXAMPLE
from massact.errors import UsageError
from massact.names import check_name, file_name

_EXAMPLES = ("How was your weekend?", "Can you help me write a letter to my landlord?")
_DEFINITION = "{mark}: say in one or two sentences how to tell that a response shows {trait}, and what is none.\n"
_PROMPT = "User: {question} Assistant: {mark} by how an answer begins that {verb} {trait}; the model goes on\n"


def new_files(name: str, traits: Sequence[str], model: str) -> dict[Path, str]:
    """Paths, relative to the working directory, and the text of each file. The experiment's name names its file too; a
    folder is begun for each trait; `model` is a hub id, a folder or a file."""
    name = check_name(name, "experiment")
    folders = {check_name(trait, "trait"): Path("traits") / file_name(trait) for trait in traits}
    path = Path(f"{file_name(name)}.yaml")
    if Path(model).exists() and not Path(model).is_absolute():
        model = f"./{Path(model).as_posix()}"
    text = Template(files(__package__).joinpath("experiment.yaml").read_text(encoding="utf-8")).substitute(
        file=path,
        name=_quoted(name),
        traits="\n".join(
            f"  {_quoted(trait)}: {{dataset: {_quoted(f'./{folder.as_posix()}')}}}"
            for trait, folder in (folders or {"my-trait": Path("traits/my-trait")}).items()
        ),
        model_name=_quoted(file_name(Path(model).stem or model)),
        model=_quoted(model),
    )
    made = {path: text}
    for trait, folder in folders.items():
        made |= {folder / name: text for name, text in _trait_files(trait).items()}
    return made


def write_new(made: dict[Path, str]) -> None:
    """Write files that are not there yet, all or none; UsageError where one is there or cannot be written."""
    there = [path for path in made if path.exists() or path.is_symlink()]
    if there:
        raise UsageError(
            f"{', '.join(map(str, there))} {'is' if len(there) == 1 else 'are'} there already, and nothing is "
            "overwritten: give another name, or move what is there away"
        )
    written = []
    try:
        for path, text in made.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except OSError as error:
        for path in written:
            path.unlink()
        raise UsageError(f"cannot write {error.filename or path}: {error.strerror}") from error


def _trait_files(trait: str) -> dict[str, str]:
    sides = {"positive": "shows", "negative": "does not show"}
    prompts = {
        f"{side}.txt": "".join(
            _PROMPT.format(question=question, mark=EXAMPLE, verb=verb, trait=trait) for question in _EXAMPLES
        )
        for side, verb in sides.items()
    }
    steering = json.dumps({"questions": list(_EXAMPLES)}, indent=2) + "\n"
    return {**prompts, "definition.txt": _DEFINITION.format(mark=EXAMPLE, trait=trait), "steering.json": steering}


def _quoted(text: str) -> str:
    """A text as YAML reads it whatever it holds."""
    return json.dumps(text, ensure_ascii=False)
