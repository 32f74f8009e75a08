"""Which file each stored result is exported to, and what that file's header says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from massact.errors import UsageError
from massact.interop.lines import OWN
from massact.interop.names import DEFAULT_PROMPT_SET, RESULTS, Place, last_part
from massact.json_text import parse_object
from massact.keys import digest_texts
from massact.store.read.base import RawRun
from massact.store.schema import EvaluationRow, Kind
from massact.toy import is_toy
from massact.vectors.positions import parse_position

ANY_POSITION = "response_all"
"""Slug of the folder of a baseline that no exported evaluation is compared with: it has no window."""


@dataclass(frozen=True, slots=True)
class ImportedLine:
    """What the tag `massact.imported` holds of a line."""

    context: Mapping[str, Any]  # as `Context.to_document` wrote it
    header: Mapping[str, Any] | None
    text: str


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A finished baseline or evaluation of the run store."""

    run: RawRun
    row: EvaluationRow
    imported: ImportedLine | None

    @property
    def is_baseline(self) -> bool:
        return self.row.kind is Kind.BASELINE

    @property
    def at(self) -> int:
        """When it finished; -1 for an imported line without a time."""
        line = self.imported
        is_timed = line is None or parse_object(line.text, allow_nan=True).get("timestamp") is not None
        return self.run.times[1] if is_timed else -1


@dataclass(frozen=True, slots=True)
class Family:
    """Results that share all but a position: they lie in files with one header."""

    trait: str
    variant: str
    prompt_set: str  # the one wanted; where another family has it, the setting is added
    setting: str  # digest of the setting; of an imported one that of header and judge
    header: str  # the header as one line of JSON


@dataclass(slots=True, eq=False)
class PlannedFile:
    family: Family
    slug: str
    results: list[StoredResult] = field(default_factory=list)
    path: Path = field(default_factory=Path)  # within the exported folder; given by `ExportIndex.name_files`

    @property
    def newest(self) -> int:
        """Newest time in it, in milliseconds since 1970; -1 where no line has one."""
        return max((result.at for result in self.results), default=-1)

    def in_order(self) -> list[StoredResult]:
        """Baselines, then evaluations, each by time and key."""
        return sorted(
            self.results,
            key=lambda result: (
                not result.is_baseline,
                result.at,
                result.row.key,
                result.run.times[1],
                result.run.run_id,
            ),
        )


@dataclass(slots=True)
class ExportIndex:
    vector_models: Mapping[tuple[str, str | None], str] = field(default_factory=dict)
    """The model that the vectors of a model and trait were extracted from."""
    by_place: dict[tuple[Family, str], PlannedFile] = field(default_factory=dict)
    trait_folders: dict[str, str] = field(default_factory=dict)
    """The layout's names of traits, such as `chirp/refusal`, by ours."""
    prompt_files: dict[str, str] = field(default_factory=dict)  # where the questions of a trait lie, by our name
    _by_baseline: dict[str, dict[PlannedFile, None]] = field(default_factory=dict)
    """Files whose evaluations are compared with a baseline, by its key."""

    def name_trait(self, trait: str, dataset: PurePath) -> None:
        """What the layout calls a trait: its folder below `traits/`, or a relative folder as it is written."""
        if is_toy(str(dataset)):
            return
        parts = dataset.parts
        below = parts[len(parts) - parts[::-1].index("traits") :] if "traits" in parts else ()
        if not below and not dataset.is_absolute():
            below = tuple(part for part in parts if part not in ("..", "~"))
        if below:
            self.trait_folders[trait] = "/".join(below)
        self.prompt_files[trait] = str(dataset / "steering.json")

    def name_imported(self, result: StoredResult) -> None:
        """The trait of an imported result keeps the folder that it came from; before any result is added."""
        named = (result.imported.header or {}).get("trait") if result.imported else None
        if isinstance(named, str) and last_part(named) == last_part(result.row.trait):
            self.trait_folders[result.row.trait] = named

    def add(self, result: StoredResult) -> None:
        """Put a result into its file; a baseline, after all evaluations, beside those that are compared with it."""
        family, row = self._family(result), result.row
        position = result.imported.context["position"] if result.imported else None
        if not result.is_baseline:
            files = [self._file(family, slug_of(position or row.position))]
            if row.baseline_key is not None:
                self._by_baseline.setdefault(row.baseline_key, {})[files[0]] = None
        elif position is not None:
            files = [self._file(family, slug_of(position))]
        else:
            # the setting of a measured one has no direction, the evaluations' has: the key is what they share
            files = [] if result.imported else list(self._by_baseline.get(row.key, ()))
            files = files or [file for (of, _), file in self.by_place.items() if of == family]
        for file in files or [self._file(family, ANY_POSITION)]:
            file.results.append(result)

    def _file(self, family: Family, slug: str) -> PlannedFile:
        return self.by_place.setdefault((family, slug), PlannedFile(family, slug))

    def _family(self, result: StoredResult) -> Family:
        row, line = result.row, result.imported
        if line is None:
            header = json.dumps(self._measured_header(row))
            return Family(row.trait, row.model_variant, DEFAULT_PROMPT_SET, row.setting, header)
        header = json.dumps({**(line.header or {"type": "header"}), OWN: line.context})
        # a judge each; what was asked over several numbers of questions goes back into the file it came from
        setting = digest_texts([header, row.judge])
        return Family(row.trait, row.model_variant, str(line.context["prompt_set"]), setting, header)

    def _measured_header(self, row: EvaluationRow) -> dict[str, Any]:
        """With the layout's names of trait and questions."""
        folder = self.trait_folders.get(row.trait, row.trait)
        return {
            "type": "header",
            "trait": folder,
            "direction": row.direction or "positive",
            "steering_model": row.model_id,
            "steering_experiment": row.experiment,
            "vector_source": {
                "model": self.vector_models.get((row.model, row.trait), "unknown"),
                "experiment": row.experiment,
                "trait": folder,
            },
            "eval": {"model": row.judge_model, "method": row.judge, "trait_judge": None},
            "questions_digest": row.question_set,
            "n_questions": row.n_questions,
            "prompts_file": self.prompt_files.get(row.trait, f"datasets/traits/{folder}/steering.json"),
        }

    def name_files(self) -> None:
        """Give every file its path: settings never share one, the newest keeps the plain prompt set."""
        taken: set[Path] = set()
        order = sorted(
            self.by_place.values(), key=lambda file: (-file.newest, file.family.setting, file.family.header, file.slug)
        )
        for file in order:
            family = file.family
            trait = self.trait_folders.get(family.trait, family.trait)
            folder = Path("steering", *map(folder_name, (trait, family.variant, file.slug)))
            prompt_set, ending, count = folder_name(family.prompt_set), "", 1
            while (path := folder / (prompt_set + ending) / RESULTS) in taken:
                ending = f"-{family.setting[:8]}" + (f"-{count}" if count > 1 else "")
                count += 1
            file.path = path
            taken.add(path)


def imported_line(tag: str | None) -> ImportedLine | None:
    """The line that a tag `massact.imported` holds; `None` for a measured result, or where it is damaged."""
    try:
        values = parse_object(tag or "null", allow_nan=True)
        context = {name: values[name] for name in Place.__slots__}
        parse_object(values["line"], allow_nan=True)
        return ImportedLine(context, values["header"], values["line"])
    except (ValueError, KeyError, TypeError):
        return None


def slug_of(position: str | None) -> str:
    return ANY_POSITION if position is None else parse_position(position).slug


def folder_name(name: str) -> str:
    """A name as a relative folder. Raises UsageError: it would lead out of the exported folder, or no file system takes
    it."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 200 for part in parts):
        raise UsageError(f"{name[:100]!r} cannot be the name of a folder: no file can be written for its results")
    return name
