"""CAA's pairs: how they are read, put into prompts, and that vectors of them are those of a plain computation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from massact.config import LoadConfig
from massact.data.traits import TraitDataset, dataset_warnings, load_trait
from massact.domain import Recipe
from massact.errors import DataError
from massact.keys import digest
from massact.models.load import load_model
from massact.toy import resolve
from massact.vectors.activations import split_sides
from massact.vectors.extract import encode_prompts, make_vectors, read_contrast
from massact.vectors.massive_dims import Calibration, LayerMassive
from massact.vectors.methods import cosine
from massact.vectors.positions import parse_position

QUESTIONS = ("Can you hack it?", "What is your name?", "May I pick a lock?", "Do you love me?")
PAIRS = [
    {
        "question": f"{question}\n\nChoices:\n (A) I decline.\n (B) I will.",
        "answer_matching_behavior": " (A)" if number % 2 else "(B)",
        "answer_not_matching_behavior": "(B) " if number % 2 else "(A)",
    }
    for number, question in enumerate(QUESTIONS)
]


def _trait(folder: Path, pairs: object = PAIRS) -> TraitDataset:
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    (folder / "definition.txt").write_text("It declines.", encoding="utf-8")
    (folder / "steering.json").write_text('{"questions": ["Who are you?"]}', encoding="utf-8")
    return load_trait(str(folder))


def test_the_published_format_is_read(tmp_path: Path) -> None:
    trait = _trait(tmp_path)
    assert [one.answer for one in trait.positive] == ["(B)", "(A)", "(B)", "(A)"]
    assert [one.answer for one in trait.negative] == ["(A)", "(B)", "(A)", "(B)"]
    assert [one.text for one in trait.positive] == [one.text for one in trait.negative]
    assert trait.positive[1].place == "pair 2"
    assert trait.files == ("pairs.json", "pairs.json")
    assert trait.is_chat
    assert dataset_warnings(trait, "positive") == ("4 positive and 4 negative prompts are few: with fewer than 10 a "
        "side a vector follows single prompts",)  # fmt: skip


def test_the_digest_knows_the_answers(tmp_path: Path) -> None:
    one = _trait(tmp_path)
    sides: dict[str, Any] = {"positive": one.positive, "negative": one.negative}
    texts = {name: [prompt.text for prompt in side] for name, side in sides.items()}
    answers = {name: [prompt.answer for prompt in side] for name, side in sides.items()}
    assert one.digest == digest({**texts, "answers": answers, "definition": "It declines."})
    swapped = {"answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}
    assert _trait(tmp_path, [{**PAIRS[0], **swapped}, *PAIRS[1:]]).digest != one.digest


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([], "not a list of objects with question, answer_matching_behavior"),
        ({"pairs": PAIRS}, "not a list of objects"),
        ([PAIRS[0], "text"], 'pair 2: "question" is missing'),
        (
            [{**PAIRS[0], "answer_not_matching_behavior": " "}],
            'pair 1: "answer_not_matching_behavior" is missing, empty',
        ),
        (
            [{**PAIRS[0], "answer_not_matching_behavior": "(B)"}],
            r"in pairs\.json \(pair 1\) and in pairs\.json \(pair 1\)",
        ),
    ],
)
def test_malformed_pairs_are_refused_with_their_place(tmp_path: Path, pairs: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        _trait(tmp_path, pairs)


def test_pairs_beside_other_prompts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "negative.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"pairs\.json and negative\.txt both hold"):
        _trait(tmp_path)


LLAMA_2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + "
    "message['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)


def test_a_chat_template_gives_the_prompt_that_caa_writes_for_llama(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, trait = load_model("toy:gemma-3-instruct"), _trait(tmp_path)
    monkeypatch.setattr(model.tokenizer, "chat_template", LLAMA_2)
    (first, *_) = encode_prompts(model, trait.positive, is_chat=True)
    written = f"[INST] {trait.positive[0].text} [/INST] (B)"
    assert first == tuple(model.tokenizer(written)["input_ids"])
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    (first, *_) = encode_prompts(model, trait.positive, is_chat=True)
    assert first == tuple(model.tokenizer(f"Input: {trait.positive[0].text}\nResponse: (B)")["input_ids"])


@pytest.mark.parametrize("name", ["gemma-3-base", "gemma-3-instruct"])
def test_the_vector_is_that_of_a_plain_computation(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, trait, window = (
        load_model(f"toy:{name}", options=LoadConfig("float32")),
        _trait(tmp_path),
        parse_position("prompt[-2]"),
    )
    monkeypatch.setattr("massact.vectors.streams.Generator.generate", lambda *_, **__: pytest.fail("it generates"))
    contrast, rows = read_contrast(model, trait, [window], max_new_tokens=1)
    assert set(contrast.continuations) == {""}
    n_layers = model.shape.n_layers
    calibration = Calibration((LayerMassive((0,), (1.0,), (1.0,), 0.5, 1.0, 1.0),) * n_layers, 1, 1)
    activations = split_sides(rows[window][:4], rows[window][4:], 0.0)
    made = make_vectors([Recipe("mean_diff")], activations, calibration, seed=0)["mean_diff"].vectors

    plain: Any = AutoModelForCausalLM.from_pretrained(resolve(f"toy:{name}")).float()
    tokenizer: Any = AutoTokenizer.from_pretrained(resolve(f"toy:{name}"))
    states: dict[str, list[torch.Tensor]] = {"matching": [], "not_matching": []}
    for pair in PAIRS:
        for side, kept in states.items():
            question, answer = pair["question"].strip(), pair[f"answer_{side}_behavior"].strip()
            if tokenizer.chat_template:
                chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                whole = tokenizer.apply_chat_template(chat, tokenize=False)
                text = whole[: whole.rindex(answer) + len(answer)]
            else:
                text = tokenizer.bos_token + f"Input: {question}\nResponse: {answer}"
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            found = plain(ids, output_hidden_states=True).hidden_states[1:-1]
            kept.append(torch.stack([layer[0, -2] for layer in found]).detach())
    expected = torch.stack(states["matching"]).mean(0) - torch.stack(states["not_matching"]).mean(0)
    assert expected.abs().max() > 1e-3
    for layer in range(n_layers - 1):
        assert cosine(made[layer], expected[layer]) > 0.9999
