"""The experiment file: the shipped ones say what the plan says, and every mistake is named where it stands."""

import copy
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from massact.config import AdapterConfig, ChatConfig, Experiment, LoadConfig, VectorConfig, load_experiment
from massact.config.parse import parse_coefficients
from massact.config.values import GateConfig, declared_by
from massact.data.traits import load_prompts
from massact.domain import DEFAULT_METHODS, Coefficients, Generation, Group
from massact.errors import ConfigError, UsageError
from massact.labels import check_layers, normalise_label, parse_layers

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
TOY, PLAN = FOLDER / "toy.yaml", FOLDER / "massive-activations.yaml"
TEXT = TOY.read_text(encoding="utf-8")
KEY_METHODS = ("probe", "mean_diff", "probe_top1", "mean_diff_top1", "probe_cleaned", "mean_diff_cleaned")
CLEAN_BEFORE = ("probe", "probe_cleaned", "probe_preclean", "mean_diff", "mean_diff_cleaned", "mean_diff_preclean")
CURVE = tuple(f"{m}{s}" for m in ("mean_diff", "probe") for s in ("", "_top1", "_top2", "_top3", "_top5", "_cleaned"))
WINDOWS = ("response[:5]", "response[:10]", "response[:20]")


# the shipped files


@pytest.mark.parametrize("file", [TOY, PLAN], ids=lambda file: file.name)
def test_a_shipped_file_declares_the_plans_phases(file: Path) -> None:
    experiment = load_experiment(file)
    assert experiment.coherence_floor == 68
    assert experiment.generation == Generation(max_new_tokens=64, temperature=0.0, seed=0)
    assert [phase.name for phase in experiment.phases] == ["phase1", "phase2", "phase3"]
    first, second, third = experiment.phases
    assert (first.labels, first.positions) == (KEY_METHODS, WINDOWS)
    assert (second.labels, second.positions) == (CLEAN_BEFORE, ("response[:5]",))
    assert (third.labels[:12], third.positions) == (CURVE, ("response[:5]",))
    assert experiment.extraction.positions == WINDOWS
    assert experiment.extraction.methods == DEFAULT_METHODS
    assert experiment.extraction.uniform_dims == (1, 2, 3, 5, 10, "all")
    assert [(trait.name, trait.direction) for trait in experiment.traits] == [("refusal", "positive")]


def test_the_plans_file_names_its_models_and_coherent_ranges() -> None:
    experiment = load_experiment(PLAN)
    assert [model.name for model in experiment.models] == ["gemma-3-4b", "gemma-2-2b"]
    large, small = experiment.models
    assert (large.base.name, large.instruct.name) == ("base", "instruct")
    assert (large.base.reference, large.instruct.reference) == ("google/gemma-3-4b-pt", "google/gemma-3-4b-it")
    assert (small.base.name, small.instruct.name) == ("gemma2_base", "gemma2_instruct")
    assert (small.base.reference, small.instruct.reference) == ("google/gemma-2-2b", "google/gemma-2-2b-it")
    assert (large.coefficient_range, small.coefficient_range) == ((800, 2500), (30, 130))
    assert (large.grid.layers, small.grid.layers) == ("15", "12")
    assert (large.load.dtype, small.load.dtype) == ("bfloat16", "bfloat16")
    assert (experiment.judge.name, experiment.judge.concurrency) == ("openai:gpt-4.1-mini", 16)
    assert experiment.phase("phase3").models == ("gemma-3-4b",)
    assert experiment.subset == 0  # every question is asked


def test_clean_before_runs_the_plans_layers_and_coefficients() -> None:
    experiment = load_experiment(PLAN)
    large, small = experiment.models
    grids = [experiment.phase("phase2").grid(model) for model in (large, small)]
    assert grids[0].coefficients.values == (800, 1000, 1200, 1500, 2000)
    assert parse_layers(grids[0].layers, 34) == tuple(range(10, 21))
    assert parse_layers(grids[1].layers, 26) == tuple(range(7, 16))
    assert experiment.phase("phase1").grid(large) == large.grid
    assert experiment.phase("phase3").grid(large).layers == "15"


@pytest.mark.parametrize("file", [TOY, PLAN], ids=lambda file: file.name)
def test_a_shipped_grid_stays_within_the_coherent_range(file: Path) -> None:
    experiment = load_experiment(file)
    for model in experiment.models:
        assert model.coefficient_range is not None
        low, high = model.coefficient_range
        for phase in experiment.phases:
            assert all(low <= abs(c) <= high for c in phase.grid(model).coefficients.values)


def test_the_toy_file_needs_nothing_from_outside() -> None:
    experiment = load_experiment(TOY)
    references = [v.reference for model in experiment.models for v in (model.base, model.instruct)]
    references += [experiment.calibration.prompts, *(trait.dataset for trait in experiment.traits)]
    assert all(reference.startswith("toy:") for reference in references)
    assert experiment.judge.name == "likelihood"


def test_the_declared_matrix_counts_a_group_once() -> None:
    experiment = load_experiment(PLAN)
    assert len(experiment.groups("phase1")) == 2 * 3 * 6
    assert len(experiment.groups("phase2")) == 2 * 6
    assert len(experiment.groups("phase3")) == 12
    assert experiment.groups("phase3")[2] == Group("gemma-3-4b", "refusal", "response[:5]", "mean_diff_top2")
    # phase 2 adds two labels per model to phase 1, phase 3 the three of top2, top3, top5 per method
    assert len(experiment.groups()) == len(set(experiment.groups())) == 36 + 2 * 2 + 6


def test_names_that_are_not_declared_are_refused_with_those_that_are() -> None:
    experiment = load_experiment(TOY)
    with pytest.raises(UsageError, match=r"no model 'gemma'; it declares toy-gemma-3, toy-gemma-2"):
        experiment.model("gemma")
    with pytest.raises(UsageError, match="no trait 'kindness'; it declares refusal"):
        experiment.trait("kindness")
    with pytest.raises(UsageError, match="no phase 'phase4'; it declares phase1, phase2, phase3"):
        experiment.phase("phase4")
    assert experiment.model("toy-gemma-2").base.name == "gemma2_base"


def test_only_relative_references_are_relative_to_the_file(tmp_path: Path) -> None:
    experiment = load_experiment(_written(tmp_path, BASE))
    assert experiment.resolve("./data/refusal") == str(tmp_path / "data" / "refusal")
    assert experiment.resolve("../refusal") == str(tmp_path.parent / "refusal")
    assert experiment.resolve("google/gemma-2-2b") == "google/gemma-2-2b"
    assert experiment.resolve("toy:refusal") == "toy:refusal"
    assert experiment.resolve("/data/refusal") == "/data/refusal"


SMALL = """
name: small
models:
  gemma:
    base: {variant: base, model: a/b, revision: v1}
    instruct: {variant: it, model: a/c}
    layers: 3
    coefficients: [-5, 0.5]
traits: {warmth: {dataset: ./warmth, direction: negative}}
calibration: {prompts: ./neutral.txt}
extraction: {positions: ["response[:7]", "prompt[-1]", "response[ : 5 ]"]}
generation: {max_new_tokens: 20}
judge: likelihood
phases:
  phase1: {labels: [probe_postclean_u2], positions: ["response[:05]"]}
  phase2: {labels: [probe], positions: ["prompt[-1]"]}
  phase3: {labels: [probe], positions: ["response[:7]"]}
"""


def test_what_may_be_left_out_has_its_default(tmp_path: Path) -> None:
    experiment = load_experiment(_written(tmp_path, SMALL))
    model = experiment.models[0]
    assert (model.load, model.coefficient_range) == (LoadConfig(), None)
    assert (model.base.revision, model.instruct.revision) == ("v1", None)
    assert (model.grid.layers, model.grid.coefficients.values) == ("3", (-5.0, 0.5))
    assert (experiment.coherence_floor, experiment.subset, experiment.description) == (68.0, 0, "")
    assert experiment.extraction.max_new_tokens == 7  # what the longest window reads
    assert (experiment.extraction.validation_split, experiment.extraction.layer_dims) == (0.1, (1, 2, 3))
    assert (experiment.calibration.max_new_tokens, experiment.calibration.n_top) == (32, 10)
    assert experiment.generation == Generation(20, 0.0, 0)
    assert experiment.phases[0].models == ("gemma",)
    assert experiment.traits[0].direction == "negative"


def test_layers_may_be_a_list_of_numbers_as_coefficients_are(tmp_path: Path) -> None:
    def load(layers: str) -> str:
        file = _written(tmp_path, SMALL.replace("layers: 3", f"layers: {layers}"))
        return load_experiment(file).models[0].grid.layers

    assert load("[3, 10, 5]") == "3,10,5"
    for wrong, said in (
        ("[3, 3]", "models.gemma.layers[1]: 3 stands twice in the list"),
        ('["5-7"]', "models.gemma.layers[0]: '5-7' is not a whole number"),
        ("[]", "layers 'an empty list'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            load(wrong)


def test_coefficients_may_be_relative_strengths_of_which_each_vector_has_its_own(tmp_path: Path) -> None:
    file = _written(tmp_path, SMALL.replace("[-5, 0.5]", "{relative: [0.2, -.75]}"))
    grid = load_experiment(file).models[0].grid
    assert grid.coefficients == Coefficients((0.2, -0.75), is_relative=True)
    assert str(grid.coefficients) == "relative:0.2,-0.75"
    assert parse_coefficients("relative:0.2,-0.75,0.2") == grid.coefficients
    # a unit vector without massive dims where the stream is 83 long: 16.6 and -62.25, in three digits
    assert grid.coefficients.of(1 / 83) == (16.6, -62.2)
    assert Coefficients((0.2, -0.75)).of(1 / 83) == (0.2, -0.75)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{relative: []}", "coefficients.relative: an empty list is not a list of at least one element"),
        ("{relative: [30]}", "coefficients.relative[0]: 30 is not a number from -10 to 10"),
        ("{relative: [0]}", "coefficients.relative[0]: coefficient 0 steers nothing"),
        ("{relativ: [1]}", "the key 'relative' is missing; is it meant by 'relativ' in line 8?"),
        ("{relative: [1], of: layer}", "coefficients.of: unknown key. Allowed here: relative"),
    ],
)
def test_relative_strengths_that_cannot_be_meant_are_refused(written: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_experiment(_written(tmp_path, SMALL.replace("[-5, 0.5]", written)))


def test_vectors_of_other_tools_are_methods_that_a_phase_may_name(tmp_path: Path) -> None:
    told = """
vectors:
  imported_lab: {file: ./lab.gguf, layer_shift: -1}
  imported_two: [{file: a.pt, model: gemma, layer: 3}, {file: b.pt, trait: warmth, index: 7}]
"""
    text = SMALL.replace("labels: [", "labels: [imported_lab, imported_two_top1, ", 1) + told
    experiment = load_experiment(_written(tmp_path, text))
    assert experiment.vectors == (
        VectorConfig("imported_lab", "./lab.gguf", layer_shift=-1),
        VectorConfig("imported_two", "a.pt", model="gemma", layer=3),
        VectorConfig("imported_two", "b.pt", trait="warmth", index=7),
    )
    assert {"imported_lab", "imported_two_top1"} < set(experiment.phase("phase1").labels)
    for wrong, said in (
        ("imported_other", "imported_lab: name its file under the key 'vectors'"),
        ("lab", "call it imported_NAME"),
        ("imported_lab_top1", "call it imported_NAME"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_experiment(_written(tmp_path, text.replace("  imported_lab: {", f"  {wrong}: {{")))
    with pytest.raises(ConfigError, match="is of 'other', which the file does not declare"):
        load_experiment(_written(tmp_path, text.replace("model: gemma, layer", "model: other, layer")))


def test_gates_are_declared_and_every_one_that_a_label_names_is_there(tmp_path: Path) -> None:
    told = """
gates:
  harm: {label: probe_postclean_u1, position: "prompt[-1]", layer: 2}
  rude: {label: mean_diff, position: "prompt[:]", layer: 0, trait: warmth, threshold: -1, measure: cosine, opens: below}
"""
    text = SMALL.replace("labels: [", "labels: [probe+if_harm, ", 1) + told
    text = text.replace("positions: [", 'positions: ["prompt[:]", ', 1)
    experiment = load_experiment(_written(tmp_path, text))
    assert experiment.gates == (
        GateConfig("harm", "probe_top1", "prompt[-1]", 2),
        GateConfig("rude", "mean_diff", "prompt[:]", 0, "warmth", -1.0, "cosine", "below"),
    )
    for there, instead, said in (
        ("  harm:", "  other:", "+if_harm: declare harm under the key 'gates'"),
        ("  harm:", "  Harm:", "call a gate by lower-case letters"),
        ("probe_postclean_u1", "probe+ablate", "a condition vector is a method, perhaps cleaned"),
        ("probe_postclean_u1", "imported_lab", "harm has a vector of another tool: write its threshold"),
        ('position: "prompt[-1]"', 'position: "response[:5]"', "a gate looks at the prompt"),
        ('position: "prompt[-1]"', 'position: "prompt[-2]"', "prompt[-2] is not among extraction.positions"),
        ("trait: warmth", "trait: cold", "rude is of 'cold', which the file does not declare"),
        ("measure: cosine", "measure: sine", "measure"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            load_experiment(_written(tmp_path, text.replace(there, instead)))


def test_how_a_model_is_loaded(tmp_path: Path) -> None:
    lines = {
        "dtype": "float16", "device_map": "balanced", "attention": "eager", "quantization": "4bit",
        "trust_remote_code": "yes",
    }  # fmt: skip
    options = "".join(f"    {key}: {value}\n" for key, value in lines.items())
    text = SMALL.replace("    layers: 3\n", f"{options}    layers: 3\n")
    text = text.replace("model: a/b, revision: v1", "model: a/b, adapter: ./lora").replace(
        "model: a/c", "model: a/c, adapter: me/lora, adapter_revision: v2"
    )
    experiment = load_experiment(_written(tmp_path, text))
    model = experiment.models[0]
    assert model.load == LoadConfig("float16", "auto", "balanced", "eager", "4bit", True)
    assert model.instruct.adapter == AdapterConfig("me/lora", "v2")
    assert experiment.resolve_adapter(model.base) == AdapterConfig(str(tmp_path / "lora"))
    assert experiment.resolve_adapter(model.instruct) == model.instruct.adapter


@pytest.mark.parametrize(
    ("line", "chat"),
    [
        ("thinking: off", ChatConfig("off")),
        ("thinking: on", ChatConfig("on")),
        ('thinking: "off"', ChatConfig("off")),
        ("thinking: 0", ChatConfig("0")),
        ("template_arguments: {}", ChatConfig()),
        ("template_arguments: {b: low, a: [1, true, {c: .5}]}", ChatConfig(None, '{"a":[1,true,{"c":0.5}],"b":"low"}')),
        ("thinking: -1", "thinking: -1 is not allowed; write off, on or a number of tokens"),
        ("thinking: yes please", "thinking: 'yes please' is not allowed"),
        ("template_arguments: 3", "template_arguments: 3 is not a section"),
        ("template_arguments: {a: 2024-01-01}", "template_arguments.a: 2024-01-01 is not a text"),
        ("template_arguments: {a: .nan}", "template_arguments.a: .* is not a number"),
        (f"template_arguments: {{a: {'x' * 1000}}}", "takes 1008 characters as JSON; 1000 are the most"),
    ],
)
def test_how_a_model_is_asked(line: str, chat: ChatConfig | str, tmp_path: Path) -> None:
    file = _written(tmp_path, SMALL.replace("    layers: 3\n", f"    {line}\n    layers: 3\n"))
    if isinstance(chat, ChatConfig):
        experiment = load_experiment(file)
        assert experiment.models[0].load == LoadConfig(chat=chat)
        declared = declared_by(experiment).setting
        assert declared is not None
        said = (chat.thinking, chat.template_arguments)
        assert declared.chats == ({} if chat == ChatConfig() else {experiment.models[0].name: said})
    else:
        with pytest.raises(ConfigError, match=chat):
            load_experiment(file)


def test_labels_and_positions_are_kept_in_their_one_spelling(tmp_path: Path) -> None:
    experiment = load_experiment(_written(tmp_path, SMALL))
    assert experiment.phases[0].labels == ("probe_top2",)
    assert experiment.phases[0].positions == ("response[:5]",)
    assert experiment.extraction.positions == ("response[:7]", "prompt[-1]", "response[:5]")


BASE = """\
# The experiment plan on the two embedded toy models: no model hub, no GPU and no API key needed.
# The toys have planted massive dims; they test the tool and say nothing about Gemma.
name: massive-activations-toy
description: >
  The massive activations plan on two tiny embedded models with planted massive dims.
  It shows the whole job; its numbers are about the toys alone.

traits:
  refusal: {dataset: "toy:refusal", direction: positive}

models:
  toy-gemma-3:            # severe massive dims, as gemma-3-4b
    base: {variant: base, model: "toy:gemma-3-base"}
    instruct: {variant: instruct, model: "toy:gemma-3-instruct"}
    dtype: float32
    layers: "2-3"
    coefficients: [4, 6, 8, 10, 12, 16, 20, 24, 32]
    coefficient_range: [2, 64]
  toy-gemma-2:            # mild massive dims, as gemma-2-2b
    base: {variant: gemma2_base, model: "toy:gemma-2-base"}
    instruct: {variant: gemma2_instruct, model: "toy:gemma-2-instruct"}
    dtype: float32
    layers: "2-3"
    coefficients: [4, 6, 8, 10, 12, 14, 16, 20]
    coefficient_range: [2, 32]

calibration: {prompts: "toy:calibration", max_new_tokens: 32, n_top: 10}

extraction:
  positions: ["response[:5]", "response[:10]", "response[:20]"]
  methods: [mean_diff, probe, gradient, random_baseline]
  uniform_dims: [1, 2, 3, 5, 10, all]
  layer_dims: [1, 2, 3]
  max_new_tokens: 20
  validation_split: 0.1
  seed: 0

generation: {max_new_tokens: 64, temperature: 0}
judge: likelihood
coherence_floor: 68
subset: 0                 # all questions; N asks the first N

phases:
  phase1:                 # the key comparisons, with the gaps filled
    labels: [probe, mean_diff, probe_top1, mean_diff_top1, probe_cleaned, mean_diff_cleaned]
    positions: ["response[:5]", "response[:10]", "response[:20]"]
  phase2:                 # clean-before against clean-after
    labels: [probe, probe_cleaned, probe_preclean, mean_diff, mean_diff_cleaned, mean_diff_preclean]
    positions: ["response[:5]"]
  phase3:                 # the cleaning curve, and a random direction to beat
    labels: [mean_diff, mean_diff_top1, mean_diff_top2, mean_diff_top3, mean_diff_top5, mean_diff_cleaned,
             probe, probe_top1, probe_top2, probe_top3, probe_top5, probe_cleaned, random_baseline]
    positions: ["response[:5]"]
"""

# mistakes: (what stands in the file above, what is written instead, what the message names)

MISTAKES: dict[str, tuple[str, str, list[str]]] = {
    "unknown key, near miss": (
        "coherence_floor: 68",
        "coherence_flor: 68",
        ["coherence_flor: unknown key", "did you mean 'coherence_floor'?", "Allowed here:", "subset"],
    ),
    "unknown key, nothing near": ("subset: 0 ", "wandb: 0 ", ["wandb: unknown key. Allowed here: ", "coherence_floor"]),
    "unknown key in a section": (
        "max_new_tokens: 64, temperature: 0}",
        "max_new_tokens: 64, temprature: 0}",
        ["generation.temprature: unknown key", "did you mean 'temperature'?"],
    ),
    "unknown key in a model": (
        'layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 16',
        'layer: 2\n    layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 16',
        ["models.toy-gemma-3.layer: unknown key", "did you mean 'layers'?"],
    ),
    "unknown attention": (
        'dtype: float32\n    layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 16',
        'attention: flex\n    layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 16',
        ["models.toy-gemma-3.attention", "'flex'", "auto or eager or sdpa or flash_attention_2"],
    ),
    "a quantisation that is a number": (
        'dtype: float32\n    layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 16',
        'quantization: 4\n    layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 16',
        ["models.toy-gemma-3.quantization", "4 is not allowed; write 8bit or 4bit"],
    ),
    "a device beside a device map": (
        'dtype: float32\n    layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 16',
        'device: cpu\n    device_map: auto\n    layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 16',
        ["models.toy-gemma-3.device_map", "'device' stands beside it"],
    ),
    "trust that is no truth value": (
        'dtype: float32\n    layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 16',
        'trust_remote_code: maybe\n    layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 16',
        ["models.toy-gemma-3.trust_remote_code", "'maybe' is not allowed; write true or false"],
    ),
    "a revision of no adapter": (
        'variant: base, model: "toy:gemma-3-base"',
        'variant: base, adapter_revision: v1, model: "toy:gemma-3-base"',
        ["models.toy-gemma-3.base.adapter_revision", "write the key 'adapter' too"],
    ),
    "a needed key misspelt": ("traits:\n", "triats:\n", ["the key 'traits' is missing", "'triats'"]),
    "a phase too many": (
        "  phase3:  ",
        "  phase4: {}\n  phase3:  ",
        ["phases.phase4: unknown key", "phase1, phase2, phase3"],
    ),
    "unknown position": (
        '["response[:5]", "response[:10]", "response[:20]"]\n  methods',
        '["response[:5]", "answer[:10]", "response[:20]"]\n  methods',
        ["extraction.positions[1]", "'answer[:10]'", "prompt, response, all", "response[:5]"],
    ),
    "a position that is a mapping": (
        '["response[:5]", "response[:10]", "response[:20]"]\n  methods',
        '[{response: 5}, "response[:10]", "response[:20]"]\n  methods',
        ["extraction.positions[0]: unknown position", "response[:5]"],
    ),
    "a position that is not extracted": (
        'probe_preclean, mean_diff, mean_diff_cleaned, mean_diff_preclean]\n    positions: ["response[:5]"]',
        'probe_preclean, mean_diff, mean_diff_cleaned]\n    positions: ["response[:7]"]',
        ["phases.phase2.positions[0]", "response[:7]", "extraction.positions", "response[:5], response[:10]"],
    ),
    "unknown label": (
        "probe_preclean, mean_diff, mean_diff_cleaned",
        "probe_precleaned, mean_diff, mean_diff_cleaned",
        ["phases.phase2.labels[2]", "'probe_precleaned'", "mean_diff, probe, gradient", "_preclean_laN"],
    ),
    "a label in two spellings": (
        "probe_preclean, mean_diff, mean_diff_cleaned",
        "probe_postclean, mean_diff, mean_diff_cleaned",
        ["phases.phase2.labels[2]", "'probe_cleaned' stands twice"],
    ),
    "unknown judge": (
        "judge: likelihood",
        "judge: gpt-4",
        ["judge:", "'gpt-4'", "likelihood, openai:MODEL, systemone:MODEL, hf:MODEL, self, perplexity, classifier"],
    ),
    "a judge without its model": (
        "judge: likelihood",
        'judge: {name: "openai:"}',
        ["judge.name", "'openai:'", "openai:MODEL"],
    ),
    "key twice": (
        "coherence_floor: 68\n",
        "coherence_floor: 68\ncoherence_floor: 70\n",
        ["the key 'coherence_floor' stands twice"],
    ),
    "position twice": (
        '"response[:20]"]\n  methods',
        '"response[:05]"]\n  methods',
        ["extraction.positions[2]", "'response[:5]' stands twice"],
    ),
    "coefficient twice": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: [4, 6, 8, 10, 12, 4.0, 16, 20]",
        ["models.toy-gemma-2.coefficients[5]", "4.0 stands twice"],
    ),
    "n_dims twice": ("layer_dims: [1, 2, 3]", "layer_dims: [1, 2, 2]", ["extraction.layer_dims[2]", "2 stands twice"]),
    "coefficient no number": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: [4, six, 8]",
        ["models.toy-gemma-2.coefficients[1]", "'six' is not a number", "from -1e+12 to 1e+12"],
    ),
    "coefficient a truth value": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: [4, yes]",
        ["models.toy-gemma-2.coefficients[1]", "True is not a number"],
    ),
    "coefficient NaN": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: [4, .nan]",
        ["models.toy-gemma-2.coefficients[1]", "nan is not a number"],
    ),
    "coefficient infinite": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: [-.inf]",
        ["models.toy-gemma-2.coefficients[0]", "-inf is not a number"],
    ),
    "coefficient beyond every float": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        f"coefficients: [1{'0' * 400}]",
        ["models.toy-gemma-2.coefficients[0]", "1000", "a whole number of more than 15 digits"],
    ),
    "no coefficients": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: []",
        ["models.toy-gemma-2.coefficients", "list of at least one"],
    ),
    "a number for a list": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: 4",
        ["models.toy-gemma-2.coefficients", "4 is not a list of at least one"],
    ),
    "coefficient beyond use": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: [4, 2000000000000]",
        ["models.toy-gemma-2.coefficients[1]", "2000000000000 is not a number", "from -1e+12 to 1e+12"],
    ),
    "range backwards": (
        "coefficient_range: [2, 32]",
        "coefficient_range: [32, 2]",
        ["models.toy-gemma-2.coefficient_range", "such as [800, 2500]"],
    ),
    "range of three": (
        "coefficient_range: [2, 32]",
        "coefficient_range: [2, 3, 32]",
        ["models.toy-gemma-2.coefficient_range", "such as [800, 2500]"],
    ),
    "layers an empty list": (
        'layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 14',
        "layers: []\n    coefficients: [4, 6, 8, 10, 12, 14",
        ["models.toy-gemma-2.layers", "30%-60%"],
    ),
    "layers backwards": (
        'layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 14',
        'layers: "3-2"\n    coefficients: [4, 6, 8, 10, 12, 14',
        ["models.toy-gemma-2.layers", "'3-2'", "backwards"],
    ),
    "too few tokens for a window": (
        "  max_new_tokens: 20\n",
        "  max_new_tokens: 19\n",
        ["extraction.max_new_tokens", "19 tokens", "(20)"],
    ),
    "no tokens": (
        "max_new_tokens: 64, temperature: 0}",
        "max_new_tokens: 0, temperature: 0}",
        ["generation.max_new_tokens", "0 is not a whole number of at least 1"],
    ),
    "half a token": (
        "max_new_tokens: 64, temperature: 0}",
        "max_new_tokens: 6.5, temperature: 0}",
        ["generation.max_new_tokens", "6.5 is not a whole number"],
    ),
    "unknown method": (
        "methods: [mean_diff, probe, gradient, random_baseline]",
        "methods: [mean_diff, ica]",
        ["extraction.methods[1]", "'ica' is not allowed", "random_baseline"],
    ),
    "n_dims of nothing": (
        "layer_dims: [1, 2, 3]",
        "layer_dims: [every]",
        ["extraction.layer_dims[0]", "'every' is not a whole number of at least 1"],
    ),
    "unknown dtype": (
        'model: "toy:gemma-2-instruct"}\n    dtype: float32',
        'model: "toy:gemma-2-instruct"}\n    dtype: float8',
        ["models.toy-gemma-2.dtype", "'float8' is not allowed", "bfloat16"],
    ),
    "unknown direction": (
        "direction: positive",
        "direction: up",
        ["traits.refusal.direction", "'up' is not allowed", "positive or negative"],
    ),
    "floor beyond 100": (
        "coherence_floor: 68",
        "coherence_floor: 680",
        ["coherence_floor", "680 is not a number from 0 to 100"],
    ),
    "split beyond one half": (
        "validation_split: 0.1",
        "validation_split: 0.6",
        ["extraction.validation_split", "0.6 is not a number from 0 to 0.5"],
    ),
    "grid of an unknown model": (
        '    positions: ["response[:5]"]\n  phase3:',
        '    positions: ["response[:5]"]\n    grids:\n      gemma: {layers: all, coefficients: [4]}\n  phase3:',
        ["phases.phase2.grids.gemma", "toy-gemma-3, toy-gemma-2"],
    ),
    "grid of a model that the phase leaves out": (
        '    positions: ["response[:5]"]\n  phase3:',
        '    positions: ["response[:5]"]\n    models: [toy-gemma-3]\n'
        "    grids: {toy-gemma-2: {layers: all, coefficients: [4]}}\n  phase3:",
        ["phases.phase2.grids.toy-gemma-2", "uses no model of that name; it uses toy-gemma-3"],
    ),
    "phase of an unknown model": (
        '    positions: ["response[:5]"]\n  phase3:',
        '    positions: ["response[:5]"]\n    models: [gemma]\n  phase3:',
        ["phases.phase2.models[0]", "'gemma' is not allowed", "toy-gemma-3"],
    ),
    "name no text": ("name: massive-activations-toy", "name: 5", ["name", "5 is not a text"]),
    "name a list": ("name: massive-activations-toy", "name: [a]", ["name", "is not a text"]),
    "judge a number": ("judge: likelihood", "judge: 5", ["judge", "5"]),
    "section a text": (
        "generation: {max_new_tokens: 64, temperature: 0}",
        "generation: greedy",
        ["generation", "'greedy' is not a section"],
    ),
    "names nothing": (
        '    base: {variant: base, model: "toy:gemma-3-base"}',
        "    base: {}",
        ["models.toy-gemma-3.base", "'model' is missing"],
    ),
    "a tag that does not fit": (
        "subset: 0 ",
        "subset: !!bool maybe ",
        ["subset", "'maybe' is not a value of YAML's type bool"],
    ),
    "a date that is none": (
        "subset: 0 ",
        "subset: 2024-13-45 ",
        ["subset", "'2024-13-45' is not a value of YAML's type timestamp"],
    ),
    "a timestamp that is none": (
        "subset: 0 ",
        "subset: !!timestamp soon ",
        ["subset", "'soon' is not a value of YAML's type timestamp"],
    ),
    "an object": ("subset: 0 ", "subset: !!python/object:os.system {} ", ["subset"]),
    "an endless number": ("subset: 0 ", f"subset: 1{'0' * 5000} ", ["subset", "'10000"]),
    "a large hexadecimal number": (
        "subset: 0 ",
        f"subset: 0x{'f' * 5000} ",
        ["subset", "a whole number of more than 15 digits"],
    ),
    "a key that is a list": ("subset: 0 ", "? [a, b]\n: 0 ", ["a key is empty, a list or a section"]),
    "an empty key": (
        'dtype: float32\n    layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 14',
        '"": float32',
        ["models.toy-gemma-2: a key is empty"],
    ),
    "octal layers": (
        'layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 14',
        "layers: 010\n    coefficients: [4, 6, 8, 10, 12, 14",
        ["models.toy-gemma-2.layers", "010 is a number that YAML and people read differently", '"010" in quotes'],
    ),
    "octal of YAML 1.2": ("subset: 0 ", "subset: 0o10 ", ["subset", "0o10 is a number that YAML"]),
    "a leading zero": ("subset: 0 ", "subset: 08 ", ["subset", "08 is a number that YAML"]),
    "hexadecimal": ("subset: 0 ", "subset: 0x1F ", ["subset", "0x1F is a number that YAML"]),
    "base 60": (
        'layers: "2-3"\n    coefficients: [4, 6, 8, 10, 12, 14',
        "layers: 3:20\n    coefficients: [4, 6, 8, 10, 12, 14",
        ["models.toy-gemma-2.layers", "3:20 is a number that YAML"],
    ),
    "underscores": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: [1_000]",
        ["models.toy-gemma-2.coefficients[0]", "1_000 is a number that YAML"],
    ),
    "a number in quotes": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: ['1e3']",
        ["models.toy-gemma-2.coefficients[0]", "'1e3' is a text in quotes and is not a number"],
    ),
    "no for a name": (
        "name: massive-activations-toy",
        "name: no",
        ["name: no is not a text: YAML reads a truth value", '"no", in quotes'],
    ),
    "a number for a name": (
        "name: massive-activations-toy",
        "name: 1e3",
        ["name: 1e3 is not a text: YAML reads a number"],
    ),
    "a date for a name": (
        "name: massive-activations-toy",
        "name: 2024-01-02",
        ["name: 2024-01-02 is not a text: YAML reads a date"],
    ),
    "a truth value for a revision": (
        'variant: base, model: "toy:gemma-3-base"',
        'variant: base, revision: on, model: "toy:gemma-3-base"',
        ["models.toy-gemma-3.base.revision", "on is not a text: YAML reads a truth value"],
    ),
    "a floor without a value": (
        "coherence_floor: 68",
        "coherence_floor: null",
        ["coherence_floor: the key 'coherence_floor' is missing its value"],
    ),
    "a subset without a value": ("subset: 0 ", "subset: ~ ", ["subset: the key 'subset' is missing its value"]),
    "a merge key": (
        "generation: {max_new_tokens: 64,",
        "generation: {<<: {max_new_tokens: 64}, max_new_tokens: 64,",
        ["generation: merge keys (<<) are not read"],
    ),
    "a key that is null": ("subset: 0 ", "~: 0 ", ["a key is empty"]),
    "coefficient zero": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        "coefficients: [4, -0.0]",
        ["models.toy-gemma-2.coefficients[1]", "coefficient 0 steers nothing: that is the baseline"],
    ),
    "too many coefficients": (
        "coefficients: [4, 6, 8, 10, 12, 14, 16, 20]",
        f"coefficients: {[*range(1, 1002)]}",
        ["models.toy-gemma-2.coefficients: 1001 coefficients; a grid has 1000 at most"],
    ),
    "a range of nothing": ("coefficient_range: [2, 32]", "coefficient_range: [0, 0]", ["such as [800, 2500]"]),
    "a window without a token": (
        '["response[:5]", "response[:10]", "response[:20]"]\n  methods',
        '["response[:5]", "response[5:2]", "response[:20]"]\n  methods',
        ["extraction.positions[1]", "no text has a token in response[5:2]"],
    ),
    "a temperature next to nothing": (
        "max_new_tokens: 64, temperature: 0}",
        "max_new_tokens: 64, temperature: 1e-9}",
        ["generation.temperature", "write 0 for greedy"],
    ),
    "a name that leads elsewhere": (
        "name: massive-activations-toy",
        "name: ../../../home/me/report",
        ["name: the experiment '../../../home/me/report' leads through a folder"],
    ),
    "a name with a bidi control": (
        "name: massive-activations-toy",
        'name: "a\\u202eb"',
        ["name: the experiment 'a\\u202eb' holds the character U+202E"],
    ),
    "a name with a line break": (
        "name: massive-activations-toy",
        'name: "a\\nb"',
        ["name: the experiment 'a\\nb' holds the character U+000A"],
    ),
    "half a character in a text": (
        "name: massive-activations-toy",
        'name: "a\\ud800"',
        ["name: 'a\\ud800' holds the character U+D800"],
    ),
    "a model's name that does not show": (
        "  toy-gemma-2:  ",
        '  "toy\\0":  ',
        ["the name 'toy\\x00' holds the character U+0000"],
    ),
    "names that differ in case": ("  toy-gemma-2:  ", "  TOY-gemma-3:  ", ["differ in upper and lower case alone"]),
    "a variant's name": (
        'variant: base, model: "toy:gemma-3-base"',
        'variant: "..", model: "toy:gemma-3-base"',
        ["models.toy-gemma-3.base.variant", "leads through a folder"],
    ),
    "a crowd of requests": (
        "judge: likelihood",
        "judge: {name: openai:x, concurrency: 1000000}",
        ["judge.concurrency", "1000000 is not a whole number from 1 to 1000"],
    ),
    "not YAML": ("judge: likelihood", "judge: [likelihood", ["not YAML"]),
    "a tab": ("judge: likelihood", "\tjudge: likelihood", ["not YAML"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_file_line_key_value_and_what_is_allowed(tmp_path: Path, mistake: str) -> None:
    old, new, named = MISTAKES[mistake]
    assert BASE.count(old) == 1
    file = _written(tmp_path, BASE.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_experiment(file)
    message = str(caught.value)
    assert message.startswith(f"{file}, line ")
    assert [part for part in named if part not in message] == []
    assert not re.search(r"_Mapping|_Sequence|ScalarNode|Entry\(", message)
    assert len(message) < 800


LINES = {
    "unknown key, near miss": "coherence_flor",
    "unknown key, nothing near": "wandb",
    "unknown key in a section": "temprature",
    "unknown key in a model": "layer: 2",
    "unknown position": "answer[:10]",
    "unknown label": "probe_precleaned",
    "unknown judge": "gpt-4",
    "key twice": "coherence_floor: 70",
    "coefficient NaN": ".nan",
    "no coefficients": "coefficients: []",
    "too few tokens for a window": "max_new_tokens: 19",
    "grid of an unknown model": "gemma: {layers: all",
    "a position that is not extracted": "response[:7]",
    "a timestamp that is none": "soon",
    "a key that is a list": "? [a, b]",
}
"""What stands in the line that a message must name."""


@pytest.mark.parametrize("mistake", LINES)
def test_a_mistake_is_placed_in_its_line(tmp_path: Path, mistake: str) -> None:
    old, new, _ = MISTAKES[mistake]
    text = BASE.replace(old, new)
    assert text.count(LINES[mistake]) == 1
    line = text[: text.index(LINES[mistake])].count("\n") + 1
    with pytest.raises(ConfigError, match=f"experiment.yaml, line {line}: "):
        load_experiment(_written(tmp_path, text))


REQUIRED = (
    "name",
    "traits",
    "models",
    "judge",
    "traits.refusal.dataset",
    "models.toy-gemma-3.instruct",
    "models.toy-gemma-3.layers",
    "models.toy-gemma-3.coefficients",
    "models.toy-gemma-3.instruct.model",
    "phases.phase2.labels",
)


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_key_is_named_with_the_section_that_lacks_it(tmp_path: Path, path: str) -> None:
    document = yaml.safe_load(BASE)
    *above, last = path.split(".")
    section = document
    for key in above:
        section = section[key]
    del section[last]
    with pytest.raises(ConfigError, match=re.escape(f"the key '{last}' is missing")) as caught:
        load_experiment(_written(tmp_path, yaml.safe_dump(document)))
    assert (".".join(above) or "the file") + ":" in str(caught.value)


NUMBERS = {"1e3": 1000.0, "1.5e3": 1500.0, ".5": 0.5, "-.5": -0.5, "+12": 12.0, "1E+2": 100.0, "5.": 5.0, "0.5": 0.5}


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_is_read_as_people_mean_it(tmp_path: Path, text: str) -> None:
    experiment = load_experiment(_written(tmp_path, SMALL.replace("[-5, 0.5]", f"[{text}]")))
    assert experiment.models[0].grid.coefficients.values == (NUMBERS[text],)


@pytest.mark.parametrize("key", ["questions", "description"])
def test_no_value_is_nothing_where_nothing_is_the_default(tmp_path: Path, key: str) -> None:
    file = _written(tmp_path, f"{SMALL}{key}: ~\n")
    if key == "questions":
        assert load_experiment(file).confirm_share is None
    else:
        with pytest.raises(ConfigError, match="is missing its value"):
            load_experiment(file)


LEAST = """
name: least
traits: {warmth: {dataset: ./warmth}}
models:
  small: {instruct: {model: ./small}, layers: 3, coefficients: [5]}
judge: likelihood
"""


def test_a_grid_of_one_label_needs_no_more_than_it_takes(tmp_path: Path) -> None:
    experiment = load_experiment(_written(tmp_path, LEAST))
    (model,) = experiment.models
    assert model.base == model.instruct
    assert model.instruct.name == "instruct"
    assert experiment.phases == experiment.groups() == ()
    assert (experiment.extraction.positions, experiment.extraction.max_new_tokens) == (("response[:5]",), 5)
    assert experiment.generation == Generation(64)
    assert len(load_prompts(experiment.calibration.prompts)) >= 50
    one = load_experiment(_written(tmp_path, LEAST + "phases: {phase2: {labels: [probe]}}\n"))
    assert one.groups() == (Group("small", "warmth", "response[:5]", "probe"),)
    with pytest.raises(UsageError, match="declares no phase 'phase1'; it declares phase2"):
        one.phase("phase1")


def test_no_cleaning_of_a_kind_need_be_asked_for(tmp_path: Path) -> None:
    text = LEAST + "extraction: {layer_dims: [], uniform_dims: []}\n"
    extraction = load_experiment(_written(tmp_path, text)).extraction
    assert (extraction.layer_dims, extraction.uniform_dims) == ((), ())


def test_every_fault_of_a_file_is_told_at_once_by_line(tmp_path: Path) -> None:
    text = """\
name: 12
traits:
  warmth: {datset: ./warmth, direction: up}
models:
  small:
    instruct: {revision: no}
    layers: 9-3
    coefficients: [5, 010, 0, 5]
    coefficient_range: [3, 1]
    layers: 4
extraction: {positions: ["response[:3]", "answer[:5]"], methods: [prob], seed: -1}
phases:
  phase1: {labels: [prob, probe, probe], positions: ["response[:9]"], models: [large]}
  phase9: {}
"""
    with pytest.raises(ConfigError) as caught:
        load_experiment(_written(tmp_path, text))
    faults = [line.partition(", line ")[2] for line in str(caught.value).split("\n")]
    assert [fault.split(": ")[:2] for fault in faults] == [
        ["1", "name"],
        ["1", "the file"],
        ["3", "traits.warmth"],
        ["3", "traits.warmth.direction"],
        ["3", "traits.warmth.datset"],
        ["6", "models.small.instruct"],
        ["6", "models.small.instruct.revision"],
        ["8", "models.small.coefficients[1]"],
        ["8", "models.small.coefficients[2]"],
        ["8", "models.small.coefficients[3]"],
        ["9", "models.small.coefficient_range"],
        ["10", "models.small"],
        ["11", "extraction.positions[1]"],
        ["11", "extraction.methods[0]"],
        ["11", "extraction.seed"],
        ["13", "phases.phase1.labels[0]"],
        ["13", "phases.phase1.labels[2]"],
        ["14", "phases.phase9"],
    ]
    assert "the key 'judge' is missing" in faults[1]
    assert "the key 'layers' stands twice" in faults[11]


def test_the_faults_of_all_sections_are_told_at_once(tmp_path: Path) -> None:
    text = SMALL.replace("layers: 3", "layers: 9-3").replace("max_new_tokens: 20", "max_new_tokens: 0")
    with pytest.raises(ConfigError) as caught:
        load_experiment(_written(tmp_path, f"{text}subset: -1\nwandb: yes\n"))
    keys = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert keys == ["models.gemma.layers", "generation.max_new_tokens", "subset", "wandb"]


def test_aliases_within_aliases_are_counted_and_not_walked(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 5)]  # 100,000 values
    with pytest.raises(ConfigError, match=r"more than 20,000 values"):
        load_experiment(_written(tmp_path, "\n".join(lines)))


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"larger than 256 KiB"):
        load_experiment(_written(tmp_path, SMALL + "#" * 300_000))


def test_what_multiplies_beyond_use_is_refused_with_its_count(tmp_path: Path) -> None:
    labels = ", ".join(f"probe_top{n}" for n in range(1, 4001))
    windows = ", ".join(f"'response[:{n}]'" for n in range(1, 31))
    text = SMALL.replace('["response[:7]", "prompt[-1]", "response[ : 5 ]"]', f"[{windows}, 'prompt[-1]']").replace(
        'phase1: {labels: [probe_postclean_u2], positions: ["response[:05]"]}',
        f"phase1: {{labels: [{labels}], positions: [{windows}]}}",
    ).replace("max_new_tokens: 20", "max_new_tokens: 30")  # fmt: skip
    with pytest.raises(ConfigError, match=r"phases: declares 120,002 groups"):
        load_experiment(_written(tmp_path, text))


def test_an_empty_value_is_as_good_as_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the key 'name' is missing"):
        load_experiment(_written(tmp_path, BASE.replace("name: massive-activations-toy", "name:")))


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"experiment\.yaml.*(the file is empty|is not a section)"):
        load_experiment(_written(tmp_path, text))


@pytest.mark.parametrize("text", ["hello", "5", "[a, b]", "null"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"experiment\.yaml, line 1: the file: .*is not a section"):
        load_experiment(_written(tmp_path, text))


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_missing_file_is_refused_with_what_to_pass(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"no experiment file .*pass --experiment FILE"):
        load_experiment(tmp_path / name)


@pytest.mark.parametrize("text", ["a: &x {b: *x}", "- &x [*x]", "[" * 600])
def test_a_file_without_end_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"experiment\.yaml: nested too deeply, or an anchor"):
        load_experiment(_written(tmp_path, text))


@pytest.mark.parametrize("content", [b"name: \xff\xfe", b"name: a\x00b", b"a: b\n---\nc: d\n"])
def test_a_file_that_is_not_text_or_not_one_document_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"experiment\.yaml"):
        load_experiment(file)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())
    assert load_experiment(file).phases == load_experiment(_written(tmp_path, BASE)).phases


def test_an_anchor_may_be_used_twice(tmp_path: Path) -> None:
    text = BASE.replace("[4, 6, 8, 10, 12, 14, 16, 20]", "*grid").replace(": [4, 6,", ": &grid [4, 6,")
    grids = [model.grid for model in load_experiment(_written(tmp_path, text)).models]
    assert grids[0].coefficients == grids[1].coefficients


# mutations: whatever is done to the file, it loads whole or is refused with a ConfigError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 200),
    st.sampled_from([10**20, 10**400, -(10**400), math.nan, math.inf, 1e308, 0.5, -0.0]),
    st.sampled_from(
        ["", " ", "all", "probe", "probe_top2", "response[:5]", "30%-60%", "toy-gemma-3", "é\u2028", "none"]
    ),
    st.text(max_size=6),
    st.dates(),
    st.binary(max_size=4),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=4), st.integers(), st.none()), SCALARS, max_size=2),
)
FAST = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def _parsed() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(TEXT)
    return document


def _document() -> dict[str, Any]:
    return copy.deepcopy(_parsed())


def _written(folder: Path, text: str) -> Path:
    file = folder / "experiment.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return file


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value in a document."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _load_or_refuse(file: Path) -> None:
    try:
        experiment = load_experiment(file)
    except ConfigError as error:
        message = str(error)
    else:
        return _check(experiment)
    assert str(file) in message
    assert not re.search(r"_Mapping|_Sequence|ScalarNode|Entry\(", message)
    return None


def _check(experiment: Experiment) -> None:
    """What every part may rely on."""
    assert experiment.name.strip()
    assert 0 <= experiment.coherence_floor <= 100
    assert experiment.subset >= 0
    assert experiment.models
    assert experiment.traits
    grids = [model.grid for model in experiment.models]
    grids += [grid for phase in experiment.phases for _, grid in phase.grids]
    for grid in grids:
        assert check_layers(grid.layers) == grid.layers
        assert grid.coefficients.values
        assert all(isinstance(c, float) and math.isfinite(c) for c in grid.coefficients.values)
        assert len(set(grid.coefficients.values)) == len(grid.coefficients)
    names = {model.name for model in experiment.models}
    for phase in experiment.phases:
        assert set(phase.models) <= names
        assert set(phase.positions) <= set(experiment.extraction.positions)
        assert [normalise_label(label) for label in phase.labels] == list(phase.labels)
    assert set(experiment.extraction.methods) <= set(DEFAULT_METHODS)
    assert all(n == "all" or (isinstance(n, int) and n > 0) for n in experiment.extraction.uniform_dims)
    assert experiment.generation.max_new_tokens > 0
    assert all(group.label for group in experiment.groups())


@pytest.mark.slow
@FAST
@given(data=st.data())
def test_no_changed_value_ends_in_a_raw_exception(tmp_path: Path, data: st.DataObject) -> None:
    document = _document()
    container, key = data.draw(st.sampled_from(list(_places(document))).map(lambda place: place))
    change = data.draw(st.sampled_from(["replace", "delete", "rename", "repeat"]))
    if change == "replace":
        container[key] = data.draw(VALUES)
    elif change == "delete":
        del container[key]
    elif change == "rename" and isinstance(container, dict):
        container[data.draw(st.one_of(st.text(max_size=8), st.integers(), st.booleans()))] = container.pop(key)
    elif isinstance(container, list):
        container.append(container[key])
    _load_or_refuse(_written(tmp_path, yaml.safe_dump(document, allow_unicode=True)))


PIECES = st.sampled_from(
    ["\n", " ", "  ", ":", ": ", "-", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "!!int ", "!!bool ", "!!float ",
     "!!timestamp ", "!!binary ", "!!map ", "!!seq ", "!!set ", "!!omap ", "!!null ", "!x ", "<<: ", "? ", "|", ">",
     "'", '"', "#", "%", "@", "`", "~", "0x", "0o9", "1e999", "0b", "1_0", "12:30:45", "---\n", "...\n", "\t", "\x07",
     "\ud800", "é", "\u2028", "\ufeff"]
)  # fmt: skip


@pytest.mark.slow
@FAST
@given(start=st.integers(0, len(TEXT)), length=st.integers(0, 40), piece=st.one_of(PIECES, st.text(max_size=3)))
@example(start=TEXT.index("68"), length=2, piece="!!int ")
@example(start=TEXT.index("68"), length=2, piece="!!bool ''")
@example(start=TEXT.index("68"), length=2, piece="!!set {a}")
@example(start=TEXT.index("68"), length=2, piece="1" * 5000)
@example(start=TEXT.index("68"), length=2, piece="0x" + "f" * 5000)
@example(start=TEXT.index("massive-activations-toy"), length=23, piece="0x" + "f" * 5000)
@example(start=TEXT.index("models:"), length=0, piece="<<: {a: b}\n")
def test_no_changed_character_ends_in_a_raw_exception(tmp_path: Path, start: int, length: int, piece: str) -> None:
    _load_or_refuse(_written(tmp_path, TEXT[:start] + piece + TEXT[start + length :]))
