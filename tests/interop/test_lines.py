"""Lines of results files: what is read from them, and why a line is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.interop import lines as document_module
from massact.interop.lines import LineError, milliseconds, parse_document, parse_result_line, read_lines
from massact.interop.names import find_sources, responses_name
from massact.store.schema import Kind, Tag
from tests.support.transfer_files import (
    PLACE,
    Heap,
    baseline,
    evaluation,
    header,
    import_to_heap,
    imported,
    vector,
    write_lines,
)

BAD: dict[str, tuple[Any, str]] = {
    "not UTF-8": (b'{"result": "\xff"}', "not UTF-8 (byte 13"),
    "not JSON": ('{"result": ', "not JSON"),
    "NaN as a weight": (json.dumps(evaluation(vectors=[vector(weight=float("nan"))])), "weight is NaN"),
    "NaN as a count": (json.dumps(evaluation(result={"n": float("nan")})), "n nan is not a count"),
    "Infinity": ('{"result": {"trait_mean": -Infinity}}', "-Infinity is not a number"),
    "an infinity in digits": ('{"result": {"trait_mean": 1e999}}', "too large"),
    "not an object": ("[1, 2]", "not a JSON object"),
    "nested": ("[" * 100_000, "not JSON"),
    "half a pair": ('{"type": "\\ud800"}', "surrogate"),
    "NUL": ('{"type": "a\\u0000"}', "NUL"),
    "type": ({"type": "footer"}, "unknown type 'footer'"),
    "no result": ({"config": {"vectors": [vector()]}}, "no `result`"),
    "result is a list": (evaluation(result=[]), "no `result`"),
    "no config": ({"result": {}}, "no `config.vectors`"),
    "vectors is text": (evaluation(config={"vectors": "probe"}), "no `config.vectors`"),
    "no vectors": (evaluation(config={"vectors": []}), "empty"),
    "vector is text": (evaluation(config={"vectors": ["probe"]}), "not an object"),
    "negative layer": (evaluation(vectors=[vector(layer=-1)]), "layer -1"),
    "half a layer": (evaluation(vectors=[{**vector(), "layer": 1.5}]), "layer 1.5"),
    "true layer": (evaluation(vectors=[{**vector(), "layer": True}]), "layer True"),
    "no weight": (evaluation(vectors=[{**vector(), "weight": None}]), "weight None"),
    "huge weight": (evaluation(vectors=[{**vector(), "weight": 10**400}]), "is too large"),
    "no method": (evaluation(vectors=[{**vector(), "method": ""}]), "without a method"),
    "text as a mean": (evaluation(result={"trait_mean": "30"}), "trait_mean '30'"),
    "mean above 100": (evaluation(trait=100.5), "trait_mean 100.5 is not within"),
    "coherence below 0": (evaluation(coherence=-1), "coherence_mean -1 is not within"),
    "n": (evaluation(result={"n": 1.5}), "n 1.5 is not a count"),
    "huge n": (evaluation(result={"n": 2**31}), "n 2147483648 is not a count"),
    "position": (evaluation(vectors=[vector(position="response")]), "position 'response'"),
    "timestamp": (evaluation(at="yesterday"), "timestamp 'yesterday'"),
    "timestamp before 1970": (evaluation(at="1969-12-31T23:59:59"), "before 1970"),
    "trait judge": (evaluation(eval={"trait_judge": 7}), "trait_judge 7"),
    "eval": (evaluation(eval="pv"), "eval 'pv'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_refused_with_its_place_and_reason_and_stops_no_other(name: str, tmp_path: Path) -> None:
    line, reason = BAD[name]
    path = write_lines(tmp_path / "results.jsonl", [header(), line, "", evaluation()])
    heap = Heap()
    report, refusals = import_to_heap(path, heap)
    [refusal] = refusals
    assert (refusal.file, refusal.line) == (str(path), 2)
    assert reason in refusal.reason
    assert len(refusal.reason) <= 300
    assert "\n" not in refusal.reason
    counts = report.totals
    assert (counts.read, counts.imported, counts.refused, counts.headers, counts.blank) == (4, 1, 1, 1, 1)
    assert len(heap.runs) == 1


def test_a_line_longer_than_the_bound_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_module, "MAX_LINE_BYTES", 1000)
    for length in (1001, 1002, 2001, 2002, 2003, 5000):
        path = write_lines(tmp_path / "results.jsonl", [header(), "x" * length, evaluation()])
        heap = Heap()
        _, refusals = import_to_heap(path, heap)
        assert [(one.line, "longer than" in one.reason) for one in refusals] == [(2, True)]
        assert len(heap.runs) == 1


@given(st.lists(st.integers(0, 40)), st.booleans())
def test_lines_are_numbered_whatever_their_length(lengths: list[int], ends: bool) -> None:
    import io
    from unittest.mock import patch

    text = b"\n".join(b"x" * length for length in lengths) + (b"\n" if ends else b"")
    expected = text.split(b"\n")
    expected = expected[:-1] if expected[-1] == b"" else expected
    with patch.object(document_module, "MAX_LINE_BYTES", 10):
        found = list(read_lines(io.BytesIO(text)))
    assert [number for number, _ in found] == list(range(1, len(expected) + 1))
    for (_, line), whole in zip(found, expected, strict=True):
        assert line is None or line.rstrip(b"\n") == whole
        assert (line is None) >= (len(whole) > 10)


def test_numbers_have_one_spelling() -> None:
    assert parse_document(b'{"a": 800.0, "b": [-0.0, 0.5], "c": 1e3}') == {"a": 800, "b": [0, 0.5], "c": 1000}
    assert json.dumps(parse_document(b'{"a": 800.0}')) == '{"a": 800}'
    with pytest.raises(LineError):
        parse_document(None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01.5", 1500),
        ("1970-01-01T00:00:01.0019999", 1001),
        ("1970-01-01T02:00:00+01:00", 3_600_000),
        ("1970-01-02", 86_400_000),
        ("1970-01-01T00:00:01Z", 1000),
    ],
)
def test_a_timestamp_without_a_zone_is_utc(text: str, expected: int) -> None:
    assert milliseconds(text) == expected


def test_a_row_says_what_the_line_says(tmp_path: Path) -> None:
    heap = imported(
        write_lines(
            tmp_path / "exp" / PLACE / "results.jsonl",
            [header(), baseline(10.25), evaluation(30.5, 80.125, vectors=[vector("probe_postclean_u2", 15, 1000)])],
        )
    )
    base, row = heap.rows()
    assert base.kind is Kind.BASELINE
    assert (base.trait_mean, base.position, base.label, base.delta) == (10.25, None, None, None)
    assert (row.model, row.model_id, row.model_variant, row.trait) == (
        "gemma-3-4b-it", "google/gemma-3-4b-it", "instruct", "chirp/refusal",
    )  # fmt: skip
    assert (row.label, row.method, row.cleaning, row.scope, row.n_dims) == (
        "probe_top2", "probe", "after", "uniform", 2,
    )  # fmt: skip
    assert (row.layer, row.coefficient, row.position, row.component) == (15, 1000.0, "response[:5]", "residual")
    assert (row.trait_mean, row.coherence_mean, row.trait_std, row.delta) == (30.5, 80.125, 5.5, 20.25)
    assert (row.baseline_key, row.baseline_trait_mean) == (base.key, 10.25)
    assert (row.n_scored, row.n_unscored, row.n_questions, row.origin) == (4, 0, 4, "imported")
    assert (row.judge, row.judge_model, row.question_set) == (
        "logprob:gpt-4.1-mini", "gpt-4.1-mini", "datasets/refusal.json",
    )  # fmt: skip
    assert row.setting == base.setting
    run = heap.runs[1]
    assert run.finished_at == 1768122518250
    assert run.params["coefficient"] == "1000"
    tag = json.loads(run.tags[Tag.IMPORTED])
    assert (tag["line_number"], tag["prompt_set"], tag["header"]) == (3, "steering", header())
    assert json.loads(tag["line"])["config"]["vectors"][0]["method"] == "probe_postclean_u2"


def test_several_vectors_are_kept_and_marked(tmp_path: Path) -> None:
    both = [vector("probe", 13, 10), vector("mean_diff", 15, 20)]
    path = write_lines(tmp_path / "results.jsonl", [header(), evaluation(vectors=both), evaluation(vectors=both[:1])])
    two, one = imported(path).rows()
    assert (two.label, two.method, two.cleaning) == ("multi:probe@13+mean_diff@15", "multi", None)
    assert (two.n_vectors, two.layer, two.coefficient) == (2, 13, 10.0)
    assert (one.label, one.n_vectors) == ("probe", 1)
    assert one.key != two.key


def test_a_method_that_is_no_label_is_kept_as_written(tmp_path: Path) -> None:
    [row] = imported(
        write_lines(tmp_path / "results.jsonl", [header(), evaluation(vectors=[vector("sae_latent")])])
    ).rows()
    assert (row.label, row.method, row.cleaning, row.scope, row.n_dims) == (
        "sae_latent",
        "sae_latent",
        None,
        None,
        None,
    )


def test_missing_is_never_zero(tmp_path: Path) -> None:
    lines = [header(n_questions=None), evaluation(None, None, result={"n": 0}), evaluation(at=None)]
    unscored, scored = imported(write_lines(tmp_path / "results.jsonl", lines)).rows()
    assert (unscored.trait_mean, unscored.coherence_mean, unscored.delta) == (None, None, None)
    assert (scored.delta, scored.baseline_trait_mean, scored.baseline_key, scored.n_unscored) == (None, None, None, 0)


def test_a_line_too_long_for_a_tag_is_an_artifact(tmp_path: Path) -> None:
    line = evaluation(note="x" * 9000)
    heap = imported(write_lines(tmp_path / "results.jsonl", [header(), line]))
    assert json.loads(heap.runs[0].tags[Tag.IMPORTED])["artifact"] == "imported.json"
    whole = json.loads(heap.runs[0].files["imported.json"])
    assert json.loads(whole["line"]) == line


@pytest.mark.parametrize("changes", [{"prompts_file": "p" * 6500}, {"prompts_file": "p" * 20_000}])
def test_texts_that_mlflow_would_cut_refuse_the_line(changes: dict[str, Any], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "results.jsonl", [header(**changes), evaluation(), evaluation()])
    report, refusals = import_to_heap(path, Heap())
    assert (report.totals.refused, report.totals.imported, len(refusals)) == (2, 0, 2)


def test_a_long_label_makes_no_name_that_mlflow_refuses(tmp_path: Path) -> None:
    vectors = [vector("mean_diff_top1", layer) for layer in range(40)]
    [run] = imported(write_lines(tmp_path / "results.jsonl", [header(), evaluation(vectors=vectors)])).runs
    assert len(run.name) <= 250


def test_places_in_the_layout(tmp_path: Path) -> None:
    places = {
        "steering/a/refusal/instruct/response__5/steering": ("a/refusal", "instruct", "response[:5]", "steering"),
        "steering/refusal/instruct/response_all/rm/train_1": ("refusal", "instruct", "response[:]", "rm/train_1"),
        "steering/a/b/c/base/prompt_-1/response__5": ("a/b/c", "base", "prompt[-1]", "response__5"),
        "steering/chirp/refusal/instruct/response__20": ("chirp/refusal", "instruct", "response[:20]", ""),
    }  # fmt: skip
    for place in places:
        write_lines(tmp_path / "steering" / "experiments" / "e" / place / "results.jsonl", [])
    found = {
        str(one.path.parent.relative_to(tmp_path / "steering" / "experiments" / "e")): one
        for one in find_sources(tmp_path)
    }
    for place, expected in places.items():
        one = found[place]
        assert (one.trait, one.variant, one.position, one.prompt_set) == expected


@pytest.mark.parametrize("method", ["../../../etc", "a/b", "..", "", "x" * 300])
def test_no_line_leads_out_of_its_responses_folder(method: str) -> None:
    line = parse_result_line(parse_document(json.dumps(evaluation(vectors=[vector(method or "probe")])).encode()))
    name = responses_name(line)
    assert name == "residual/probe/L15_c1000.0_2026-01-11_09-08-38.json" if not method else name is None
