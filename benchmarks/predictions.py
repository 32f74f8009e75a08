"""How often `massact predict` adopts a ridge where it should, and where it should not, on made-up evaluations.

Run from the project's root: python benchmarks/predictions.py [--draws 100]

Prints a table of docs/statistics.md. Each world has some groups (a model and a trait) of 15 vectors: three methods at
five depths. A group's vectors share a relative strength that scatters between groups, and each scatters around it.
"""

import argparse
import math

import numpy as np

from massact.prediction.cases import Case, Outcome
from massact.prediction.forms import FITS, RIDGE, STRENGTH, TREES
from massact.prediction.leaving_out import leave_groups_out
from massact.prediction.prior import VectorFacts
from massact.prediction.verdict import chosen_form

BETWEEN, WITHIN = 0.15, 0.10
"""Standard deviations of log relative strength."""
WORLDS = {
    "one for all layers": 0.0,
    "a third more at the last layer than at the first": 0.3,
    "twice as much at the last layer": 0.69,
}
"""By how much log relative strength rises from the first layer to the last."""


def invented_cases(
    n_groups: int,
    by_depth: float,
    rng: np.random.Generator,
    *,
    between: float = BETWEEN,
    within: float = WITHIN,
) -> list[Case]:
    """Cases of which log relative strength of the best is known: by depth, by group, and by chance."""
    cases = []
    for group in range(n_groups):
        scale, own = math.exp(rng.normal(0, 0.7)), rng.normal(0, between)
        for method in ("mean_diff", "probe", "gradient"):
            for layer in range(5):
                depth, energy = layer / 4, rng.uniform(0, 0.8)
                norm = scale * (1 + layer)
                strength = math.sqrt(1 - energy) / norm
                log_best = math.log(0.8) + by_depth * (depth - 0.5) + own + rng.normal(0, within)
                best = math.exp(log_best) / strength
                facts = VectorFacts(
                    method=method,
                    layer=layer,
                    depth=depth,
                    unit_strength=strength,
                    norm=norm * rng.uniform(2, 30),
                    norm_without_massive=norm,
                    massive_energy=energy,
                    cosine_to_uncleaned=rng.uniform(0.3, 1),
                    cosine_to_mean=rng.uniform(-1, 1),
                    effect_size=rng.uniform(2, 8),
                )
                cliff = best * math.exp(0.2 + rng.normal(0, within))
                outcome = Outcome(
                    setting="invented",
                    baseline_trait_mean=5.0,
                    model=f"model-{group}",
                    trait="trait",
                    position="response[:5]",
                    label=method,
                    layer=layer,
                    vector_digest=None,
                    best=best,
                    low=cliff / 1.09,
                    high=cliff * 1.09,
                    best_delta=90.0,
                )
                cases.append(Case(outcome, facts))
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100)
    n_draws = parser.parse_args().draws
    fits = {name: fit for name, fit in FITS.items() if name != TREES}
    print("| true relative strength | groups | ridge adopted | the ridge's error / relative strength's |")
    print("|---|---:|---:|---:|")
    for name, by_depth in WORLDS.items():
        for n_groups in (5, 8, 12):
            rng = np.random.default_rng(n_groups)
            adopted, ratios = 0, []
            for _ in range(n_draws):
                trial = leave_groups_out(invented_cases(n_groups, by_depth, rng), fits=fits, targets=["best"])
                adopted += chosen_form(trial, "best") == RIDGE
                ratios.append(trial.scores["best", RIDGE].against(trial.scores["best", STRENGTH]).value)
            print(f"| {name} | {n_groups} | {adopted / n_draws:.2f} | {np.mean(ratios):.3f} |", flush=True)


if __name__ == "__main__":
    main()
