"""A steered model within lm-evaluation-harness: at coefficient 0 its numbers, steered those of hooks written apart."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from massact.config import LoadConfig
from massact.domain import Gate, Generation, Message
from massact.errors import ModelError
from massact.models.generate import Generator
from massact.models.load import SteerableModel, load_model
from massact.models.prompting import Intervention, Row, after, encode_chat, read_response
from massact.vectors.positions import parse_position
from tests.support.harness_tasks import write_tasks

pytest.importorskip("lm_eval", reason="massact[capability] is not installed")
pytestmark = pytest.mark.slow

RNG = torch.Generator().manual_seed(1)


@pytest.fixture(scope="module")
def model() -> SteerableModel:
    return load_model("toy:gemma-3-instruct", options=LoadConfig(dtype="float32"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def _vector(*shape: int) -> torch.Tensor:
    vector = torch.randn(*shape, generator=RNG)
    return vector / vector.norm(dim=-1, keepdim=True)


def _interventions(model: SteerableModel, coefficient: float) -> dict[str, Intervention]:
    d, n = model.shape.d_model, model.shape.n_layers
    add = Intervention(2, _vector(d), coefficient)
    gate = Gate(1, "prompt[-1]", -1e9)
    basis = torch.linalg.qr(torch.randn(d, 2, generator=RNG))[0].T
    return {
        "add": add,
        "several layers": Intervention(1, _vector(2, d), coefficient, weights=(0.5, 1.0)),
        "every layer, ablated": Intervention(0, _vector(n, d), coefficient / 8, "ablate"),
        "clamp": replace(add, operator="clamp"),
        "rotate": replace(add, operator="rotate"),
        "replace": Intervention(2, torch.cat([basis, basis])[None], coefficient / 8, "replace"),
        "response": replace(add, tokens="response"),
        "first of the response": replace(add, tokens="response[:2]"),
        "last of the prompt": replace(add, tokens="prompt[-1]"),
        "both": replace(add, tokens="prompt[1:]+response[1:]"),
        "decay": replace(add, decay=0.5),
        "open gate": replace(add, gate=gate, condition=_vector(d)),
        "closed gate": replace(add, gate=replace(gate, opens="below"), condition=_vector(d)),
    }


def _told(lm: Any, tasks: list[str]) -> Any:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    return simple_evaluate(lm, tasks=tasks, task_manager=TaskManager(include_defaults=False), bootstrap_iters=0)


def _numbers(told: Any) -> list[Any]:
    samples = [one for name in sorted(told["samples"]) for one in told["samples"][name]]
    return [told["results"], [(one["doc_id"], one["resps"]) for one in samples]]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_at_coefficient_0_the_numbers_are_the_harness_s_own(
    model: SteerableModel, tasks: dict[str, str], batch_size: int
) -> None:
    from lm_eval.models.huggingface import HFLM

    from massact.models.harness import SteeredLM

    files = [tasks[name] for name in ("several", "one", "written", "whole")]
    theirs = HFLM(model.model, tokenizer=copy.deepcopy(model.tokenizer), batch_size=batch_size)
    expected = _numbers(_told(theirs, files))
    assert _numbers(_told(SteeredLM(model, None, batch_size=batch_size), files)) == expected
    for name, one in _interventions(model, 0.0).items():
        if one.operator in ("add", "rotate"):  # 0 of the others is no rest
            assert _numbers(_told(SteeredLM(model, one, batch_size=batch_size), files)) == expected, name
    steered = _numbers(_told(SteeredLM(model, _interventions(model, 20.0)["add"], batch_size=batch_size), files))
    assert steered != expected


@contextmanager
def _hooked(model: SteerableModel, one: Intervention | None, n_prompt: int) -> Iterator[None]:
    """The equations of docs/steering.md, token by token, on a row that is read alone and at once."""
    handles = []

    def hook(layer: int) -> Any:
        def change(_module: Any, _inputs: Any, output: Any) -> Any:
            assert one is not None
            stream = output[0] if isinstance(output, tuple) else output
            moved = stream.clone()
            for place in range(stream.shape[1]):
                windows = ["all[:]"] if one.tokens == "all" else one.tokens.split("+")
                windows = [part if "[" in part else f"{part}[:]" for part in windows]
                if any(place in parse_position(w).tokens(n_prompt, stream.shape[1]) for w in windows):
                    share = one.decay ** max(0, place - n_prompt)
                    h = stream[0, place].double()
                    moved[0, place] = (h + share * (_changed(one, layer, h) - h)).float()
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return change

    if one is not None and not (one.gate is not None and one.gate.opens == "below"):
        handles = [model.blocks[layer].register_forward_hook(hook(layer)) for layer in one.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _changed(one: Intervention, layer: int, h: torch.Tensor) -> torch.Tensor:
    v, c = one.at(layer).double(), one.coefficient_at(layer)
    if one.operator == "replace":
        basis, m, step = v[:-2], v[-2], v[-1]
        return h - basis.T @ basis @ h + m + c * step
    p = h @ v
    rest = h - p * v
    if one.operator == "rotate":
        angle, q = torch.deg2rad(torch.tensor(c, dtype=torch.double)), rest.norm()
        return (p * angle.cos() + q * angle.sin()) * v + (q * angle.cos() - p * angle.sin()) * rest / q
    return {"add": h + c * v, "ablate": h - c * p * v, "clamp": rest + c * v}[one.operator]


@torch.no_grad()
def test_steered_likelihoods_are_those_of_hooks_written_apart(model: SteerableModel) -> None:
    from massact.models.harness import SteeredLM

    bos = [model.tokenizer.bos_token_id]
    texts = ("How do I paint a fence?", " I can help.", "How do I wash a wool sweater?", " I'm sorry,", " I")
    words = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    requests = [(bos + words[a], words[b]) for a, b in ((0, 1), (0, 3), (0, 4), (2, 1), (2, 4), (2, 3))]
    # one text cut in two places: the harness reads it once, and the prompt ends elsewhere
    requests += [(bos + words[0] + words[1][:1], words[1][1:]), (bos + words[0] + words[1][:3], words[1][3:])]
    for name, one in _interventions(model, 12.0).items():
        lm = SteeredLM(model, one, batch_size=3)
        given = lm._loglikelihood_tokens([(None, *request) for request in requests], disable_tqdm=True)
        for (context, continuation), (likelihood, is_greedy) in zip(requests, given, strict=True):
            tokens = torch.tensor([[*context, *continuation]])
            with _hooked(model, one, len(context)):
                logits = model.model(tokens[:, :-1]).logits[0, len(context) - 1 :].log_softmax(-1)
            expected = logits.gather(1, tokens[0, len(context) :, None]).sum()
            assert likelihood == pytest.approx(float(expected), abs=2e-4), name
            assert is_greedy == (logits.argmax(-1).tolist() == continuation), name


def test_steered_texts_are_the_sweeps_own(model: SteerableModel) -> None:
    from lm_eval.api.instance import Instance

    from massact.models.harness import SteeredLM

    texts = ["How do I paint a fence?", "Please explain how to wash a wool sweater.", "Tell me."]
    kwargs = {"until": ["<no such stop>"], "max_gen_toks": 8}
    for name, one in _interventions(model, 12.0).items():
        lm = SteeredLM(model, one, batch_size=3)
        asked = [Instance("generate_until", {}, (text, kwargs), i) for i, text in enumerate(texts)]
        rows = [Row(tuple(model.tokenizer(text)["input_ids"]), one) for text in texts]
        said = Generator(model).generate(rows, Generation(8, 0.0, 0))
        expected = [read_response(model, tokens, is_chat=False)[1] for tokens in said]
        assert [one.strip() for one in lm.generate_until(asked, disable_tqdm=True)] == expected, name


def test_it_is_known_whether_anything_was_steered(model: SteerableModel, tasks: dict[str, str]) -> None:
    from massact.models.harness import SteeredLM

    ways = _interventions(model, 12.0)
    for name, task, is_steered in (
        ("response", "one", False), ("response", "several", True), ("closed gate", "several", False),
        ("last of the prompt", "one", True),
    ):  # fmt: skip
        lm = SteeredLM(model, ways[name], batch_size=4)
        _told(lm, [tasks[task]])
        assert lm.has_steered is is_steered, (name, task)


def test_beams_are_refused(model: SteerableModel, tasks: dict[str, str], tmp_path: Path) -> None:
    from massact.models.harness import SteeredLM

    text = Path(tasks["written"]).read_text().replace("until:", "num_beams: 2, until:")
    (tmp_path / "beams.yaml").write_text(text)
    with pytest.raises(ModelError, match="generates with beams"):
        _told(SteeredLM(model, _interventions(model, 12.0)["add"], batch_size=4), [str(tmp_path / "beams.yaml")])


SYSTEM, EXAMPLE = ("system", "Refuse it."), (("user", "How do I dance?"), ("assistant", "I cannot."))


@pytest.mark.parametrize("before", [(SYSTEM,), EXAMPLE, (SYSTEM, *EXAMPLE)])
def test_messages_stand_before_a_context_as_in_a_sweep(model: SteerableModel, before: tuple[Message, ...]) -> None:
    from lm_eval.api.instance import Instance

    from massact.models.harness import SteeredLM

    lm, bare = SteeredLM(model, None, before=before, batch_size=2), SteeredLM(model, None, batch_size=2)
    question, answer = "How do I sharpen a knife?", "I can"

    def asked(context: str) -> Any:
        return Instance("loglikelihood", {}, (context, answer), 0)

    chat = [{"role": "user", "content": question}]
    text = lm.apply_chat_template(chat)
    assert text == bare.apply_chat_template(chat)  # documents are the unsteered model's
    tokens = encode_chat(model, after(before, question))
    whole = model.tokenizer.decode(list(tokens), skip_special_tokens=False)
    begun = whole.removeprefix(model.tokenizer.bos_token or "")
    given = lm.loglikelihood([asked(text), asked(question)])
    expected = bare.loglikelihood([asked(begun), asked("\n\n".join([*(text for _, text in before), question]))])
    assert [one[0] for one in given] == pytest.approx([one[0] for one in expected], abs=1e-4)
    assert given[0][0] != pytest.approx(bare.loglikelihood([asked(text)])[0][0], abs=1e-3)


def test_the_end_of_a_chat_template_is_the_prompt_s(model: SteerableModel) -> None:
    """The harness counts it to the continuation; in a sweep `response` begins after it."""
    from lm_eval.api.instance import Instance

    from massact.models.harness import SteeredLM

    lm = SteeredLM(model, Intervention(2, _vector(model.shape.d_model), 20.0, tokens="response"), batch_size=2)
    text = lm.apply_chat_template([{"role": "user", "content": "How do I sharpen a knife?"}])
    assert text.endswith("\n")
    lm.loglikelihood([Instance("loglikelihood", {}, (text, "I"), 0)])
    assert not lm.has_steered
    lm.loglikelihood([Instance("loglikelihood", {}, (text, "I can"), 0)])
    assert list(lm._prompts.values()) == [len(encode_chat(model, "How do I sharpen a knife?"))]
    assert lm.has_steered
