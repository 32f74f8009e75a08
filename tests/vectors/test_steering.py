"""What a label needs besides its vector: strengths over depth, subspaces, thresholds; and how a cell is read."""

from pathlib import Path

import pytest
import torch

from massact.config import LoadConfig
from massact.data.traits import load_trait
from massact.domain import Cleaning, Gate, Recipe, Steering
from massact.errors import DataError
from massact.labels import parse_label
from massact.models.gates import GateReader
from massact.models.load import load_model
from massact.models.prompting import Intervention, Row, encode_chat
from massact.vectors.extract import read_contrast
from massact.vectors.methods import mean_diff, normalise
from massact.vectors.positions import parse_position
from massact.vectors.steering import depth_weights, intervention_of, midpoint, subspace


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        ("", ()),
        ("+rising", (0.25, 0.5, 0.75, 1.0)),
        ("+falling", (1.0, 0.75, 0.5, 0.25)),
        ("+triangle", (0.5, 1.0, 1.0, 0.5)),
        ("+relative", (1.0, 0.5, 0.25, 2.0)),
    ],
)
def test_strengths_over_depth(depth: str, expected: tuple[float, ...]) -> None:
    assert depth_weights(parse_label(f"probe+4layers{depth}"), [1.0, 2.0, 4.0, 0.5]) == expected


def test_a_triangle_of_an_odd_number_of_layers_has_one_top() -> None:
    expected = pytest.approx((1 / 3, 2 / 3, 1, 2 / 3, 1 / 3), abs=1e-6)
    assert depth_weights(parse_label("probe+5layers+triangle"), [1.0] * 5) == expected
    assert depth_weights(parse_label("probe+ablate+everylayer"), [1.0]) == ()


ZEROED = Cleaning("after", "uniform", 1)


def sides(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations that differ along dim 0, vary most along dim 1 and have a massive dim 4."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 40, 5, generator=generator) * torch.tensor([0.1, 9.0, 1.0, 0.1, 50.0])
    noise -= noise.mean(1, keepdim=True)
    low = torch.tensor([1.0, 2.0, 3.0, 4.0, 500.0])
    return noise[0] + low + torch.tensor([6.0, 0, 0, 0, 0]), noise[1] + low


def test_the_subspace_is_the_vector_and_where_activations_vary_most_without_massive_dims() -> None:
    vector = torch.tensor([1.0, 0, 0, 0, 0])
    rows = subspace(vector, sides(), ZEROED, (4,), 3)
    basis, (low, step) = rows[:3], rows[3:]
    torch.testing.assert_close(basis @ basis.T, torch.eye(3), rtol=0, atol=1e-5)
    assert basis[0].equal(vector)
    assert abs(basis[1][1]) > 0.99
    assert abs(basis[2][2]) > 0.99
    assert float(basis[:, 4].abs().max()) < 1e-6
    torch.testing.assert_close(step, torch.tensor([6.0, 0, 0, 0, 0]), rtol=0, atol=1e-3)
    torch.testing.assert_close(low[:3], torch.tensor([1.0, 2.0, 3.0]), rtol=0, atol=0.5)


def test_more_directions_than_activations_span_are_refused() -> None:
    positive, negative = sides()
    with pytest.raises(DataError, match="do not span 4 directions"):
        subspace(torch.tensor([1.0, 0, 0, 0, 0]), (positive[:1], negative[:1]), ZEROED, (4,), 4)


def test_the_subspace_of_kept_dims_lies_in_them() -> None:
    rows = subspace(torch.tensor([0, 0, 0, 0, 1.0]), sides(), Cleaning("after", "uniform", 2, "keep"), (4, 1), 2)
    assert rows[1].abs().argmax() == 1
    assert not rows[:, [0, 2, 3]].any()


def test_a_threshold_lies_half_way_between_the_sides() -> None:
    condition = torch.tensor([0.6, 0.8])
    positive, negative = torch.tensor([[3.0, 4.0], [6.0, 8.0]]), torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    assert midpoint(condition, (positive, negative), "projection") == pytest.approx((7.5 + 0.0) / 2)
    assert midpoint(condition, (positive, negative), "cosine") == pytest.approx((1.0 + 0.0) / 2)


def steering(label: str, *, layer: int = 2, gate: Gate | None = None) -> Steering:
    recipe: Recipe = parse_label(label)
    return Steering("v", "response[:5]", recipe, layer, 3.0, "positive", condition=gate)


def test_the_rows_of_a_cell_are_its_vectors_then_the_gate() -> None:
    rows, gate = torch.eye(8), Gate(1, "prompt[-1]", 0.5)
    one = intervention_of(steering("probe"), rows[0], 6)
    assert one.vector.equal(rows[0])
    assert [*one.layers] == [2]
    band = intervention_of(steering("probe+3layers+decay0.5+if_x@response", gate=gate), rows[:4], 6)
    assert band.vector.equal(rows[:3])
    assert (band.tokens, band.decay, band.gate) == ("response", 0.5, gate)
    assert band.condition is not None
    assert band.condition.equal(rows[3])
    every = intervention_of(steering("probe+ablate+everylayer+if_x", gate=gate), rows[:2], 6)
    assert [*every.layers] == [0, 1, 2, 3, 4, 5]
    assert all(every.at(layer).equal(rows[0]) for layer in every.layers)
    two = intervention_of(steering("probe+replace2+2layers"), rows, 6)
    assert two.vector.shape == (2, 4, 8)
    assert two.at(3).equal(rows[4:])


@pytest.mark.slow
def test_a_gate_of_the_embedded_model_is_open_to_what_is_harmful_alone(root: Path) -> None:
    options, window = LoadConfig(dtype="float32", device="cpu"), parse_position("prompt[-1]")
    base, model = (load_model(f"toy:gemma-3-{name}", options=options) for name in ("base", "instruct"))
    trait, harm = load_trait("toy:refusal"), load_trait(str(root / "experiments/traits/toy_harm"))
    texts, means = read_contrast(base, trait, [window], max_new_tokens=1)
    split = (means[window][: texts.n_positive, 4], means[window][texts.n_positive :, 4])
    condition = normalise(mean_diff(*split))
    gate = Gate(4, "prompt[-1]", midpoint(condition, split, "projection"))
    one, reader = Intervention(0, condition, 1.0, gate=gate, condition=condition), GateReader(model)
    for questions, is_open in ((harm.questions, True), (trait.questions, False)):
        rows = reader.opened([Row(encode_chat(model, question), one) for question in questions])
        assert {row.intervention is not None for row in rows} == {is_open}
