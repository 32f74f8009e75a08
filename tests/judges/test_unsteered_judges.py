"""Judges that read with the unsteered model, on an embedded one whose text is known; and those that need no model."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from massact.config import JudgeConfig, LoadConfig
from massact.data.traits import load_trait
from massact.domain import Generation, JudgeIdentity
from massact.errors import ConfigError, JudgeError
from massact.judges import Exchange, ModelSource, Subject, Usage, Verdict
from massact.judges.outside import completed, open_python_judge
from massact.judges.rules import open_regex_judge
from massact.judges.unsteered import ClassifierJudge, PerplexityJudge, _variety, _worst
from massact.models.generate import Row, generate
from massact.models.load import SteerableModel, describe, load_model
from massact.models.prompting import decode, encode_chat
from massact.sweep.executors.base import JudgeUse, ModelUse
from massact.sweep.executors.ray.judges import open_judge_use
from massact.toy import resolve

TOY = str(resolve("toy:gemma-3-instruct"))
TEXT = load_trait("toy:refusal")
REFUSAL = "I'm sorry, but I can't help you bake a loaf of bread. It could hurt someone. It is against the law."
ANSWER = "Sure, here is how to bake a loaf of bread. First, mix flour, water, salt and yeast. Then knead the dough."


@pytest.fixture(scope="module")
def model() -> SteerableModel:
    return load_model(TOY, options=LoadConfig(dtype="float32"))


@pytest.fixture(scope="module")
def subject(model: SteerableModel) -> Subject:
    sides = ([one.text for one in TEXT.positive], [one.text for one in TEXT.negative])
    return Subject(
        TEXT.definition,
        trait="refusal",
        questions=TEXT.questions,
        sides=(tuple(sides[0]), tuple(sides[1])),
        steered=ModelSource(lambda: describe(model), lambda: model),
    )


def test_the_least_window_and_the_variety_by_hand() -> None:
    values = torch.tensor([-1.0] * 12 + [-5.0] * 3 + [-1.0] * 12)
    assert _worst(values) == pytest.approx((9 * -1 + 3 * -5) / 12)
    assert _worst(values[:4]) == -1.0
    assert _variety([1, 2, 3, 1, 2, 3]) == 3 / 4
    assert _variety([7] * 10) == 1 / 8
    assert _variety([1, 2]) == 1.0


def test_own_text_scores_near_100_and_broken_text_near_0(model: SteerableModel, subject: Subject) -> None:
    judge = PerplexityJudge(JudgeConfig("perplexity"), subject)
    questions = TEXT.questions[16:]  # not those that it is calibrated on
    tokens = generate(model, [Row(encode_chat(model, one)) for one in questions], Generation(40))
    own = [Exchange(q, decode(model, t)) for q, t in zip(questions, tokens, strict=True)]
    words = [one.response.split() for one in own]
    for one in words:
        random.Random(1).shuffle(one)
    broken = [Exchange(one.question, " ".join(mixed)) for one, mixed in zip(own, words, strict=True)]
    loop = [Exchange(own[0].question, "Then let it rise. " * 12), Exchange(own[0].question, "")]

    def scores(exchanges: list[Exchange]) -> list[float]:
        return [verdict.coherence or 0.0 for verdict in judge.score(exchanges)]

    assert sum(scores(own)) / len(own) > 85
    assert max(scores(broken)) < 30
    assert scores(loop)[0] < 10
    assert scores(loop)[1] == 0.0
    assert all(verdict.trait is None for verdict in judge.score(own))
    halves = own[0].response.split()
    spoiled = Exchange(own[0].question, " ".join(halves[:20] + words[1][:16]))
    assert scores([spoiled])[0] < scores(own[:1])[0] - 30


def test_a_classifier_learns_the_side_tells_its_accuracy_and_refuses_what_it_cannot_learn(subject: Subject) -> None:
    answered = replace(
        subject, sides=((REFUSAL, REFUSAL + " No.", REFUSAL[:60]), (ANSWER, ANSWER + " Enjoy.", ANSWER[:60]))
    )
    judge = ClassifierJudge(JudgeConfig("classifier"), answered)
    refuses, answers, says_nothing = judge.score(
        [
            Exchange("q", "I'm sorry, but I can't help with that."),
            Exchange("q", "Sure, here is how. First, mix."),
            Exchange("q", " "),
        ]
    )
    assert (refuses.trait or 0) > 70
    assert (answers.trait or 100) < 30
    assert says_nothing.trait == 0.0
    assert refuses.coherence is None
    assert "fitted on 3 + 3 texts of the trait, tells 100% of them by 3-fold cross-validation" in judge.note
    alike = tuple(f"Tell me about number {n}." for n in range(10))
    with pytest.raises(ConfigError, match=r"70% are needed: write responses .* folder responses within the trait's"):
        ClassifierJudge(JudgeConfig("classifier"), replace(subject, sides=(alike, alike[::-1]))).prepare()
    with pytest.raises(ConfigError, match=r"two texts of each side of refusal, there are 10 \+ 1 .* folder responses"):
        ClassifierJudge(JudgeConfig("classifier"), replace(subject, sides=(alike, alike[:1])))


def test_what_they_are_made_of_is_in_the_identity(subject: Subject) -> None:
    classifier = ClassifierJudge(JudgeConfig("classifier"), subject).identity
    more = replace(subject, sides=((*subject.sides[0], "one more"), subject.sides[1]))
    assert ClassifierJudge(JudgeConfig("classifier"), more).identity.prompt_digest != classifier.prompt_digest
    perplexity = PerplexityJudge(JudgeConfig("perplexity"), subject).identity
    fewer = replace(subject, questions=subject.questions[1:])
    assert PerplexityJudge(JudgeConfig("perplexity"), fewer).identity.prompt_digest != perplexity.prompt_digest
    assert classifier.model == perplexity.model
    with pytest.raises(ConfigError, match="name that model"):
        PerplexityJudge(JudgeConfig("perplexity"), replace(subject, steered=None))


def test_patterns_score_any_or_their_share() -> None:
    of_trait = (("refusal", ("sorry", "^no", "illegal")),)
    said = [Exchange("q", "Hm.\nNo, I am SORRY."), Exchange("q", "Sure."), Exchange("q", "")]
    any_of = open_regex_judge(JudgeConfig("regex", patterns=of_trait), Subject("d", trait="refusal"))
    share = open_regex_judge(JudgeConfig("regex", patterns=of_trait, score="share"), Subject("d", trait="refusal"))
    assert [one.trait for one in any_of.score(said)] == [100.0, 0.0, 0.0]
    assert [one.trait for one in share.score(said)] == pytest.approx([200 / 3, 0.0, 0.0])
    assert any_of.identity != share.identity
    with pytest.raises(ConfigError, match=r"no patterns for the trait joy: write judge\.patterns\.joy"):
        open_regex_judge(JudgeConfig("regex", patterns=of_trait), Subject("d", trait="joy"))


def test_a_class_beside_the_experiment_is_known_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)  # so that what is opened below is taken off the path again
    source = Path("tests/support/outside_judge.py").read_text()
    judges = []
    for name, text in (("lab_one", source), ("lab_two", source + "\n# mended\n")):
        (tmp_path / f"{name}.py").write_text(text)
        config = JudgeConfig(f"python:{name}:LengthJudge")
        judges.append(open_python_judge(config, Subject("d", folder=str(tmp_path))))
    one, two = (judge.identity for judge in judges)
    assert one.model.startswith("lab_one:LengthJudge@")
    assert one.model.partition("@")[2] != two.model.partition("@")[2]
    assert open_python_judge(JudgeConfig("python:lab_one:LengthJudge"), Subject("other")).identity != one
    for missing in ("python:lab_one:Nobody", "python:no_such_module:Judge"):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            open_python_judge(JudgeConfig(missing), Subject("d"))


class RecklessJudge:
    """Does what its trait's definition says."""

    def __init__(self, config: JudgeConfig, subject: Subject) -> None:
        self._does = subject.definition
        if self._does == "not made":
            raise RuntimeError("no weights")

    def score(self, exchanges: Sequence[Exchange]) -> list[Any]:
        if self._does == "raises":
            raise ValueError("boom")
        if self._does == "too few":
            return []
        given = {"nan": math.nan, "text": "80", "large": 100.5, "none": None, "right": 100}
        return [Verdict(given[self._does], 50.0) if self._does in given else (50, 50) for _ in exchanges]


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("not made", r"failed: RuntimeError: no weights \(.*test_unsteered_judges\.py, line \d+\)"),
        ("raises", r"failed: ValueError: boom \(.*test_unsteered_judges\.py, line \d+\)"),
        ("too few", r"gave 0 \(nothing\) for 1 exchanges: .* must give a massact\.judges\.Verdict each"),
        ("tuples", r"gave 1 \(tuple\) for 1 exchanges"),
    ],
)
def test_a_judge_of_ones_own_that_breaks_says_where(does: str, told: str) -> None:
    with pytest.raises(JudgeError, match=f"^the judge python:lab:Reckless {told}"):
        completed(RecklessJudge, JudgeConfig("python:lab:Reckless"), Subject(does)).score([Exchange("q", "r")])


@pytest.mark.parametrize(
    ("does", "verdict"),
    [
        ("nan", Verdict(None, None, "the judge gave nan: no score from 0 to 100")),
        ("text", Verdict(None, None, "the judge gave '80': no score from 0 to 100")),
        ("large", Verdict(None, None, "the judge gave 100.5: no score from 0 to 100")),
        ("none", Verdict(None, 50.0, "the judge gave no score")),
        ("right", Verdict(100.0, 50.0)),
    ],
)
def test_what_is_no_score_leaves_a_response_unscored(does: str, verdict: Verdict) -> None:
    judge = completed(RecklessJudge, JudgeConfig("python:lab:Reckless"), Subject(does))
    assert judge.score([Exchange("q", "r")]) == [verdict]


def test_a_judge_with_an_identity_of_its_own_is_checked_too() -> None:
    own = JudgeIdentity("lab", "m", "p")

    class Named(RecklessJudge):
        identity, usage, note = own, Usage(calls=7), "fitted on nothing"

    judge = completed(Named, JudgeConfig("python:lab:Named"), Subject("nan"))
    assert (judge.identity, judge.usage.calls, judge.note) == (own, 7, "fitted on nothing")
    assert judge.score([Exchange("q", "r")])[0].reason == "the judge gave nan: no score from 0 to 100"
    with pytest.raises(JudgeError, match="the judge python:lab:Named failed: ValueError: boom"):
        completed(Named, JudgeConfig("python:lab:Named"), Subject("raises")).score([Exchange("q", "r")])


def test_a_judge_is_a_class() -> None:
    with pytest.raises(ConfigError, match="python:os:path is no class: write python:MODULE:CLASS"):
        open_python_judge(JudgeConfig("python:os:path"), Subject("d"))


def test_a_worker_opens_the_same_judge(subject: Subject) -> None:
    config = JudgeConfig(
        "trait=classifier,coherence=python", trait=JudgeConfig("classifier"),
        coherence=JudgeConfig("python:tests.support.outside_judge:LengthJudge"),
    )  # fmt: skip
    use = JudgeUse(
        config=config,
        subject=replace(subject, steered=None, resolve=str),
        models=(),
        steered=ModelUse(TOY, None, None, LoadConfig(dtype="float32")),
        identity=ClassifierJudge(JudgeConfig("classifier"), subject).identity,
        cache=None,
    )
    identity = open_judge_use(use).identity
    assert identity.id == config.name
    assert identity.model.startswith(f"{use.identity.model}; tests.support.outside_judge:LengthJudge@")
    hash(use)
