"""Vector methods: how a direction is made from two sides' activations.

A method is a plain function `(positive, negative, seed) -> direction`, activations
`[n_prompts, d_model]` in float32 and a direction `[d_model]` that need not be normalised. Other packages and an
experiment's own code add methods (docs/extending.md)."""

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from massact.domain import METHODS, NO_CLEANING, Cleaning, Recipe
from massact.errors import DataError, PluginError
from massact.plugins import call_outside, load_plugin
from massact.vectors.arrays import array_digest

# Cleaning: what is done to massive dims, in the activations before a vector is made or in the vector after.


def zero_dims(values: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """`values` `[..., d_model]` with some dims at exactly zero. Raises DataError: a dim that is not there."""
    outside = [dim for dim in dims if not 0 <= dim < values.shape[-1]]
    if outside:
        raise DataError(
            f"dim {outside[0]} does not exist in a stream of {values.shape[-1]} dims: "
            "the calibration is of another model; run massact calibrate"
        )
    cleaned = values.clone()
    cleaned[..., list(dims)] = 0
    return cleaned


def clean(values: torch.Tensor, cleaning: Cleaning, dims: Sequence[int]) -> torch.Tensor:
    """`values` `[..., d_model]` (`[n, d_model]` to winsorise) cleaned; themselves where nothing is.
    `keep` is the opposite of zeroing: only the dims stay (Roh et al. 2026, arXiv:2603.00029, steer so). `winsorise`
    cuts each activation off at a quantile of its own |h| over all dims, above and below, as p-e-w/heretic does.
    `dims`: the massive dims that the cleaning names (`Calibration.dims`).
    Raises DataError: a dim that `d_model` does not have."""
    if cleaning.quantile is not None:
        # one by one: torch's quantile takes 16 million numbers at most
        limits = torch.stack([row.abs().quantile(cleaning.quantile) for row in values])[:, None]
        return values.clamp(-limits, limits)
    if cleaning.when == "none":
        return values
    zeroed = zero_dims(values, dims)
    return values - zeroed if cleaning.mode == "keep" else zeroed


def normalise(vector: torch.Tensor, what: str = "a vector") -> torch.Tensor:
    """The vector `[d_model]` at unit L2 norm, float32. Raises DataError: it is zero or not finite: no direction."""
    exact = vector.double()
    norm = exact.norm()
    if not torch.isfinite(norm) or norm == 0:
        raise DataError(
            f"{what} has no direction: it is zero or not finite. Either cleaning zeroed all that it held, or both "
            "sides have equal activations in every dim that was not cleaned, or the activations overflowed their dtype"
        )
    unit: torch.Tensor = (exact / norm).float()
    return unit


Method = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
PROBE_C, PROBE_ITERATIONS = 1.0, 1000
GRADIENT_STEPS, GRADIENT_RATE = 100, 0.01


class ProbeDidNotConvergeWarning(UserWarning):
    """The logistic regression reached its last iteration; its direction is not the optimum."""


def mean_diff(positive: torch.Tensor, negative: torch.Tensor, _seed: int = 0) -> torch.Tensor:
    """Difference of the two sides' means (Marks & Tegmark 2023; Rimsky et al. 2023)."""
    return positive.double().mean(0) - negative.double().mean(0)


def probe(positive: torch.Tensor, negative: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Weights of a logistic regression on rows scaled to unit norm (C=1, as trait-interp does). Warns
    ProbeDidNotConvergeWarning: 1000 iterations were not enough."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    rows = torch.cat([positive, negative]).double()
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    if not torch.isfinite(rows).all():
        return torch.full_like(rows[0], torch.nan)  # for `normalise` to refuse; scikit-learn would name its X
    sides = [1] * len(positive) + [0] * len(negative)
    # scikit-learn takes seeds of 32 bits only
    regression = LogisticRegression(C=PROBE_C, max_iter=PROBE_ITERATIONS, random_state=seed % 2**32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        regression.fit(rows.numpy(), sides)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        warnings.warn(
            f"the probe did not converge in {PROBE_ITERATIONS} iterations", ProbeDidNotConvergeWarning, stacklevel=2
        )
    return torch.from_numpy(regression.coef_[0])


def gradient(positive: torch.Tensor, negative: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A unit vector moved by Adam towards the largest separation of the two sides' mean projections. 100 steps of 0.01
    from a seeded random start, as trait-interp does: it stops before it reaches the optimum (which is `mean_diff`), and
    Adam's steps weigh small and massive dims alike."""
    difference = mean_diff(positive, negative)
    if not difference.any():
        return difference  # nothing to move towards: the random start must not pass for a result
    difference = difference / difference.norm()
    vector = _random(difference.shape[0], seed).double()
    optimizer = torch.optim.Adam([vector], lr=GRADIENT_RATE)
    for _ in range(GRADIENT_STEPS):
        norm = vector.norm()
        unit = vector / norm
        # of the loss -unit @ difference, by hand: autograd would take most of the time
        vector.grad = ((unit @ difference) * unit - difference) / norm
        optimizer.step()
    return vector


def pca(positive: torch.Tensor, negative: torch.Tensor, _seed: int = 0) -> torch.Tensor:
    """First principal component of the differences of pairs (RepE, Zou et al. 2023, arXiv:2310.01405; repeng).
    Prompt i of one side is paired with prompt i of the other. The differences are not centred, so that what all pairs
    share counts: that is repeng's `pca_center`, and in effect RepE, which shuffles the order within pairs and centres
    then. repeng's default `pca_diff` centres them and so leaves their mean out. As in all three the sign is that by
    which more positive prompts than not project higher than their negative ones; a tie goes by the mean.
    Raises DataError: the sides differ in length."""
    if len(positive) != len(negative):
        raise DataError(
            f"pca takes prompts in pairs, and there are {len(positive)} positive and {len(negative)} negative ones: "
            "give the trait equally many"
        )
    differences = positive.double() - negative.double()
    direction = _first_component(differences)
    projected = differences @ direction
    return -direction if (projected.sign().sum() or projected.mean()) < 0 else direction


def lat(positive: torch.Tensor, negative: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """First principal component of the differences of random pairs: RepE's linear artificial tomography (LAT).
    All prompts are shuffled by the seed and paired whichever their side (Zou et al. 2023, arXiv:2310.01405); an odd one
    is left out. The differences are centred, as in RepE's code. The sides decide the sign alone: the positive one's
    mean projects higher."""
    rows = torch.cat([positive, negative]).double()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    first, second = rows[order[: len(rows) // 2 * 2]].view(-1, 2, rows.shape[1]).unbind(1)
    differences = first - second
    direction = _first_component(differences - differences.mean(0))
    return -direction if mean_diff(positive, negative) @ direction < 0 else direction


def _first_component(rows: torch.Tensor) -> torch.Tensor:
    """The unit direction `[d_model]` along which rows `[n, d_model]` are largest; NaN where there is none."""
    if not torch.isfinite(rows).all() or not rows.any():
        return torch.full_like(rows[0], torch.nan)  # for `normalise` to refuse
    component: torch.Tensor = torch.linalg.svd(rows, full_matrices=False).Vh[0]
    return component


def mean_centred(positive: torch.Tensor, neutral: torch.Tensor, _seed: int = 0) -> torch.Tensor:
    """The positive mean minus that of neutral text: mean-centring (Jorgensen et al. 2023, arXiv:2312.03813).
    The negative prompts take no part. Neutral are those that calibrate the model (`calibration.prompts`), read at the
    same window; the paper takes text like that which the model was trained on.
    `neutral`: activations `[n_neutral, d_model]`."""
    return mean_diff(positive, neutral)


def random_baseline(positive: torch.Tensor, _negative: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A seeded random direction: what any real vector has to beat."""
    return _random(positive.shape[-1], seed)


_METHODS: dict[str, Method] = dict(
    zip(METHODS, (mean_diff, probe, gradient, pca, lat, mean_centred, random_baseline), strict=True)
)


def find_method(name: str) -> Method:
    """The method of a name, whoever adds it. Raises PluginError: there is none, or it cannot be loaded."""
    return _METHODS.get(name) or load_plugin("methods", name)


def extract_vector(
    recipe: Recipe, positive: torch.Tensor, negative: torch.Tensor, *, dims: Sequence[int], seed: int
) -> torch.Tensor:
    """The unit vector `[d_model]`, float32, of a recipe.
    `positive`: activations `[n_positive, d_model]` of one layer, averaged over the position window. `negative`: the
    same of the other side, or of neutral prompts. `dims`: the massive dims that the recipe's cleaning names at this
    layer (`Calibration.dims`). `seed`: of the methods that draw; give each layer its own.
    Raises DataError: the vector has no direction, or a dim does not exist."""
    before = recipe.cleaning if recipe.cleaning.when == "before" else NO_CLEANING
    positive, negative = (clean(side.float(), before, dims) for side in (positive, negative))
    made = partial(find_method(recipe.method), positive, negative, seed)
    direction = made() if recipe.method in _METHODS else call_outside(f"the method {recipe.method}", made, PluginError)
    if not isinstance(direction, torch.Tensor) or direction.shape != positive.shape[-1:]:
        shape = tuple(getattr(direction, "shape", ())) or type(direction).__name__
        raise PluginError(f"the method {recipe.method} gave {shape}, not a direction [{positive.shape[-1]}]")
    # a probe's weight of a dim that is zero everywhere is zero; a random direction's is not
    return normalise(direction if recipe.cleaning.quantile else clean(direction, recipe.cleaning, dims))


def _random(d_model: int, seed: int) -> torch.Tensor:
    return torch.randn(d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


# Plain figures about vectors: where their energy lies, how well they separate, what they are called by.


@dataclass(frozen=True, slots=True)
class Separation:
    """How well a vector tells the two sides of the validation split apart."""

    accuracy: float  # share told apart by the midpoint of the training projections, 0 to 1; NaN without a split
    effect_size: float  # Cohen's d of the projections: difference of means over the pooled standard deviation


def vector_digest(vector: torch.Tensor) -> str:
    """SHA-256, in hex, of the vector `[d_model]` as little-endian float32."""
    return array_digest(vector.detach().cpu().float().numpy())


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of the angle between two vectors `[d_model]`, in float64."""
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


def massive_energy(vector: torch.Tensor, dims: Sequence[int]) -> float:
    """Share of a vector's squared norm that lies in the given dims, 0 to 1."""
    squared = vector.double() ** 2
    return float(squared[list(dims)].sum() / squared.sum())


def relative_strength(
    vector: torch.Tensor, coefficient: float, *, dims: Sequence[int], norm_without_massive: float
) -> float:
    """coefficient x |v without massive dims| / mean |h without massive dims|: one axis for all methods. A vector with a
    share E of its energy in massive dims moves the rest of the stream by coefficient x sqrt(1 - E) only
    (docs/design/relative-strength.md)."""
    return float(coefficient * zero_dims(vector.double(), dims).norm() / norm_without_massive)


def separation(
    vector: torch.Tensor, train: tuple[torch.Tensor, torch.Tensor], validation: tuple[torch.Tensor, torch.Tensor]
) -> Separation:
    """Validation accuracy and effect size of a vector `[d_model]`. `train`: activations of the positive and the
    negative side, `[n, d_model]` each. `validation`: the same of the prompts that were kept out."""
    v = vector.double()
    middle = sum(float((side.double() @ v).mean()) for side in train) / 2
    positive, negative = (side.double() @ v for side in validation)
    n_positive, n_negative = len(positive), len(negative)
    if n_positive == 0 or n_negative == 0:
        return Separation(math.nan, math.nan)
    right = int((positive > middle).sum()) + int((negative <= middle).sum())
    accuracy = right / (n_positive + n_negative)
    freedom = n_positive + n_negative - 2
    if n_positive < 2 or n_negative < 2:
        return Separation(accuracy, math.nan)
    pooled = math.sqrt((float(positive.var()) * (n_positive - 1) + float(negative.var()) * (n_negative - 1)) / freedom)
    difference = float(positive.mean() - negative.mean())
    return Separation(accuracy, difference / pooled if pooled > 0 else math.nan)


# Which vectors are so alike that evaluating them one by one would tell nothing new.

NameT = TypeVar("NameT", bound=Hashable)


def likeness(a: torch.Tensor, b: torch.Tensor, dims: Sequence[int]) -> float:
    """How alike two unit vectors `[d_model]` are, -1 to 1: the least of two figures, 1 for equal vectors.

        2 a.b / (|a|^2 + |b|^2)                  the whole vectors; of unit vectors their cosine
        the same of a and b without the massive dims

    The second is needed because massive dims hide what steers: where 99 % of the energy lies in one of them the cosine
    is 0.99 whatever else is in the vectors, and that else moves the text (docs/design/relative-strength.md). There the
    lengths count too, since one coefficient steers both. `dims`: the massive dims."""
    a, b = a.double(), b.double()
    return min(1.0, _agreement(a, b), _agreement(zero_dims(a, dims), zero_dims(b, dims)))  # rounding exceeds 1


def _agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    lengths = float(a @ a + b @ b)
    return 2 * float(a @ b) / lengths if lengths else 1.0  # two zero vectors are equal


def alike_groups(
    names: Iterable[NameT], likeness_of: Callable[[NameT, NameT], float | None], threshold: float
) -> dict[NameT, tuple[NameT, float]]:
    """Of each name that is like an earlier one, which, and how like.
    A name joins the first representative that it is like; else it becomes one. It is compared with the representative
    itself, so that no chain of small differences makes a large one.
    `names`: in the order in which they may become representatives. `likeness_of`: of a representative and a name;
    `None`: they are equal. `threshold`: what must be exceeded; equal ones are always alike.
    Returns representative and likeness (1 for equal ones) by name; representatives are absent."""
    representatives: list[NameT] = []
    like_earlier: dict[NameT, tuple[NameT, float]] = {}
    for name in names:
        for representative in representatives:
            measured = likeness_of(representative, name)
            if measured is None or measured > threshold:
                like_earlier[name] = (representative, 1.0 if measured is None else measured)
                break
        else:
            representatives.append(name)
    return like_earlier
