"""Stored vectors as files: a tensor for each layer, as trait-interp loads them, and beside them what they are of."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from massact.domain import COMPONENT
from massact.errors import StoreError
from massact.keys import digest
from massact.schema import Kind, StageRow, Tag, decode_stage
from massact.store.contents import stored_runs
from massact.transfer.artifacts import ArtifactReader
from massact.transfer.files import write_whole
from massact.transfer.layout import folder_name, slug_of
from massact.transfer.native import iso_time


@dataclass(frozen=True, slots=True)
class PlannedVectors:
    """The newest extraction of a model, trait and position window."""

    run_id: str
    row: StageRow
    finished_at: int

    @property
    def rank(self) -> tuple[int, str]:
        """The greatest is the newest."""
        return (self.finished_at, self.run_id)

    def write(self, folder: Path, artifacts: ArtifactReader) -> Iterator[str]:
        """Write `{method}/layer{N}.pt` and `{method}/metadata.json`. Gives a note for each label that cannot be had.

        Raises:
            UsageError: a file cannot be written.
        """
        for label in self.row.labels:
            try:
                norms, files = artifacts.read_layers(self.run_id, label)
            except StoreError as error:
                yield f"vectors left out: {error}"
                continue
            for layer, content in enumerate(files):
                write_whole(folder / label / f"layer{layer}.pt", [content])
            metadata = {
                "model": self.row.model_id,
                "trait": self.row.trait,
                "method": label,
                "component": COMPONENT,
                "position": self.row.position,
                "layers": {str(layer): {"norm": norm} for layer, norm in enumerate(norms)},
                "timestamp": iso_time(self.finished_at),
            }
            write_whole(folder / label / "metadata.json", [json.dumps(metadata, indent=2).encode()])


def newest_extractions(tracking_uri: str, experiment: str) -> list[PlannedVectors]:
    """The newest extraction of each model, trait and window, the newest of all first.

    Raises:
        StoreError: the store cannot be read.
    """
    found: dict[tuple[str, str | None, str | None], PlannedVectors] = {}
    for run in stored_runs(tracking_uri, experiment, Kind.EXTRACTION, tags=(Tag.ROW,)):
        try:
            row = decode_stage(run.tags.get(Tag.ROW, ""))
        except (ValueError, TypeError):
            continue
        one = PlannedVectors(run.run_id, row, run.finished_at or 0)
        place = (row.model, row.trait, row.position)
        if place not in found or one.rank > found[place].rank:
            found[place] = one
    return sorted(found.values(), key=lambda one: one.rank, reverse=True)


def vector_folders(
    extractions: list[PlannedVectors], trait_folders: Mapping[str, str]
) -> dict[Path, PlannedVectors]:
    """Where they go within the exported folder; of two models whose variants have one name the newest keeps it.

    Raises:
        UsageError: a name cannot be a folder.
    """
    folders: dict[Path, PlannedVectors] = {}
    for one in extractions:
        if one.row.trait is None or one.row.position is None:
            continue
        trait = folder_name(trait_folders.get(one.row.trait, one.row.trait))
        for ending in ("", f"-{digest({'model': one.row.model})[:8]}"):
            variant = folder_name(one.row.model_variant) + ending
            folder = Path("extraction", trait, variant, "vectors", slug_of(one.row.position), COMPONENT)
            if folder not in folders:
                folders[folder] = one
                break
    return folders
