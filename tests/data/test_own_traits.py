"""The traits of `experiments/smollm2.yaml`: our own sentences, paired, on topics that the questions leave alone."""

from pathlib import Path

import pytest

from massact.config import load_experiment
from massact.data.traits import dataset_warnings, load_trait

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = load_experiment(ROOT / "experiments" / "smollm2.yaml")
OPENING = " Assistant: "


@pytest.mark.parametrize("trait", EXPERIMENT.traits, ids=lambda trait: trait.name)
def test_a_hundred_pairs_that_differ_by_how_the_answer_begins(trait: object) -> None:
    dataset = load_trait(EXPERIMENT.resolve(EXPERIMENT.trait(getattr(trait, "name", "")).dataset))
    assert (len(dataset.positive), len(dataset.negative), len(dataset.questions)) == (100, 100, 20)
    assert not list(dataset_warnings(dataset, "positive"))
    asked, begun = zip(*(one.text.split(OPENING) for one in dataset.prompts), strict=True)
    assert all(text.startswith("User: ") for text in asked)
    assert not {text.removeprefix("User: ") for text in asked} & set(dataset.questions)
    assert not set(begun[:100]) & set(begun[100:])
    assert all(begun.count(text) == 10 for text in begun)
