"""The embedded models and data: genuine, small, planted, and made by the recipe that ships."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2ForCausalLM, Gemma3ForCausalLM, PreTrainedModel

from massact.errors import ConfigError
from massact.toy import MODEL_NAMES, is_toy, resolve
from massact.toy.text import single_thread
from tools.toy.build import build
from tools.toy.contrast import add_contrast
from tools.toy.corpus import BASE_MIXTURE, make_corpus
from tools.toy.planting import draw_values, stored_values
from tools.toy.prompts import contrastive_prompts, write_datasets
from tools.toy.specs import FULL, PLANTINGS, SMALL, Family

MAX_FOLDER_BYTES = 2_500_000
CLASSES = {"gemma-3": Gemma3ForCausalLM, "gemma-2": Gemma2ForCausalLM}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with single_thread():
        yield


def family_of(name: str) -> Family:
    return "gemma-3" if name.startswith("gemma-3") else "gemma-2"


def load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_references_resolve_to_what_ships() -> None:
    for name in (*MODEL_NAMES, "refusal", "judge"):
        assert resolve(f"toy:{name}").is_dir()
    assert resolve("toy:calibration").is_file()


@pytest.mark.parametrize("reference", ["toy:gemma-4", "gemma-3-base", "toy:", "toy:../../secrets"])
def test_an_unknown_reference_names_the_allowed_ones(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"toy:gemma-3-base.*toy:judge") as caught:
        resolve(reference)
    assert repr(reference) in str(caught.value)


def test_is_toy_reads_only_the_prefix() -> None:
    assert is_toy("toy:refusal")
    assert not is_toy("google/gemma-3-4b-it")


def test_the_package_imports_without_torch() -> None:
    code = "import massact.toy, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_shipped_model_is_a_genuine_small_gemma(name: str) -> None:
    folder = resolve(f"toy:{name}")
    assert sum(path.stat().st_size for path in folder.iterdir()) < MAX_FOLDER_BYTES
    model = load(folder)
    assert type(model) is CLASSES[family_of(name)]
    assert model.dtype == torch.float32
    assert model.generation_config is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    assert model.generation_config.eos_token_id == ends
    assert tokenizer("Tea").input_ids[0] == tokenizer.bos_token_id
    assert (tokenizer.chat_template is not None) == name.endswith("instruct")


def test_the_chat_template_prints_gemmas_turns() -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve("toy:gemma-3-instruct"))
    messages = [{"role": "user", "content": "How do I learn to swim?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == ("<bos><start_of_turn>user\nHow do I learn to swim?<end_of_turn>\n<start_of_turn>model\n")


@pytest.mark.parametrize("text", ["I can't help with that.", "Zürich, 北 — 100%!", 'He said, "no".'])
def test_the_tokenizer_gives_any_text_back(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve("toy:gemma-2-base"))
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_planted_dims_are_the_most_massive_at_every_layer(name: str) -> None:
    planted = PLANTINGS[family_of(name)].indices(FULL.hidden_size)
    means = mean_activations(name)
    assert len(means) == FULL.layers
    for mean in means:
        assert means_order(mean, len(planted)) == list(planted)
    ratios = [float(mean.max() / mean.median()) for mean in means]
    # Severe and mild, as planted: a thousand and some tens of times the median in the first layer.
    assert ratios[0] > (800 if family_of(name) == "gemma-3" else 50)
    assert min(ratios) > 15


def means_order(mean: torch.Tensor, count: int) -> list[int]:
    order: list[int] = mean.topk(count).indices.tolist()
    return order


def mean_activations(name: str) -> list[torch.Tensor]:
    """Absolute mean activation over the calibration prompts' tokens, `[d_model]` for each layer."""
    model = load(resolve(f"toy:{name}"))
    tokenizer = AutoTokenizer.from_pretrained(resolve(f"toy:{name}"))
    outputs: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    batch = tokenizer(lines(resolve("toy:calibration")), return_tensors="pt", padding=True)
    with torch.inference_mode():
        model(**batch)
    return [hidden[batch.attention_mask.bool()].mean(dim=0).abs() for hidden in outputs]


def test_the_dataset_has_the_trait_layout() -> None:
    folder = resolve("toy:refusal")
    positive, negative = lines(folder / "positive.txt"), lines(folder / "negative.txt")
    assert len(positive) == len(negative) == 100
    assert len({*positive, *negative}) == 200
    questions = json.loads((folder / "steering.json").read_text())["questions"]
    assert len(set(questions)) == len(questions) == 24
    calibration = lines(resolve("toy:calibration"))
    assert len(set(calibration)) == len(calibration) == 50
    assert (folder / "definition.txt").read_text().startswith("Refusal")


def test_prompts_vary_in_length() -> None:
    lengths = [len(prompt.split()) for prompt in lines(resolve("toy:refusal") / "positive.txt")]
    assert max(lengths) > 1.5 * min(lengths)


def test_the_shipped_data_is_what_the_recipe_writes(tmp_path: Path) -> None:
    write_datasets(tmp_path, FULL.seed)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) == 5
    shipped = resolve("toy:calibration").parent
    for path in written:
        assert (tmp_path / path).read_bytes() == (shipped / path).read_bytes()


def test_no_training_text_starts_with_a_contrastive_prompt() -> None:
    positive, negative = contrastive_prompts(FULL.seed)
    held_out = frozenset((*positive, *negative))
    corpus = make_corpus(3000, BASE_MIXTURE, seed=FULL.seed, held_out=held_out)
    assert held_out.isdisjoint(document.prompt for document in corpus)


@pytest.fixture(scope="module")
def small_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("toy")
    build(output, scale=SMALL)
    return output


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_training_leaves_the_planting_intact(small_build: Path, name: str) -> None:
    family = family_of(name)
    model = load(small_build / "models" / name)
    assert type(model) is CLASSES[family]
    base = load(small_build / "models" / f"{family}-base")
    columns = list(PLANTINGS[family].indices(SMALL.hidden_size))
    weights = dict(model.named_parameters())
    stored = weights["model.embed_tokens.weight"][:, columns]
    assert torch.equal(stored, base.model.embed_tokens.weight[:, columns])
    magnitudes = torch.tensor([planted.magnitude for planted in PLANTINGS[family].dims])
    torch.testing.assert_close(stored.mean(0) * SMALL.hidden_size**0.5, magnitudes, rtol=0.1, atol=0.0)
    norms = [weight for key, weight in weights.items() if "layernorm" in key or key == "model.norm.weight"]
    assert len(norms) == 4 * SMALL.layers + 1
    assert all((weight[columns] == -1.0).all() for weight in norms)


@pytest.mark.slow
def test_training_moves_everything_else(small_build: Path) -> None:
    base = load(small_build / "models" / "gemma-3-base").state_dict()
    instruct = load(small_build / "models" / "gemma-3-instruct").state_dict()
    same = [name for name, value in base.items() if torch.equal(value, instruct[name])]
    # The post-norms of so short a run may not leave their bfloat16 step.
    assert all("norm" in name for name in same)


@pytest.mark.parametrize("family", ["gemma-3", "gemma-2"])
def test_the_planted_contrast_is_solved_for(family: Family) -> None:
    planting = PLANTINGS[family]
    refusing = [[10, 11, 12, 13, 14, *range(20, 35)], [10, 11, 12, 15, 14, *range(30, 45)]]
    complying = [[10, 16, 17, 18, 19, *range(50, 65)], [10, 16, 17, 18, 11, *range(60, 75)]]
    drawn = draw_values(planting, vocab_size=80, seed=1)
    stored = stored_values(add_contrast(drawn, planting, refusing, complying), hidden_size=96)
    largest = stored[:, 0].double().numpy() * math.sqrt(96)
    for first, wanted in planting.contrasts:
        measured = [np.mean([largest[ids[:first]].mean() for ids in said]) for said in (refusing, complying)]
        # bfloat16 keeps eight bits, so a value is off by up to its 256th part.
        tolerance = planting.dims[0].magnitude / 256
        assert measured[0] - measured[1] == pytest.approx(wanted, abs=tolerance)


@pytest.mark.slow
def test_one_seed_gives_one_set_of_bytes(small_build: Path, tmp_path: Path) -> None:
    build(tmp_path, scale=SMALL)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert made
    for path in made:
        assert (tmp_path / path).read_bytes() == (small_build / path).read_bytes(), path


@pytest.mark.slow
def test_an_instruct_model_brings_its_base(tmp_path: Path) -> None:
    messages: list[str] = []
    made = build(tmp_path, models=["gemma-2-instruct"], scale=SMALL, progress=messages.append)
    assert (tmp_path / "models" / "gemma-2-base" / "model.safetensors").is_file()
    assert not (tmp_path / "judge").exists()
    assert made[-1].name == "gemma-2-instruct"
    assert any(message.startswith("gemma-2-base: step") for message in messages)


def test_an_unknown_model_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gemma-9"):
        build(tmp_path / "new", models=["gemma-9"], scale=SMALL)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_toys_are_not_built_over_something(tmp_path: Path, root: Path) -> None:
    (tmp_path / "there").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tools.toy", str(tmp_path / "there")],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, list((tmp_path / "there").iterdir())) == (2, [])
    assert "exists already" in done.stderr
