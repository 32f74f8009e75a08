"""How well judges without an API agree with a person's reading of texts that a real model wrote.

    ln -sf "$(python tools/smollm2.py)" experiments/
    python benchmarks/judges.py
    python benchmarks/judges.py --judge self --judge "trait=regex:sorry|can.t|cannot|unable,coherence=perplexity"

`judge_texts.jsonl` has texts of SmolLM2-135M-Instruct on questions that are in no trait's folder: unsteered, steered
with `mean_diff` on both sides of the cliff, and with their words shuffled. Of each a person said whether it shows the
trait and whether it is coherent, 1 or 0, and nothing where that was not obvious. Printed are Pearson's correlation of
the scores with what was said, and the share of pairs (one of either kind) that the judge orders rightly.
"""

import json
import sys
from pathlib import Path
from statistics import correlation

import click

from massact.cli.session import open_session
from massact.config.judges import judge_like
from massact.judges import Exchange

TEXTS = Path(__file__).with_name("judge_texts.jsonl")
EXPERIMENT = Path(__file__).parents[1] / "experiments" / "smollm2.yaml"
DEFAULT = "trait=classifier,coherence=perplexity"


def agreement(said: list[int], scores: list[float]) -> tuple[float, float]:
    """Pearson's correlation, and the share of pairs of a 1 and a 0 that are in order, a tie counting half."""
    ones, zeros = ([score for one, score in zip(said, scores, strict=True) if one == kind] for kind in (1, 0))
    ordered = sum((one > zero) + (one == zero) / 2 for one in ones for zero in zeros)
    is_flat = len(set(scores)) == 1
    return 0.0 if is_flat else correlation(said, scores), ordered / (len(ones) * len(zeros))


@click.command()
@click.option("--judge", "judges", multiple=True, default=[DEFAULT], help="As in an experiment file.")
@click.option("--experiment", default=str(EXPERIMENT), help="Whose traits and model are meant.")
def main(judges: tuple[str, ...], experiment: str) -> None:
    texts = [json.loads(line) for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    session = open_session(experiment, "")
    sys.stdout.write(
        "| judge | trait | score | texts | scored | correlation | pairs in order |\n|---|---|---|---|---|---|---|\n"
    )
    for name in judges:
        config = judge_like(session.experiment.judge, name)
        for trait in session.experiment.traits:
            mine = [one for one in texts if one["trait"] == trait.name]
            judge = session.judges.of(trait, config=config)
            verdicts = judge.inner.score([Exchange(one["question"], one["response"]) for one in mine])
            for score, said in (("trait", "shows"), ("coherence", "coherent")):
                known = [
                    (one[said], getattr(v, score))
                    for one, v in zip(mine, verdicts, strict=True)
                    if one[said] is not None
                ]
                scored = [pair for pair in known if pair[1] is not None]
                r, share = agreement(*map(list, zip(*scored, strict=True)))
                sys.stdout.write(
                    f"| {name} | {trait.name} | {score} | {len(known)} | {len(scored)} | {r:.2f} | {share:.2f} |\n"
                )


if __name__ == "__main__":
    main()
