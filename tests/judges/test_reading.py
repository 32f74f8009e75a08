"""What of a judge's answer is read as a score, and what is none."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.judges.reading import MIN_INTEGER_WEIGHT, Completion, read_completion
from tests.support.judge_answers import read_answer


def test_the_score_is_the_mean_weighted_by_probability() -> None:
    reading = read_answer("80", [("80", 0.5), ("90", 0.25), ("100", 0.25)])
    assert reading.score == pytest.approx(87.5)
    assert reading.reason is None


def test_spellings_of_one_integer_add_up_and_words_are_left_out() -> None:
    tops = [("85", 0.3), (" 85", 0.2), ("▁85", 0.1), ("65", 0.2), ("I", 0.2)]
    assert read_answer("85", tops).score == pytest.approx((85 * 0.6 + 65 * 0.2) / 0.8)


@pytest.mark.parametrize("token", ["101", "-5", "085", "1_0", "8.5", "\u0668\u0665", "+85", "1e1", "", "0x1"])
def test_what_is_no_integer_of_the_scale_has_no_weight(token: str) -> None:
    reading = read_answer(token, [(token, 0.8), ("50", 0.2)])
    assert reading.score is None
    assert reading.reason is not None
    assert "only 0.20" in reading.reason


def test_the_least_weight_is_enough() -> None:
    assert read_answer("I", [("I", 0.7), ("50", MIN_INTEGER_WEIGHT)]).score == pytest.approx(50)
    assert read_answer("I", [("I", 0.7), ("50", MIN_INTEGER_WEIGHT - 0.01)]).score is None
    assert read_answer("I cannot", [("I", 0.7), ("50", 0.3)]).score is None
    assert read_answer("This is prose", [("50", 0.9)]).score is None


def test_a_tokenizer_that_writes_digits_apart_is_read_by_its_text() -> None:
    assert read_answer("85", [("8", 0.9), ("9", 0.1)]).score == 85
    assert read_answer("0", [("0", 0.9), ("5", 0.1)]).score == 0


@given(
    st.dictionaries(st.integers(10, 100), st.floats(0.01, 1), min_size=1, max_size=20).map(
        lambda weights: {value: w / sum(weights.values()) for value, w in weights.items()}
    )
)
def test_a_score_lies_between_the_integers_it_is_made_of(weights: dict[int, float]) -> None:
    score = read_answer("50", [(str(value), w) for value, w in weights.items()]).score
    assert score is not None
    assert min(weights) - 1e-9 <= score <= max(weights) + 1e-9


SCORES = {
    "plain": ["85", " 85\n", "85.", "85%", "85 percent", "(85)", "[85]", "# 85", "$85$", "\\boxed{85}"],
    "quoted": ["**85**", "*85*", '"85"', "'85'", "“85”", "`85`", "```\n85\n```", "<|im_start|>85<|im_end|>", "85</s>"],
    "of 100": ["85/100", "85 / 100", "85 out of 100", "85 of 100", "85/100 for its 3 steps", "85/100, 85/100 again"],
    "labelled": ["Score: 85", "Score: 85/100", "Rating: 85", "score=85", "**Score:** 85", "Score**: 85", "Answer: 85",
                 "Final score: 85. It is plain.", "<score>85</score>", "Trait score: 85"],
    "remark": ["85 because it", "85, because it lists 3", "85. The response", "85 - mostly the trait", "85 (high)",
               "85\n\nThe response is", "85%, as it is"],
    "json": ['{"score": 85}', '```json\n{"score": 85}\n```', '{"score": "85"}', '{"score": 85.0}', '{"rating": 85/100}',
             '{"reason": "it lists 3", "score": 85}', '{"final_score": 85, "max_score": 100}'],
}  # fmt: skip
NO_SCORES = {
    "no number": ["", "  \n", "I cannot rate this.", "eighty-five", "٨٥", "８５", "8５", "1e2", "85.5x", "3D", "2nd"],
    "no integer 0 to 100": ["101", "150", "-5", "\u22125", "85.5", "8.5", "1000", "085", '{"score": 850}',
                            '{"score": -5}', '{"score": 85.5}', '{"score": true}'],
    "several numbers": ["80 or 90", "0-100: 85", "1,000", "85 – 90", "85-90", "85 - 90", "85, 90", "85\n90", "8/10",
                        "85/10", "3 of 4", "85 85", "85/100 and 90/100", "Score: 8/10", '{"score": 85, "rating": 90}'],
    "is no score": ["1. The response complies", "1) The response", "The response lists 3 steps", "On a 100-point scale",
                    "Step 1: read the response", "I am 95 percent sure it", "4 stars", "2 reasons for", "100-point",
                    "95% sure it", "18 years", "I can't assess content under 18.", "The answer is 100.",
                    "I'd give it 85", "1: read", "1 - The response", "$100 bill", "~85", "Scoring 3 items", "- 85",
                    "+85"],
    "no field": ['{"steps": 3}', "{85}"],
}  # fmt: skip


@pytest.mark.parametrize("text", [text for texts in SCORES.values() for text in texts])
def test_a_text_that_gives_a_score_is_one(text: str) -> None:
    assert read_answer(text, None).score == 85


@pytest.mark.parametrize("text", ["0", "0.", "0. The response", "0 - nothing of the trait", "Score: 0/100"])
def test_nothing_of_a_trait_is_a_score(text: str) -> None:
    assert read_answer(text, None).score == 0


@pytest.mark.parametrize(("said", "text"), [(said, text) for said, texts in NO_SCORES.items() for text in texts])
def test_a_text_that_gives_none_is_unscored_with_a_reason(said: str, text: str) -> None:
    reading = read_answer(text, None)
    assert reading.score is None
    assert said in str(reading.reason)


@pytest.mark.parametrize(
    "text",
    ["I would rate this an 8", "8", "85", "**85", "Score: 8", "Score: 85", "Score: 85/10", "85.", "85/", "85/1", "1.",
     "1)", "Score: 85 because", "The answer is 100", "1. The", "95% sure", '{"score": 8', '```json\n{"score": 8', "1,"],
)  # fmt: skip
def test_what_the_length_limit_may_have_cut_is_no_score(text: str) -> None:
    reading = read_answer(text, None, is_cut=True)
    assert reading.score is None
    assert "cut" in str(reading.reason)


@pytest.mark.parametrize("text", ["85 because it", "85\n", "Score: 85/100. It", '{"score": 85, "rea', "**85**\n\nThe"])
def test_a_score_that_is_whole_before_the_cut_is_one(text: str) -> None:
    assert read_answer(text, None, is_cut=True).score == 85


def _completion(
    text: object, written: list[tuple[str, dict[str, float]]] | None = None, **fields: object
) -> Completion:
    """An answer; of what was written the tokens, each with its alternatives."""
    message = {"role": "assistant", "content": text, **fields}
    choice: dict[str, object] = {"message": message, "finish_reason": fields.pop("finish", "stop")}
    if written is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": token,
                    "logprob": 0.0,
                    "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top.items()],
                }
                for token, top in written
            ]
        }
    return read_completion({"choices": [choice]})


WHOLE = {"85": 0.5, "65": 0.25, " 85": 0.25}


@pytest.mark.parametrize(
    ("text", "before"),
    [("85", []), (" 85", [" "]), ("85", ["<s>"]), ("85", ["\n", "\n"]), ("\n85", ["Ċ"]), ('"85"', ['"']),
     ("“85”", ["“"]),
     ("**85**", ["**"]), ("* 85", ["*", " "]), ("Score: 85/100", ["Score", ":", " "]),
     ('{"score": 85}', ['{"', "score", '":', " "])],
)  # fmt: skip
def test_probabilities_are_read_where_the_score_is(text: str, before: list[str]) -> None:
    noise = {"7": 0.9, "The": 0.1}
    after = [(token, noise) for token in text.partition("85")[2]]
    answer = _completion(text, [*((token, noise) for token in before), ("85", WHOLE), *after])
    assert answer.reading.score == pytest.approx(80)
    assert answer.coarse is None
    # as where a server tells of the first tokens alone, or of none
    assert _completion(text).reading.score == 85
    assert _completion(text).coarse == "gives no logprobs"


def test_a_number_of_several_tokens_is_read_from_the_text_whatever_else_is_probable() -> None:
    for ten in (1e-9, 0.001, 0.05, 0.2):
        first = {"8": 0.7, "9": 0.2 - ten / 2, "10": ten}
        answer = _completion("85", [("8", first), ("5", {"5": 1.0})])
        assert (answer.reading.score, answer.coarse) == (85, "writes a score as several tokens")
        assert _completion("85", [("8", first)]).reading.score == 85
        assert read_answer("85", list(first.items())).score == 85


@given(st.integers(0, 9), st.floats(1e-9, 0.5), st.sampled_from([10, 50, 100]))
def test_no_small_probability_moves_a_score_far(digit: int, weight: float, other: int) -> None:
    score = read_answer(str(digit), [(str(digit), 0.6), ("3", 0.3), (str(other), weight)]).score
    assert score is not None
    assert abs(score - digit) <= 1200 * weight


def test_a_digit_of_a_tokenizer_that_has_longer_integers_is_a_mean() -> None:
    assert read_answer("0", [("0", 0.51), ("100", 0.49)]).score == pytest.approx(49)
    assert read_answer("100", [("0", 0.49), ("100", 0.51)]).score == pytest.approx(51)


@pytest.mark.parametrize("top", [{"1": 0.98, "The": 0.01}, {"1": 0.5, "10": 0.5}])
def test_probable_integers_make_no_score_of_a_list(top: dict[str, float]) -> None:
    text = "1. The response complies with the"
    assert read_answer(text, list(top.items()), is_cut=True).score is None
    written = [
        ("1", top),
        *((token, {token: 1.0}) for token in [".", " The", " response", " complies", " with", " the"]),
    ]
    assert _completion(text, written, finish="length").reading.score is None
    assert _completion(text, written).reading.score is None


def test_a_refusal_is_one_whatever_it_says() -> None:
    for answer in (
        _completion(None, refusal="I cannot rate 1 of these"),
        _completion("85", refusal="I will not"),
        _completion([{"type": "refusal", "refusal": "No 85"}]),
    ):
        assert answer.reading.score is None
        assert "the judge refused" in str(answer.reading.reason)


def test_parts_of_content_are_read_together() -> None:
    parts = [{"type": "thinking", "thinking": "99?"}, {"type": "text", "text": "8"}, {"type": "text", "text": "5"}]
    assert _completion(parts).reading.score == 85
    assert _completion([]).reading.score is None


@pytest.mark.parametrize(
    "text",
    ["<think>Is it 10? 20.</think>\n\n85", "It may be 10.</think>85", "[THINK]10[/THINK]85",
     "<thinking>10</thinking>85",
     "<|channel|>analysis<|message|>10<|end|><|start|>assistant<|channel|>final<|message|>85"],
)  # fmt: skip
def test_what_a_judge_answers_after_its_thoughts_is_read(text: str) -> None:
    assert _completion(text).reading.score == 85
    thoughts = [(token, {"10": 1.0}) for token in ("<think>", "10", "85", "</think>", "\n")]
    answer = _completion("85", [*thoughts, ("85", WHOLE)], reasoning_content="10 85")
    assert answer.reading.score == pytest.approx(80)


@pytest.mark.parametrize(
    ("text", "fields"),
    [(None, {"reasoning": "It is 85"}), ("", {"reasoning_content": "85"}), ("<think>85", {}), ("\n<think>\n85. ", {}),
     ("<|channel|>analysis<|message|>85", {}), ([{"type": "thinking", "thinking": "85"}], {})],
)  # fmt: skip
def test_thoughts_alone_are_no_score_and_the_reason_says_what_to_set(text: object, fields: dict[str, Any]) -> None:
    thoughts = [(token, {"85": 1.0}) for token in ("Okay", "85", "85")]
    for written in (None, thoughts):
        reading = _completion(text, written, finish="length", **fields).reading
        assert reading.score is None
        assert "still thinking" in str(reading.reason)
        assert "max_tokens" in str(reading.reason)
    assert "answered nothing" in str(_completion(text, **fields).reading.reason)


def test_hidden_thoughts_are_told_by_their_count() -> None:
    choice = {"message": {"content": ""}, "finish_reason": "length"}
    usage = {"completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 10}}
    assert "still thinking" in str(read_completion({"choices": [choice], "usage": usage}).reading.reason)


def test_one_token_of_several_digits_was_not_cut() -> None:
    for finish in ("stop", "length"):
        assert _completion("85", [("85", WHOLE)], finish=finish).reading.score == pytest.approx(80)
    assert read_answer("85", list(WHOLE.items()), is_cut=True).score == pytest.approx(80)
    for text, first in (("8", {"8": 1.0}), ("85", {"8": 1.0}), ("1", {"1": 0.9, "10": 0.1})):
        assert read_answer(text, list(first.items()), is_cut=True).score is None


def test_probabilities_that_are_no_numbers_are_no_score() -> None:
    top = [{"token": "85", "logprob": float("nan")}]
    choice = {"message": {"content": "85"}, "logprobs": {"content": [{"token": "85", "top_logprobs": top}]}}
    assert read_completion({"choices": [choice]}).reading.score is None


@pytest.mark.parametrize(
    "payload",
    [None, [], {}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": None}]}, {"error": "x"},
     {"choices": [{"message": {"content": ["85"]}}]},
     {"choices": [{"message": {"content": "85"}, "logprobs": {"content": [{"token": "85",
                   "top_logprobs": [{"token": "85", "logprob": None}]}]}}]}],
)  # fmt: skip
def test_what_is_no_chat_completion_is_refused(payload: object) -> None:
    with pytest.raises(ValueError, match="not a chat completion"):
        read_completion(payload)


def test_logprobs_are_read_after_a_leading_blank() -> None:
    blank = {"token": "\n", "logprob": -0.1, "top_logprobs": [{"token": "7", "logprob": -9.0}]}
    first = {"token": "85", "logprob": -0.1, "top_logprobs": [{"token": "85", "logprob": -0.1}]}
    choice = {"message": {"content": "\n85"}, "logprobs": {"content": [blank, first]}}
    answer = read_completion({"choices": [choice]})
    assert answer.reading.score == pytest.approx(85)
    assert (answer.prompt_tokens, answer.completion_tokens) == (0, 0)
