"""Which stored extraction an experiment means, by validation split and vetting; loads no model."""

import shlex

from massact.config import Experiment
from massact.json_text import parse_object
from massact.plugins import own_digest
from massact.store.read import RunStore
from massact.store.read.base import Stored
from massact.store.schema import Kind, StageRow


def newest_extractions(
    experiment: Experiment, store: RunStore, *, any_settings: bool = False
) -> dict[tuple[str, str | None, str | None], Stored[StageRow]]:
    """By model, trait and window: the newest extraction that is meant, else the newest; or just the newest."""
    newest: dict[tuple[str, str | None, str | None], Stored[StageRow]] = {}
    for stage in store.stages(Kind.EXTRACTION, experiment.name):  # the oldest first
        place = (stage.row.model, stage.row.trait, stage.row.position)
        known = newest.get(place)
        if any_settings or known is None or is_meant(stage.row, experiment) or not is_meant(known.row, experiment):
            newest[place] = stage
    return newest


def is_meant(row: StageRow, experiment: Experiment) -> bool:
    """Whether an extraction was made with the validation split and the vetting that the experiment asks for."""
    return other_settings(row, experiment) is None


def other_settings(row: StageRow, experiment: Experiment) -> str | None:
    """What an extraction was made with that the experiment does not ask for, and what to do; `None`: nothing."""
    split = experiment.extraction.validation_split
    if row.validation_split not in (None, split):
        asks = "--val-split" if experiment.extraction.is_split_given else "the experiment file"
        return (
            f"extracted with a validation split of {row.validation_split:g}, {asks} says {split:g}: pass "
            f"--val-split {row.validation_split:g} here too, or extract again"
        )
    vetting = vetting_words(experiment)
    if row.vetting != vetting:
        was, wanted = (f"vetting ({words})" if words else "no vetting" for words in (row.vetting, vetting))
        return f"extracted with {was}, the experiment file asks for {wanted}: extract again"
    told = parse_object(row.cell).get("sources", {}) if row.cell else {}
    for method, source in told.items():
        if method in experiment.extraction.methods and source != own_digest("methods", method):
            return f"extracted before the file of the method {method} was changed: extract again"
    return None


def extract_command(experiment: Experiment) -> str:
    """The command line that makes the extraction that is meant."""
    given = experiment.extraction.is_split_given
    option = f" --val-split {experiment.extraction.validation_split:g}" if given else ""
    return f"massact extract --experiment {shlex.quote(str(experiment.file))}{option}"


def vetting_words(experiment: Experiment) -> str | None:
    """How an experiment's extractions are vetted, in words; `None` where they are not."""
    vetting = experiment.extraction.vetting
    if vetting is None:
        return None
    return (
        f"positive >= {vetting.positive_at_least:g}, negative <= {vetting.negative_at_most:g}, {vetting.filter}, "
        f"{vetting.max_new_tokens} tokens read by {experiment.judge.name}"
    )
