"""Names and rows of the run store: what is written is read back, and missing is never zero."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, Literal, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from massact.domain import AllDims, Direction, Mode
from massact.store import schema
from massact.store.schema import (
    TAG_LIMIT,
    Artifact,
    EvaluationRow,
    Kind,
    MlflowTag,
    Scores,
    StageRow,
    Tag,
    decode_evaluation,
    encode_row,
)
from massact.store.schema import rows as schema_rows
from massact.store.schema.rows import (
    MOST,
    decode_many_scores,
    decode_scores,
    decode_stage,
    encode_scores,
    evaluation_metrics,
    evaluation_params,
    format_param,
)

TEXT = st.text(max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(0, MOST)
METRIC = st.sampled_from(["kl", "perplexity", "distinct_2", "my_own"])
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    Kind: st.sampled_from(Kind),
    str: TEXT,
    str | None: st.none() | TEXT,
    int: WHOLE,
    int | None: st.none() | WHOLE,
    float: NUMBER,
    float | None: st.none() | NUMBER,
    int | AllDims | None: st.none() | WHOLE | st.just("all"),
    Literal["imported"] | None: st.sampled_from([None, "imported"]),
    Mode | None: st.sampled_from([None, "keep", "winsorise"]),
    Direction | None: st.sampled_from([None, "positive", "negative"]),
    Mapping[str, float] | None: st.none() | st.dictionaries(METRIC, NUMBER, min_size=1, max_size=4),
    Mapping[str, str] | None: st.none() | st.dictionaries(METRIC, TEXT, max_size=2),
    tuple[str, ...]: st.lists(TEXT, max_size=5).map(tuple),
    tuple[int, ...]: st.lists(WHOLE, max_size=12).map(tuple),
}
"""A strategy for every type that a row's fields have; a field of a new type fails here."""


def rows_of(row_type: type[Any]) -> st.SearchStrategy[Any]:
    return st.builds(row_type, **{name: BY_TYPE[hint] for name, hint in get_type_hints(row_type).items()})


ROW = EvaluationRow(
    kind=Kind.EVALUATION,
    experiment="massive-activations",
    key="k0",
    setting="s0",
    model="gemma-3-4b",
    model_variant="instruct",
    model_id="google/gemma-3-4b-it",
    model_revision="abc",
    dtype="bfloat16",
    trait="refusal",
    judge="openai:gpt-4.1-mini",
    judge_model="gpt-4.1-mini",
    judge_prompt="p0",
    question_set="q0",
    subset=0,
    n_questions=10,
    max_new_tokens=64,
    temperature=0.0,
    seed=0,
    position="response[:5]",
    label="mean_diff_top2",
    method="mean_diff",
    cleaning="after",
    scope="uniform",
    n_dims=2,
    n_dims_cleaned=2,
    layer=15,
    coefficient=1200.0,
    component="residual",
    direction="positive",
    steered_tokens="all",
    vector_digest="v0",
    baseline_key="b0",
    baseline_trait_mean=10.0,
    trait_mean=38.5,
    coherence_mean=71.25,
    delta=28.5,
    trait_std=4.0,
    coherence_std=5.0,
    n_scored=10,
    n_unscored=0,
    tokens_per_second=40.0,
    generation_seconds=16.0,
    judge_seconds=2.5,
    massive_energy=0.0,
    cosine_to_uncleaned=0.4,
    relative_strength=1.05,
)
BARE = EvaluationRow(**{f.name: getattr(ROW, f.name) for f in fields(ROW) if f.default is MISSING})
STAGE = StageRow(
    kind=Kind.CALIBRATION,
    experiment="massive-activations",
    key="k1",
    model="gemma-3-4b",
    model_variant="instruct",
    model_id="google/gemma-3-4b-it",
    model_revision="abc",
    dtype="bfloat16",
    n_layers=34,
    d_model=2560,
    massive_dims=(443, 1365),
)


@settings(deadline=None, max_examples=40)
@given(rows_of(EvaluationRow))
def test_an_evaluation_row_survives_its_tag(row: EvaluationRow) -> None:
    assert decode_evaluation(encode_row(row)) == row


@settings(deadline=None, max_examples=40)
@given(rows_of(StageRow))
def test_a_stage_row_survives_its_tag(row: StageRow) -> None:
    assert decode_stage(encode_row(row)) == row


@settings(deadline=None, max_examples=40)
@given(rows_of(EvaluationRow))
def test_missing_is_absent_from_params_and_metrics(row: EvaluationRow) -> None:
    logged = {**evaluation_params(row), **evaluation_metrics(row)}
    named = set(schema_rows._PARAMS) | set(schema_rows._METRICS)
    expected = {name for name in named if getattr(row, name) is not None}
    expected |= set(row.metrics or ())
    assert set(logged) == expected - {name for name in ("n_vectors", "n_directions") if getattr(row, name) == 1}


@settings(deadline=None, max_examples=40)
@given(rows_of(EvaluationRow))
def test_a_metric_is_the_number_of_its_field(row: EvaluationRow) -> None:
    told = row.metrics or {}
    assert all(value == told.get(name, getattr(row, name, None)) for name, value in evaluation_metrics(row).items())
    assert told.items() <= evaluation_metrics(row).items()


def test_a_baseline_has_no_steering_and_no_zero_for_what_it_lacks() -> None:
    row = replace(BARE, kind=Kind.BASELINE)
    assert evaluation_metrics(row) == {"n_scored": 0.0, "n_unscored": 0.0}
    assert "coefficient" not in evaluation_params(row)
    assert "layer" not in evaluation_params(row)
    assert "delta" not in json.loads(encode_row(row))


def test_a_measured_zero_is_kept() -> None:
    row = replace(ROW, delta=0.0, layer=0, coefficient=0.0)
    assert {"delta": 0.0, "massive_energy": 0.0, "layer": 0.0}.items() <= evaluation_metrics(row).items()
    assert {"layer": "0", "coefficient": "0", "temperature": "0"}.items() <= evaluation_params(row).items()


def test_the_params_and_metrics_of_an_evaluation_by_hand() -> None:
    assert evaluation_params(ROW) == {
        "model": "gemma-3-4b",
        "model_variant": "instruct",
        "model_id": "google/gemma-3-4b-it",
        "model_revision": "abc",
        "dtype": "bfloat16",
        "trait": "refusal",
        "position": "response[:5]",
        "label": "mean_diff_top2",
        "method": "mean_diff",
        "cleaning": "after",
        "scope": "uniform",
        "n_dims": "2",
        "layer": "15",
        "coefficient": "1200",
        "component": "residual",
        "direction": "positive",
        "steered_tokens": "all",
        "question_set": "q0",
        "subset": "0",
        "n_questions": "10",
        "max_new_tokens": "64",
        "temperature": "0",
        "seed": "0",
        "judge": "openai:gpt-4.1-mini",
        "judge_model": "gpt-4.1-mini",
        "judge_prompt": "p0",
        "vector_digest": "v0",
    }
    assert evaluation_metrics(ROW) == {
        "trait_mean": 38.5,
        "coherence_mean": 71.25,
        "delta": 28.5,
        "baseline_trait_mean": 10.0,
        "trait_std": 4.0,
        "coherence_std": 5.0,
        "n_scored": 10.0,
        "n_unscored": 0.0,
        "tokens_per_second": 40.0,
        "generation_seconds": 16.0,
        "judge_seconds": 2.5,
        "massive_energy": 0.0,
        "cosine_to_uncleaned": 0.4,
        "relative_strength": 1.05,
        "n_dims_cleaned": 2.0,
        "layer": 15.0,
        "coefficient": 1200.0,
    }


@pytest.mark.parametrize(
    ("value", "text"), [(800.0, "800"), (0.5, "0.5"), (-0.0, "0"), (15, "15"), ("all", "all"), (float("inf"), "inf")]
)
def test_a_param_reads_as_it_was_written(value: object, text: str) -> None:
    assert format_param(value) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_row(replace(ROW, trait_mean=value))


@pytest.mark.parametrize("name", ["n_scored", "n_unscored", "n_questions", "n_dims", "n_vectors"])
@pytest.mark.parametrize("value", [MOST + 1, 2**62, -1])
def test_what_the_reader_refuses_is_not_written(name: str, value: int) -> None:
    changed: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name} is no count from 0 to 2147483647: {value}"):
        encode_row(replace(ROW, **changed))
    with pytest.raises(ValueError, match="layer: Input should be a valid integer"):
        encode_row(replace(ROW, layer=1.5))  # type: ignore[arg-type]  # on purpose


# as the version of 2026-11-26 wrote them, in files of any numbers that it let through
STORED_BEFORE = [
    {"coefficient": 1e16}, {"coefficient": 2.0**62}, {"coefficient": -1.7976931348623157e308}, {"coefficient": 5e-324},
    {"coefficient": 1e25}, {"coefficient": 7}, {"trait_std": 1e300}, {"trait_std": -1e308}, {"n_scored": 2**31 - 1},
    {"n_questions": 2**31 - 1}, {"n_unscored": 2**31 - 1}, {"n_dims": 9_999_999}, {"layer": 100_000}, {"seed": 10**15},
    {"label": "\ud7ff \x1b \u00e9" * 40}, {"trait_mean": 0}, {"relative_strength": 1e300},
]  # fmt: skip


@pytest.mark.parametrize("values", STORED_BEFORE, ids=str)
def test_every_row_that_an_earlier_version_wrote_is_read(values: dict[str, Any]) -> None:
    fields_then = {**json.loads(_tag()), "origin": "imported", **values}
    row = decode_evaluation(json.dumps(fields_then, separators=(",", ":"), allow_nan=False))
    assert row == replace(ROW, origin="imported", **values)
    assert decode_evaluation(encode_row(row)) == row


def test_a_row_as_long_as_a_tag_fits_and_one_character_more_does_not() -> None:
    spare = TAG_LIMIT - len(encode_row(replace(ROW, experiment="")))
    fitting = replace(ROW, experiment="x" * spare)
    assert decode_evaluation(encode_row(fitting)) == fitting
    with pytest.raises(ValueError, match=f"evaluation k0 takes {TAG_LIMIT + 1} characters, {TAG_LIMIT} fit"):
        encode_row(replace(ROW, experiment="x" * (spare + 1)))


def test_a_field_of_a_later_version_is_passed_over() -> None:
    later = json.dumps({**json.loads(encode_row(ROW)), "perplexity": 7.5})
    assert decode_evaluation(later) == ROW


def _tag(drop: Iterable[str] = (), **changes: object) -> str:
    values = {**json.loads(encode_row(ROW)), **changes}
    return json.dumps({name: value for name, value in values.items() if name not in drop})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ValueError),
        ("{", ValueError),
        ("[]", ValueError),
        ("null", ValueError),
        ("{}", ValueError),
        (_tag(drop=["key"]), ValueError),
        (_tag(drop=["kind"]), ValueError),
        (_tag(kind="sweep"), ValueError),
        (_tag(trait_mean="38.5"), ValueError),
        (_tag(layer=[15]), ValueError),
        (_tag(coherence_mean=float("nan")), ValueError),
        (_tag(delta=float("-inf")), ValueError),
    ],
)
def test_a_damaged_evaluation_tag_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode_evaluation(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "calibration"}', '{"kind": "x"}'])
def test_a_damaged_stage_tag_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode_stage(text)


def test_a_stage_row_keeps_its_lists_as_tuples() -> None:
    row = decode_stage(encode_row(replace(STAGE, labels=("probe", "mean_diff_top2"))))
    assert row.massive_dims == (443, 1365)
    assert row.labels == ("probe", "mean_diff_top2")
    assert row.trait is None


SCORE = st.none() | st.integers(0, 1_000_000).map(lambda n: n / 10_000)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(SCORE, SCORE), max_size=60))
def test_scores_survive_their_tag(pairs: list[tuple[float | None, float | None]]) -> None:
    scores = Scores(tuple(t for t, _ in pairs), tuple(c for _, c in pairs))
    text = encode_scores(scores)
    assert text is not None
    assert decode_scores(text) == scores


def test_scores_by_hand() -> None:
    text = encode_scores(Scores((87.123456, None), (0.0, 100.0)))
    assert text == '{"trait":[87.1235,null],"coherence":[0.0,100.0]}'


def test_scores_too_many_for_a_tag_are_none_and_not_cut() -> None:
    # 28 characters of frame, and "1.5," twice a question
    most = (TAG_LIMIT - 28) // 8
    fitting = encode_scores(Scores((1.5,) * most, (1.5,) * most))
    assert fitting is not None
    assert len(decode_scores(fitting).trait) == most
    assert encode_scores(Scores((1.5,) * (most + 1), (1.5,) * (most + 1))) is None


def test_scores_that_are_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_scores(Scores((float("nan"),), (50.0,)))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ValueError),
        ("[]", TypeError),
        ('{"trait": [1]}', KeyError),
        ('{"trait": 1, "coherence": [1]}', TypeError),
        ('{"trait": ["1"], "coherence": [1]}', TypeError),
        ('{"trait": [1, 2], "coherence": [1]}', ValueError),
        ('{"trait": [NaN], "coherence": [1]}', ValueError),
    ],
)
def test_damaged_scores_are_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode_scores(text)
    good = Scores((87.1, None), (0.0, 100.0))
    among = [encode_scores(good) or "", text, encode_scores(good) or ""]
    assert decode_many_scores(among) == [good, None, good]


def test_no_two_names_in_the_run_store_are_one() -> None:
    for names in (
        [*Tag, *MlflowTag],
        [*Artifact],
        [*Kind],
        [*schema_rows._PARAMS],
        [*schema_rows._METRICS, schema.names.TRAIT_SCORE, schema.names.COHERENCE_SCORE],
    ):
        assert len({str(name) for name in names}) == len(names)


def test_every_field_of_an_evaluation_is_logged_or_is_known_to_be_a_tag() -> None:
    in_the_row_alone = {
        "kind", "experiment", "key", "setting", "baseline_key",
        "trait_digest", "chat_template_digest", "vector_source", "metrics", "metric_sources",
    }  # fmt: skip
    in_a_tag_of_its_own = {"cell"}
    logged = set(schema_rows._PARAMS) | set(schema_rows._METRICS)
    assert {field.name for field in fields(EvaluationRow)} - logged == in_the_row_alone | in_a_tag_of_its_own
