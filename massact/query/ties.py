"""Which labels are statistically tied with the winner.

Gupta's subset selection (Technometrics 7, 1965) on paired differences: with a chance of at least the
confidence the label that is truly best is the winner or among those tied with it. A label is kept unless
its best falls behind the winner's by more than

    c * se(difference)

or by less than half a point, which no judge can tell. Here c is the critical value for that many
comparisons with one winner: the bootstrap over questions draws the largest studentised difference that
chance alone gives, all labels together, so that what the labels have in common counts. At few questions it
is widened from the normal to Student's distribution.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

CONFIDENCE = 0.95
LEAST_QUESTIONS = 3
NEGLIGIBLE = 0.5
"""Points of delta: no judge is as exact, so a smaller lead is a tie however steady it is."""
N_DRAWS = 2000
_SEED = 20_251_109


def tied_with_winner(deltas: "Numbers", winner: int, *, confidence: float = CONFIDENCE) -> list[int] | None:
    """The labels that cannot be told from the winner.

    Args:
        deltas: `[n_labels, n_questions]`, each question's delta at every label's best; NaN where unscored. Larger
            is better: turn the sign where it is not.
        winner: the label with the best mean.
        confidence: that the truly best label is the winner or tied with it, 0 to 1.

    Returns:
        Indices of the labels, without the winner; `None` where fewer than three questions were scored.
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit  # scipy.stats has the same and takes half a second to load

    others = [index for index in range(len(deltas)) if index != winner]
    differences = deltas[winner] - deltas[others]
    counts = (~np.isnan(differences)).sum(axis=1)
    if not others:
        return []
    if counts.min() < LEAST_QUESTIONS:
        return None
    n = deltas.shape[1]
    means = np.nanmean(differences, axis=1)
    errors = np.nanstd(differences, axis=1, ddof=1) / np.sqrt(counts)
    centred = np.nan_to_num(differences - means[:, None])
    weights = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=N_DRAWS)
    drawn = centred @ weights.T / counts[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        # a resampled mean varies by (n - 1) / n of what a fresh one does
        studentised = np.nan_to_num(drawn / errors[:, None]) * np.sqrt(n / max(n - 1, 1))
    freedom = int(counts.min()) - 1
    widening = stdtrit(freedom, confidence) / ndtri(confidence)
    critical = float(np.quantile(studentised.max(axis=0), confidence)) * float(widening)
    return [
        label
        for label, mean, error in zip(others, means, errors, strict=True)
        if mean <= max(critical * error, NEGLIGIBLE)
    ]
