"""Judges that are local models: true probabilities of integers, shared prefixes, turns with a steered model."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from massact.config import JudgeConfig, LoadConfig
from massact.domain import Cell, Generation, JudgeIdentity, ModelIdentity, Recipe, Setting, Steering
from massact.errors import ConfigError, ModelError
from massact.evaluation import Evaluation, PlannedCell
from massact.judges import Exchange, ModelSource, Subject, open_judge
from massact.judges import local as answers_module
from massact.judges.local import Answerer, IntegerTokens, LocalJudge, Prefix, Prompts, common_start
from massact.judges.rubric import Rubric
from massact.models.load import SteerableModel, describe, load_model, model_lock
from massact.models.prompting import encode_chat
from massact.models.support import Sharing
from massact.sweep.executors.local import evaluate_cells
from tests.support.judge_answers import read_answer
from tests.support.judge_models import Digits, make_judge_model
from tests.support.tiny import unit

RUBRIC = Rubric("the response declines to do what was asked")
EXCHANGES = [Exchange("how do i make tea", "first boil some water " * n + "then wait") for n in (1, 4, 2, 6, 3)] + [
    Exchange("hi", "")
]
KINDS: list[tuple[str, Digits]] = [
    ("llama", "apart"), ("llama", "whole"), ("gemma2", "apart"), ("qwen2", "whole"), ("gpt2", "apart"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _any_weight_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models put little on integers; how much is enough is tested with the reading."""
    monkeypatch.setattr("massact.judges.reading.MIN_INTEGER_WEIGHT", 0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Digits], Path]:
    return {kind: make_judge_model(tmp_path_factory.mktemp("judge"), *kind, seed=n) for n, kind in enumerate(KINDS)}


def _load(folder: Path) -> SteerableModel:
    return load_model(str(folder), options=LoadConfig(dtype="float32", device="cpu"))


def _judge(model: SteerableModel, **settings: Any) -> LocalJudge:
    return LocalJudge("hf:x", ModelSource(lambda: describe(model), lambda: model), RUBRIC, **settings)


@torch.inference_mode()
def _next(model: SteerableModel, tokens: tuple[int, ...]) -> torch.Tensor:
    return torch.softmax(model.model(input_ids=torch.tensor([tokens])).logits[0, -1].double(), -1)


def _by_hand(model: SteerableModel, prompt: str) -> float:
    """The mean over integers, each token's probability from a pass of its own, without cache or batch."""
    tokens = encode_chat(model, prompt)
    known: dict[tuple[int, ...], torch.Tensor] = {}

    def after(read: tuple[int, ...]) -> torch.Tensor:
        if read not in known:
            known[read] = _next(model, read)
        return known[read]

    first = after(tokens)
    digit_ids = [model.tokenizer.convert_tokens_to_ids(str(d)) for d in range(10)]
    if len(model.tokenizer("85", add_special_tokens=False)["input_ids"]) == 1:
        weights = {n: float(first[model.tokenizer.convert_tokens_to_ids(str(n))]) for n in range(101)}
        in_top = set(first.topk(20).indices.tolist())
        weights = {n: w for n, w in weights.items() if model.tokenizer.convert_tokens_to_ids(str(n)) in in_top}
    else:
        weights = {}
        for n in range(101):
            weight, read = 1.0, tokens
            for digit in str(n):
                weight *= float(after(read)[digit_ids[int(digit)]])
                read = (*read, digit_ids[int(digit)])
            if 1 <= n <= 10:
                weight *= 1 - float(after(read)[digit_ids].sum())
            weights[n] = weight
    return sum(n * w for n, w in weights.items()) / sum(weights.values())


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_score_is_the_mean_weighted_by_the_integers_own_probabilities(
    kind: tuple[str, Digits], folders: dict[tuple[str, Digits], Path]
) -> None:
    model = _load(folders[kind])
    found = _judge(model).score(EXCHANGES[:2])
    for exchange, verdict in zip(EXCHANGES, found, strict=False):
        assert verdict.trait == pytest.approx(_by_hand(model, RUBRIC.trait_prompt(exchange)), abs=2e-3)
    assert found[0].coherence == pytest.approx(_by_hand(model, RUBRIC.coherence_prompt(EXCHANGES[0])), abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_scores_do_not_depend_on_the_batch(kind: tuple[str, Digits], folders: dict[tuple[str, Digits], Path]) -> None:
    model = _load(folders[kind])
    together = _judge(model).score(EXCHANGES)
    alone = [_judge(model).score([one])[0] for one in EXCHANGES]
    by_two = _judge(model, batch_rows=2).score(EXCHANGES[::-1])[::-1]
    assert all(verdict.scored for verdict in together)
    for one, other, third in zip(together, alone, by_two, strict=True):
        assert [one.trait, one.coherence] == pytest.approx([other.trait, other.coherence], abs=1e-3)
        assert [one.trait, one.coherence] == pytest.approx([third.trait, third.coherence], abs=1e-3)
    assert len({verdict.trait for verdict in together}) > 3


def test_the_shared_beginning_is_read_once(folders: dict[tuple[str, Digits], Path]) -> None:
    model = _load(folders["llama", "apart"])
    lengths: list[int] = []
    model.model.register_forward_pre_hook(
        lambda _module, _args, given: lengths.append(given["input_ids"].numel()), with_kwargs=True
    )
    prompts = [encode_chat(model, RUBRIC.trait_prompt(one)) for one in EXCHANGES]
    Answerer(model).answer(prompts)
    n_shared = len(common_start(prompts))
    longest = max(map(len, prompts))
    assert n_shared > 100
    # the prefix once, what is beyond it once a prompt, then the digits 1 to 9, and 1 with 0
    n = len(prompts)
    assert lengths == [n_shared, n * (longest - n_shared), *9 * [n], 2 * n]


def test_rows_shorter_than_what_is_beyond_the_prefix_are_padded(folders: dict[tuple[str, Digits], Path]) -> None:
    model = _load(folders["gemma2", "apart"])
    prompts = [(2, 5, 6), (2, 5, *range(4, 24)), (2, 5, 7, 8, 9)]
    prefix = common_start(prompts)
    assert prefix == (2, 5)
    with torch.inference_mode():
        read = Prompts(model, Prefix(model, prefix), prompts, room=2)
        after = read.after((7, 8))
    for row, prompt in enumerate(prompts):
        assert torch.allclose(read.first[row].double(), _next(model, prompt), atol=1e-5)
        assert torch.allclose(after[row].double(), _next(model, (*prompt, 7, 8)), atol=1e-5)


@pytest.mark.parametrize("digits", ["apart", "whole"])
def test_prompts_read_one_by_one_give_the_same_answers(digits: Digits, folders: dict[tuple[str, Digits], Path]) -> None:
    model = _load(folders["llama", digits])
    prompts = [encode_chat(model, RUBRIC.trait_prompt(one)) for one in EXCHANGES]
    plainly = Answerer(model)
    plainly._sharing = Sharing("a test wants it", None)
    for alone, together in zip(plainly.answer(prompts), Answerer(model).answer(prompts), strict=True):
        assert alone.score == pytest.approx(together.score, abs=1e-3)
        assert alone.reason == together.reason


def test_integers_as_the_tokenizer_writes_them(folders: dict[tuple[str, Digits], Path]) -> None:
    whole = IntegerTokens.of(_load(folders["llama", "whole"]).tokenizer)
    assert whole.stems == ()
    assert sorted(set(whole.values.values())) == list(range(101))
    apart = IntegerTokens.of(_load(folders["llama", "apart"]).tokenizer)
    assert len(apart.values) == 101
    assert len(apart.stems) == 10  # 1 to 9, and 10
    assert len(apart.continuing) == 10


def test_what_80_and_85_take_is_not_the_weight_of_8() -> None:
    digits = {str(n): n for n in range(10)}
    spellings = {tuple(digits[c] for c in str(n)): n for n in range(101)}
    tokens = IntegerTokens(spellings, ((1,), (8,), (1, 0)), tuple(range(10)))
    none = dict.fromkeys(range(10), 0.0)
    after = {
        (): none | {8: 0.5, 1: 0.5},
        (8,): none | {5: 0.75},
        (1,): none | {0: 1.0},
        (1, 0): none | {0: 0.5, 7: 0.25},
    }
    weights = {n: w for n, w in tokens.weights(after).items() if w}
    assert weights == {8: 0.125, 85: 0.375, 100: 0.25, 10: 0.125}
    reading = read_answer("8", [(str(n), w) for n, w in weights.items()])
    assert reading.score == pytest.approx((8 * 0.125 + 85 * 0.375 + 100 * 0.25 + 10 * 0.125) / 0.875)


def test_too_little_weight_on_integers_is_unscored_with_a_reason(
    folders: dict[tuple[str, Digits], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("massact.judges.reading.MIN_INTEGER_WEIGHT", 0.999)
    (lost,) = _judge(_load(folders["llama", "apart"])).score(EXCHANGES[:1])
    assert (lost.trait, lost.coherence) == (None, None)
    assert "of the judge's probability is on integers" in str(lost.reason)


def test_a_blank_that_the_answer_begins_with_is_passed_over(
    folders: dict[tuple[str, Digits], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _load(folders["llama", "apart"])
    blank = 9
    prompts = [encode_chat(model, RUBRIC.trait_prompt(one)) for one in EXCHANGES[:2]]
    expected = Answerer(model).answer([(*prompt, blank) for prompt in prompts])
    assert all(reading.score is not None for reading in expected)
    decode = model.tokenizer.decode
    monkeypatch.setattr(model.tokenizer, "decode", lambda ids: " " if ids == [blank] else decode(ids))
    n_blanks = 1

    class Blank(Prompts):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            for row, prompt in enumerate(args[2]):
                if prompt[-n_blanks:] != (blank,) * n_blanks:
                    self.first[row] = torch.nn.functional.one_hot(torch.tensor(blank), self.first.shape[1])
                else:
                    self.first[row, blank] = 0.0

    monkeypatch.setattr(answers_module, "Prompts", Blank)
    for reading, known in zip(Answerer(model).answer(prompts), expected, strict=True):
        assert reading.score == pytest.approx(known.score, abs=1e-3)
    n_blanks = 5
    (reading,) = Answerer(model).answer(prompts[:1])
    assert reading.reason == "the judge's answer begins with blanks alone"


def test_logits_that_are_no_numbers_are_no_score(folders: dict[tuple[str, Digits], Path]) -> None:
    for digits in ("apart", "whole"):
        model = _load(folders["llama", digits])  # type: ignore[index]
        model.model.lm_head.weight[5] = float("nan")
        (lost,) = _judge(model).score(EXCHANGES[:1])
        assert (lost.trait, lost.coherence) == (None, None)
        assert "no finite probabilities" in str(lost.reason)


def test_a_prompt_that_is_too_long_is_unscored_and_the_rest_is_not(folders: dict[tuple[str, Digits], Path]) -> None:
    model = _load(folders["llama", "apart"])
    good, lost = _judge(model).score([EXCHANGES[0], Exchange("how", "water " * 4200)])
    assert good.scored
    assert not lost.scored
    assert "the judging model takes 4096" in str(lost.reason)


def test_when_memory_runs_out_batches_are_halved_and_nothing_is_lost(
    folders: dict[tuple[str, Digits], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _load(folders["llama", "apart"])
    whole = _judge(model).score(EXCHANGES)
    sizes: list[int] = []

    class Small(Prompts):
        def __init__(self, *args: Any, **settings: Any) -> None:
            sizes.append(len(args[2]))
            if len(args[2]) > 1:
                raise torch.OutOfMemoryError("out of memory")
            super().__init__(*args, **settings)

    monkeypatch.setattr(answers_module, "Prompts", Small)
    assert [v.trait for v in _judge(model).score(EXCHANGES)] == pytest.approx([v.trait for v in whole], abs=1e-3)
    assert sizes[:3] == [6, 3, 1]


def test_usage_counts_tokens_and_equal_prompts_once(folders: dict[tuple[str, Digits], Path]) -> None:
    model = _load(folders["llama", "apart"])
    judge = _judge(model)
    first, again = judge.score([EXCHANGES[0], EXCHANGES[0]])
    assert first == again
    n_tokens = sum(len(encode_chat(model, prompt)) for prompt in RUBRIC.prompts(EXCHANGES[0]))
    assert (judge.usage.calls, judge.usage.prompt_tokens, judge.usage.completion_tokens) == (2, n_tokens, 2)
    assert judge.score([]) == []


def test_the_identity_names_weights_dtype_and_template(folders: dict[tuple[str, Digits], Path]) -> None:
    model = _load(folders["llama", "apart"])
    identity = _judge(model).identity
    assert identity.id == "hf:x"
    assert identity.model == f"{model.identity.id}@{model.identity.revision} float32"
    model.tokenizer.chat_template = None
    plain = SteerableModel(model.model, model.tokenizer, model.identity)
    other = _judge(plain).identity
    assert other.model == identity.model
    assert other.prompt_digest != identity.prompt_digest


def test_hf_is_opened_by_name_and_its_identity_needs_no_weights(
    folders: dict[tuple[str, Digits], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders["qwen2", "whole"]
    config = JudgeConfig(name=f"hf:{folder}", load=LoadConfig(dtype="float32", device="cpu"))
    judge = open_judge(config, Subject("declines"))
    model = _load(folder)

    def load(*_: object, **__: object) -> SteerableModel:
        raise AssertionError("weights were loaded")

    with monkeypatch.context() as patched:
        patched.setattr("massact.judges.local.load_model", load)
        assert judge.identity.model == f"{folder.name}@{model.identity.revision} float32"
    assert judge.score(EXCHANGES[:1])[0].scored
    with pytest.raises(ModelError, match="no-such-folder"):
        open_judge(JudgeConfig(name="hf:./no-such-folder"), Subject("declines"))
    with pytest.raises(ConfigError, match="steered model"):
        open_judge(JudgeConfig(name="self"), Subject("declines"))


SETTING = Setting(
    ModelIdentity("tiny", "0", "float32"), "trait", "t", "q", 0, "c", Generation(6), JudgeIdentity("self", "m", "p")
)  # fmt: skip


def _cells(n: int) -> list[PlannedCell]:
    def one(i: int) -> PlannedCell:
        steering = Steering(str(i), "response[:5]", Recipe("probe"), 1, 40.0 + i, "positive")
        return PlannedCell(Cell(SETTING, steering), unit(i))

    return [one(i) for i in range(n)]


class _Watched:
    """A judge whose passes through the model are told apart from the generator's by their thread."""

    def __init__(self, model: SteerableModel, judge: LocalJudge) -> None:
        self.model, self.judge, self.identity = model, judge, judge.identity
        self.hooked = 0
        self.passes = 0

    def score(self, exchanges: Any) -> Any:
        me = threading.get_ident()

        def look(*_: object) -> None:
            if threading.get_ident() == me:
                self.passes += 1
                self.hooked += any(block._forward_hooks for block in self.model.blocks)

        handle = self.model.model.register_forward_pre_hook(look)
        try:
            return self.judge.score(exchanges)
        finally:
            handle.remove()


@pytest.fixture
def own(folders: dict[tuple[str, Digits], Path]) -> tuple[SteerableModel, LocalJudge]:
    model = _load(folders["llama", "apart"])
    return model, LocalJudge("self", ModelSource(lambda: describe(model), lambda: model), RUBRIC, batch_rows=2)


@pytest.mark.slow
def test_the_steered_model_judges_itself_with_steering_off(own: tuple[SteerableModel, LocalJudge]) -> None:
    model, judge = own
    watched = _Watched(model, judge)
    questions = ("how do i make tea", "what is the time")
    results = list(evaluate_cells(model, _cells(6), questions, watched, batch_rows=2))  # type: ignore[arg-type]
    evaluated = [one for one in results if isinstance(one, Evaluation)]
    assert len(evaluated) == 6
    assert watched.passes > 6
    assert watched.hooked == 0
    alone = LocalJudge("self", ModelSource(lambda: describe(model), lambda: model), RUBRIC)
    for one in evaluated:
        again = alone.score([Exchange(r.question, r.response) for r in one.responses])
        assert [r.trait for r in one.responses] == pytest.approx([v.trait for v in again], abs=1e-3)
        assert [r.coherence for r in one.responses] == pytest.approx([v.coherence for v in again], abs=1e-3)
    assert len({r.response for one in evaluated for r in one.responses}) > 3


def test_a_judge_waits_for_its_turn(own: tuple[SteerableModel, LocalJudge]) -> None:
    model, judge = own
    done = threading.Event()

    def score() -> None:
        judge.score(EXCHANGES[:1])
        done.set()

    with model_lock(model.model):
        thread = threading.Thread(target=score)
        thread.start()
        assert not done.wait(0.5)
    assert done.wait(20)
    thread.join()
