"""What an extraction read, prompt by prompt: a table that MLflow's UI shows, counts, and a note."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from massact.pipeline.contrast import Contrast
from massact.pipeline.splitting import LEFT_OUT, Fate, Fates
from massact.pipeline.vetting import Vetting

_COLUMNS = (
    "side", "place", "system_prompt", "prompt", "continuation", "judged_text", "trait_score", "coherence_score",
    "unscored_because", "kept", "fate",
)  # fmt: skip
_REASONS = {
    Fate.FAILED: "vetting",
    Fate.UNSCORED: "unscored",
    Fate.PAIR: "pair",
    Fate.NO_WINDOW: "no_window",
}
_SIDES = ("positive", "negative")


@dataclass(frozen=True, slots=True)
class Sources:
    """What one window's vectors were extracted from."""

    contrast: Contrast = field(repr=False)
    fates: tuple[Fates, Fates] = field(repr=False)
    """Of each side's prompts."""
    vetting: Vetting | None = field(repr=False, default=None)
    vetted_as: str | None = None
    """How, in words."""
    warnings: tuple[str, ...] = ()
    """Doubts about the dataset."""


def continuation_bytes(sources: Sources) -> bytes:
    """The table, as a file in the format that MLflow's UI shows."""
    data = list(_rows(sources))
    return json.dumps({"columns": _COLUMNS, "data": data}, ensure_ascii=False).encode()


def _rows(sources: Sources) -> Iterator[Sequence[object]]:
    contrast = sources.contrast
    fates = [(side, fate) for side, own in zip(_SIDES, sources.fates, strict=True) for fate in own]
    for i, (prompt, (side, fate)) in enumerate(zip(contrast.prompts, fates, strict=True)):
        judged = None if contrast.judged is None else contrast.judged[i]
        verdict = sources.vetting.verdicts[i] if sources.vetting else None
        scores = (verdict.trait, verdict.coherence, verdict.reason) if verdict else (None, None, None)
        texts = (prompt.system, prompt.text, contrast.continuations[i], judged)
        yield (side, prompt.place, *texts, *scores, fate not in LEFT_OUT, str(fate))


def count_metrics(sources: Sources) -> dict[str, float]:
    """How many prompts of each side were kept, and how many were left out for which reason."""
    metrics: dict[str, float] = {}
    for side, fates in zip(_SIDES, sources.fates, strict=True):
        counts = Counter(fates)
        metrics[f"n_kept_{side}"] = len(fates) - sum(counts[fate] for fate in LEFT_OUT)
        for fate, reason in _REASONS.items():
            if counts[fate] or (sources.vetting and fate is not Fate.NO_WINDOW):
                metrics[f"n_dropped_{side}_{reason}"] = counts[fate]
    return metrics


def sources_note(sources: Sources) -> str:
    """The counts and doubts, as Markdown for the run's note."""
    lines = ["| side | prompts | train | validation | " + " | ".join(LEFT_OUT) + " |"]
    lines.append("|---" * (4 + len(LEFT_OUT)) + "|")
    for side, fates in zip(_SIDES, sources.fates, strict=True):
        counts = Counter(fates)
        cells = [counts[fate] for fate in (Fate.TRAIN, Fate.VALIDATION, *LEFT_OUT)]
        lines.append(f"| {side} | {len(fates)} | " + " | ".join(str(n) for n in cells) + " |")
    if sources.vetted_as:
        lines += ["", f"Vetted: {sources.vetted_as}."]
    if sources.warnings:
        lines += ["", "Doubts about the dataset:", "", *(f"- {warning}" for warning in sources.warnings)]
    return "\n".join(lines)
