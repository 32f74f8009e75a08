"""Which file a stored result is exported to, and what that file's header says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from massact.errors import UsageError
from massact.interop.lines import OWN
from massact.interop.names import CONTEXT_FIELDS, DEFAULT_PROMPT_SET, RESULTS, last_part
from massact.json_text import parse_object
from massact.keys import digest_texts
from massact.store.schema import EvaluationRow
from massact.vectors.positions import parse_position

ANY_POSITION = "response_all"
"""Slug of the folder of a baseline that no exported evaluation is compared with: it has no window."""


@dataclass(frozen=True, slots=True)
class ImportedLine:
    """What the tag `massact.imported` holds of a line."""

    context: Mapping[str, Any]
    """As `Context.to_document` wrote it."""
    header: Mapping[str, Any] | None
    text: str

    @property
    def has_time(self) -> bool:
        return parse_object(self.text, allow_nan=True).get("timestamp") is not None


@dataclass(frozen=True, slots=True)
class Family:
    """Results that share all but a position: they lie in files with one header."""

    trait: str
    variant: str
    prompt_set: str
    """The one wanted; where another family has it, the setting is added."""
    setting: str
    """Digest of the setting; of an imported one that of header and judge."""
    header: str
    """The header as one line of JSON."""


@dataclass(slots=True)
class PlannedFile:
    """A results file that will be written."""

    family: Family
    slug: str
    newest: int = -1
    """Newest time in it, in milliseconds since 1970; -1 where no line has one."""
    path: PurePosixPath = field(default_factory=PurePosixPath)
    """Within the exported folder; given by `Files.name_files`."""


@dataclass(slots=True)
class Files:
    """All files of an export."""

    by_place: dict[tuple[Family, str], int] = field(default_factory=dict)
    planned: list[PlannedFile] = field(default_factory=list)
    trait_folders: dict[str, str] = field(default_factory=dict)
    """The layout's names of traits, such as `chirp/refusal`, by ours."""
    prompt_files: dict[str, str] = field(default_factory=dict)
    """Where the questions of a trait lie, by our name."""

    def find(self, family: Family, slug: str) -> int:
        """The number of the file of a family at a position."""
        if (family, slug) not in self.by_place:
            self.by_place[family, slug] = len(self.planned)
            self.planned.append(PlannedFile(family, slug))
        return self.by_place[family, slug]

    def of_family(self, family: Family) -> list[int]:
        """The files of a family, or one for no position in particular."""
        found = [number for (one, _), number in self.by_place.items() if one == family]
        return found or [self.find(family, ANY_POSITION)]

    def add_imported(self, row: EvaluationRow, line: ImportedLine) -> Family:
        """The family of an imported result; its trait keeps the folder that it came from."""
        named = (line.header or {}).get("trait")
        if isinstance(named, str) and last_part(named) == last_part(row.trait):
            self.trait_folders[row.trait] = named
        return imported_family(row, line)

    def header(self, family: Family) -> str:
        """The header as one line of JSON; of measured results with the layout's names of trait and questions."""
        header = parse_object(family.header, allow_nan=True)
        if OWN in header:
            return family.header
        folder = self.trait_folders.get(family.trait, family.trait)
        header["trait"] = header["vector_source"]["trait"] = folder
        header["prompts_file"] = self.prompt_files.get(
            family.trait, f"datasets/traits/{folder}/steering.json"
        )
        return json.dumps(header)

    def name_files(self) -> None:
        """Give every file its path: settings never share one, the newest keeps the plain prompt set.

        Raises:
            UsageError: a name cannot be a folder.
        """
        taken: set[PurePosixPath] = set()
        order = sorted(
            self.planned, key=lambda one: (-one.newest, one.family.setting, one.family.header, one.slug)
        )
        for file in order:
            family = file.family
            folder = PurePosixPath(
                "steering",
                folder_name(self.trait_folders.get(family.trait, family.trait)),
                folder_name(family.variant),
                folder_name(file.slug),
            )
            endings = (
                "",
                f"-{family.setting[:8]}",
                *(f"-{family.setting[:8]}-{n}" for n in range(2, 10_000)),
            )
            paths = (folder / (folder_name(family.prompt_set) + ending) / RESULTS for ending in endings)
            file.path = next(path for path in paths if path not in taken)
            taken.add(file.path)


def imported_family(row: EvaluationRow, line: ImportedLine) -> Family:
    """The family of an imported result: its file's header, with where the file lay beside it."""
    header = json.dumps({**(line.header or {"type": "header"}), OWN: line.context})
    prompt_set = str(line.context["prompt_set"])
    # a judge each; what was asked over several numbers of questions goes back into the file it came from
    return Family(row.trait, row.model_variant, prompt_set, digest_texts([header, row.judge]), header)


def measured_family(row: EvaluationRow, vector_model: str | None) -> Family:
    """The family of a measured result: model, trait and setting.

    Args:
        vector_model: the model that the vectors were extracted from; `None` where the store does not tell.
    """
    header = {
        "type": "header",
        "trait": row.trait,
        "direction": row.direction or "positive",
        "steering_model": row.model_id,
        "steering_experiment": row.experiment,
        "vector_source": {
            "model": vector_model or "unknown",
            "experiment": row.experiment,
            "trait": row.trait,
        },
        "eval": {"model": row.judge_model, "method": row.judge, "trait_judge": None},
        "questions_digest": row.question_set,
        "n_questions": row.n_questions,
    }
    return Family(row.trait, row.model_variant, DEFAULT_PROMPT_SET, row.setting, json.dumps(header))


def imported_line(tag: str | None) -> ImportedLine | None:
    """The line that a tag `massact.imported` holds; `None` for a measured result, or where it is damaged."""
    try:
        values = parse_object(tag or "null", allow_nan=True)
        context = {name: values[name] for name in CONTEXT_FIELDS}
        parse_object(values["line"], allow_nan=True)
        return ImportedLine(context, values["header"], values["line"])
    except (ValueError, KeyError, TypeError):
        return None


def slug_of(position: str | None) -> str:
    """The folder of a position window."""
    return ANY_POSITION if position is None else parse_position(position).slug


def folder_name(name: str) -> str:
    """A name as a relative folder.

    Raises:
        UsageError: it would lead out of the exported folder, or no file system takes it.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 200 for part in parts):
        raise UsageError(
            f"{name[:100]!r} cannot be the name of a folder: no file can be written for its results"
        )
    return name
