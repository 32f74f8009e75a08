"""What a report is told beside the store's answers: responses, vectors, and where the numbers come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

SampleRole = Literal["baseline", "best", "over the cliff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A response shown in the report."""

    title: str
    question: str
    response: str
    trait: float | None
    """Judge's trait score, 0 to 100; `None` where unscored."""
    coherence: float | None
    """Judge's coherence score, 0 to 100; `None` where unscored."""
    run_id: str
    place: str = ""
    """What it stands beside: samples of one place, in order, are shown side by side; empty: alone."""
    role: SampleRole | None = None
    judge: str | None = None
    """Who scored it."""


@dataclass(frozen=True, slots=True)
class SampleRow:
    """Samples side by side."""

    place: str
    samples: tuple[Sample, ...]


def sample_rows(samples: tuple[Sample, ...]) -> tuple[SampleRow, ...]:
    """Samples by place, in order; one without a place has a row of its own."""
    rows: dict[str, list[Sample]] = {}
    for index, sample in enumerate(samples):
        rows.setdefault(sample.place or f"\0{index}", []).append(sample)
    return tuple(SampleRow(place.partition("\0")[0], tuple(some)) for place, some in rows.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFact:
    """Where one vector's energy lies."""

    model: str
    trait: str
    position: str
    label: str
    layer: int
    massive_energy: float
    """Share of its squared norm in the massive dims of the uniform list, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineMatrix:
    """Cosines between the vectors of some labels at one place and layer."""

    model: str
    trait: str
    position: str
    layer: int
    labels: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    """`[n_labels, n_labels]`, -1 to 1; symmetric."""


@dataclass(frozen=True, slots=True, order=True)
class Commit:
    """A commit of massact that runs were made by."""

    commit: str
    """Empty where the runs do not tell."""
    n_runs: int
    n_dirty: int
    """How many of them with changes in the tree that no commit holds."""


@dataclass(frozen=True, slots=True)
class Judging:
    """What the judges of the phases' runs were asked."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cached: int
    """Responses whose verdict was known."""
    cost_usd: float | None
    """At the experiment file's prices; `None` where it gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the numbers come from."""

    n_evaluations: int
    total_seconds: float | None = None
    """Generating and judging, all evaluations together."""
    git_commit: str | None = None
    """Of the report."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to version."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many runs of each kind there are, by its name in words, such as `screenings`."""
    generation_seconds: float | None = None
    judge_seconds: float | None = None
    commits: tuple[Commit, ...] = ()
    """Of the evaluations; the most runs first."""
    datasets: Mapping[str, str] = field(default_factory=dict)
    """Digest of each trait's dataset, as its files are now."""
    judging: Judging | None = None
    """`None` where no phase's run tells."""
