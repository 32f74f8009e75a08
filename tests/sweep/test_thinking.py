"""What a judge is handed of models that think and of conversations, and what is kept of their responses."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from massact.domain import Conversation, Generation, Response
from massact.errors import DataError
from massact.evaluation import Evaluation
from massact.interop.responses import read_responses_file, responses_json
from massact.judges import Exchange, Usage, Verdict
from massact.judges.caching import NO_ANSWER, CachingJudge
from massact.models.generate import Generator, Row
from massact.models.load import SteerableModel
from massact.store.responses import read_responses, response_bytes
from massact.sweep import stored
from massact.sweep.executors.local import evaluate_cells
from tests.support.sweep_cells import IDENTITY, cells
from tests.support.thinkers import FAMILIES, thinker

QUESTIONS = ("t20 t21", "t22 t23 t24")
MARKS = ("think", "THINK", "channel", "t30", "t31")
"""What no judge is to see unasked: marks, and the words that are thought below."""


class Judge:
    """Keeps what it is asked."""

    identity, usage = IDENTITY, Usage()

    def __init__(self) -> None:
        self.asked: list[Exchange] = []

    def prepare(self) -> None:
        return

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        self.asked += exchanges
        return [Verdict(1.0, 2.0) for _ in exchanges]


def _thinks(monkeypatch: pytest.MonkeyPatch, model: SteerableModel, *, ends: bool = True) -> None:
    """The model says what its family says when it thinks: `t30 t31`, and then `t40 t41`."""
    family = FAMILIES[model.identity.id.removeprefix("tiny-")]
    start = [] if model.chat.is_open else [*family.marks[:-1]]
    end = [family.marks[-1], "t40", "t41"]
    if family.kind == "gpt_oss":
        start, end = (
            ["<|channel|>analysis<|message|>"],
            ["<|end|><|start|>assistant<|channel|>final<|message|>", "t40", "t41"],
        )
    elif family.kind == "gemma4_text":
        start = ["<|channel>thought"]
    text = " ".join([*start, "t30", "t31", *(end if ends else ())])
    monkeypatch.setattr(Generator, "generate", lambda *_a, **_o: [(7, 8)] * len(_a[1]))

    def decode(ids: list[int], *, skip_special_tokens: bool) -> str:
        special = family.is_special and skip_special_tokens
        plain = text
        for mark in family.marks if special else ():
            plain = plain.replace(mark, "")
        return plain

    monkeypatch.setattr(model.tokenizer, "decode", decode)


def _evaluated(model: SteerableModel, judge: CachingJudge) -> Evaluation:
    (result,) = evaluate_cells(model, cells(1), QUESTIONS, judge, batch_rows=2)
    assert isinstance(result, Evaluation), result
    return result


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("thinking", [None, "on"])
def test_no_thought_reaches_a_judge_unasked(name: str, thinking: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a model that thinks although it was told not to."""
    model, judge = thinker(name, thinking), Judge()
    _thinks(monkeypatch, model)
    result = _evaluated(model, CachingJudge(judge))
    assert judge.asked == [Exchange(question, "t40 t41") for question in QUESTIONS]
    assert not any(mark in one.response for one in judge.asked for mark in MARKS)
    assert [(one.response, one.thinking) for one in result.responses] == [("t40 t41", "t30 t31")] * 2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_thought_that_does_not_end_is_not_judged(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, judge = thinker(name, "on"), Judge()
    _thinks(monkeypatch, model, ends=False)
    for handed in ("skip", "include"):
        result = _evaluated(model, CachingJudge(judge, thinking=handed))  # type: ignore[arg-type]
        assert judge.asked == []
        for one in result.responses:
            assert (one.response, one.thinking, one.is_answered) == ("", "t30 t31", False)
            assert (one.trait, one.coherence, one.reason) == (None, None, NO_ANSWER)
        assert result.summary.n_unscored == 2


def test_a_judge_may_be_given_thoughts_and_is_another_judge_then(monkeypatch: pytest.MonkeyPatch) -> None:
    model, judge = thinker("qwen3", "on"), Judge()
    _thinks(monkeypatch, model)
    reading = CachingJudge(judge, thinking="include")
    _evaluated(model, reading)
    assert [one.response for one in judge.asked] == ["<think>\nt30 t31\n</think>\n\nt40 t41"] * 2
    assert reading.identity != IDENTITY == CachingJudge(judge).identity
    assert replace(reading.identity, prompt_digest="p") == IDENTITY


def test_verdicts_come_back_in_order_also_between_those_that_are_not_judged() -> None:
    class Lengths(Judge):
        def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
            return [Verdict(float(len(one.response)), 1.0) for one in exchanges]

    asked = [
        Exchange("q", "a"),
        Exchange("q", "", "t", False),
        Exchange("q", "abc", "t"),
        Exchange("q", "", "u", False),
    ]
    assert [one.trait for one in CachingJudge(Lengths()).score(asked)] == [1.0, None, 3.0, None]


@pytest.mark.parametrize(
    ("kept", "judged"),
    [
        (Response("q", "<think>t30\n</think>\n\nt40", None, None), Exchange("q", "t40", "t30")),
        (Response("q", "<think>t30", None, None), Exchange("q", "", "t30", False)),
        (Response("q", "t40", None, None, None, "t30"), Exchange("q", "t40", "t30")),
        (Response("q", "", None, None, NO_ANSWER, "t30", False), Exchange("q", "", "t30", False)),
        (Response("q", "t40", None, None), Exchange("q", "t40")),
    ],
)
def test_what_is_judged_again_is_the_answer_too(kept: Response, judged: Exchange) -> None:
    """Earlier versions kept thought and answer as one text."""
    assert stored._exchange(kept) == judged


SAID = (
    Response("q", "a", 1.0, 2.0, None, "hm", True),
    Response("r", "", None, None, NO_ANSWER, "hm, hm", False),
    Response("s", "b", 1.0, 2.0),
)


def test_thoughts_are_kept_apart_and_read_back(tmp_path: Path) -> None:
    for name, write, read in (
        ("responses.json", response_bytes, read_responses),
        ("ours.json", responses_json, read_responses_file),
    ):
        (tmp_path / name).write_bytes(write(SAID))
        assert read(tmp_path / name) == SAID
    # where nothing thinks, files are what they were
    assert b"thinking" not in response_bytes(SAID[2:]) + responses_json(SAID[2:])


@pytest.mark.parametrize("row", [["q", "a", 1, 2, None, 3, True], ["q", "a", 1, 2, None, "t", "yes"]])
def test_a_table_with_a_thought_that_is_none_is_damaged(row: list[Any], tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"data": [row]}))
    with pytest.raises(DataError, match="not a table of responses"):
        read_responses(tmp_path / "r.json")
    fields = dict(
        zip(
            ("prompt", "response", "trait_score", "coherence_score", "unscored_because", "thinking", "is_answered"),
            row,
            strict=True,
        )
    )
    (tmp_path / "o.json").write_text(json.dumps([fields]))
    with pytest.raises(DataError, match="thinking is no text"):
        read_responses_file(tmp_path / "o.json")


def test_tokens_of_thoughts_count() -> None:
    model = thinker("r1_distill", "3")
    result = next(iter(evaluate_cells(model, _with_length(12), QUESTIONS, CachingJudge(Judge()), batch_rows=2)))
    assert isinstance(result, Evaluation)
    rows = [Row((2,)) for _ in QUESTIONS]
    assert 0 < result.timing.n_tokens <= 12 * len(rows)
    assert all(one.is_answered and one.thinking for one in result.responses)


def _with_length(n: int) -> list[Any]:
    (cell,) = cells(1)
    setting = replace(cell.cell.setting, generation=Generation(n))
    return [replace(cell, cell=replace(cell.cell, setting=setting))]


def test_a_model_is_asked_messages_and_a_judge_reads_them_as_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model, judge, asked = thinker("qwen3"), Judge(), list[tuple[int, ...]]()
    talk = Conversation([("system", "t30"), ("user", "t20"), ("assistant", "t21"), ("user", "t22")])

    def generate(_generator: Generator, rows: Sequence[Row], *_: Any) -> list[tuple[int, ...]]:
        asked.extend(row.prompt for row in rows)
        return [(40,)] * len(rows)

    monkeypatch.setattr(Generator, "generate", generate)
    (result,) = evaluate_cells(model, cells(1), (talk, "t23"), CachingJudge(judge), batch_rows=2)
    assert isinstance(result, Evaluation)
    ending = "<assistant> <think> </think>"
    assert [model.tokenizer.decode(prompt) for prompt in asked] == [
        f"<system> t30 <user> t20 <assistant> t21 <user> t22 {ending}",
        f"<user> t23 {ending}",
    ]
    text = "System: t30\n\nUser: t20\n\nAssistant: t21\n\nUser: t22"
    assert [one.question for one in judge.asked] == [text, "t23"]
    assert json.loads(response_bytes(result.responses))["data"][0][0] == text
