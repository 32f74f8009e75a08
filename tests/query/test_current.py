"""The one rule of which setting is current: `gaps`, `best`, the report and the store's own record keep to it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import massact
from massact.config import load_experiment
from massact.config.values import declared_by
from massact.domain import Group
from massact.query import Answers, Evaluations, Filters
from massact.query.groups import Currency, slices
from massact.query.load import declared_by_data
from massact.query.questions.gaps import ask_gaps
from massact.report.evidence import Evidence, Place
from massact.store.read.base import Stored
from massact.store.schema import DeclaredSetting, EvaluationRow, encode_declared
from massact.store.schema.declared import decode_declared
from massact.workflow.status import list_prerequisites
from tests.support.report_rows import experiment, report_input, row, scored
from tests.support.store_fixtures import answers_of, evaluated, evaluation_row, stored

FLOOR = 68.0
PROBE = Group("gemma", "refusal", "response[:5]", "probe")
SETTING = DeclaredSetting(
    judge="likelihood", subset=0, max_new_tokens=64, temperature=0.0, seed=0, directions={"refusal": "positive"}
)


def odd(label: str = "probe", **changes: Any) -> Stored[EvaluationRow]:
    """Evaluated once in another setting, later."""
    values = {"key": f"odd-{label}", "setting": "odd", "max_new_tokens": 16, "coherence_mean": 10.0, **changes}
    return stored(evaluation_row(label, **values), run_id=f"odd-{label}", finished_at=9000)


def test_one_odd_evaluation_opens_no_gap_where_a_file_says_the_setting() -> None:
    rows = [evaluated("probe"), odd()]
    answer = ask_gaps.of(answers_of(rows, groups=(PROBE,), currency=Currency(SETTING)), FLOOR)
    assert [(one.setting, one.status, one.is_current) for one in answer.rows] == [
        ("setting-1", "ok", True),
        ("odd", "below_floor", False),
    ]
    assert answer.remaining == ()
    alone = ask_gaps.of(answers_of(rows, groups=(PROBE,)), FLOOR)
    assert [one.is_current for one in alone.rows] == [True, False]
    assert alone.rows[0].setting == "odd", "without a file the one run last"


def test_a_group_that_was_run_in_another_setting_alone_is_a_gap_and_is_shown() -> None:
    rows = [evaluated("mean_diff"), odd(coherence_mean=90.0)]
    (current, shown) = ask_gaps.of(
        answers_of(rows, groups=(PROBE,), currency=Currency(SETTING).over(slices(Evaluations.of(rows)))), FLOOR
    ).rows
    assert (current.status, current.setting, current.is_current) == ("missing", None, True)
    assert (shown.status, shown.is_current) == ("ok", False)


def test_where_nothing_was_run_as_the_file_says_the_last_setting_counts_and_is_said_to() -> None:
    answer = ask_gaps.of(answers_of([odd(coherence_mean=90.0)], groups=(PROBE,), currency=Currency(SETTING)), FLOOR)
    assert [(one.status, one.is_current) for one in answer.rows] == [("ok", True)]
    assert answer.notes == (
        "gemma, refusal: nothing was evaluated in the setting that the experiment file declares; what was run last is "
        "taken for current",
    )


def test_an_answer_is_in_the_files_own_setting_and_counts_what_it_leaves_out() -> None:
    rows = [evaluated("probe"), odd(), odd("mean_diff")]
    both = answers_of(rows, groups=(PROBE,), currency=Currency(SETTING))
    own, notes = both.in_current_setting()
    assert [(point.setting, point.label) for point in own.evaluations] == [("setting-1", "probe")]
    assert notes == (
        "gemma, refusal: 2 evaluations in 1 other setting are left out, --all-settings answers all; they differ "
        "in max_new_tokens (16, 64)",
    )
    # what labels are set beside is of the setting too, whatever is shown
    shown, _ = both.only(Filters(labels=("probe",))).in_current_setting()
    assert {point.setting for point in shown.side_by_side} == {"setting-1"}
    # without a file no setting is the file's
    undeclared, notes = answers_of(rows).in_current_setting()
    assert (len(undeclared.evaluations), notes) == (3, ())


def test_the_baseline_of_a_setting_is_the_one_that_its_evaluations_are_against() -> None:
    used = stored(evaluation_row(key="baseline", layer=None, direction=None, question_set="q"))
    newer = stored(evaluation_row(key="other questions", layer=None, direction=None, question_set="r"), run_id="r2")
    answers = replace(
        answers_of([evaluated("probe", baseline_key="baseline")], currency=Currency(SETTING)),
        baselines={one.row.key: one for one in (used, newer)},
    )
    assert [one.key for one in answers.current_baselines] == ["baseline"]
    # what was evaluated in another setting alone lends its baseline to nothing
    elsewhere = replace(answers, evaluations=Evaluations.of([odd(baseline_key="baseline")]))
    assert [one.key for one in elsewhere.current_baselines] == ["other questions"]


def test_the_status_of_a_phase_is_that_of_the_files_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = experiment()
    rows = [
        scored(50.0, 90.0, model=one.model, trait=one.trait, position=one.position, label=one.label, judge="other")
        for one in declared.groups("phase2")
    ]
    answers = replace(report_input(rows).answers, currency=Currency(declared_by(declared).setting))
    monkeypatch.setattr("massact.workflow.status.read_answers", lambda *_: answers)
    store: Any = SimpleNamespace(stages=lambda *_: [], phases=lambda _: [])
    (phase,) = [one for one in list_prerequisites(declared, store) if one.step == "phase2"]
    assert not phase.ok
    assert phase.blocks
    assert f"{len(rows)} missing; toy-gemma-2, refusal: evaluated in other settings alone" in phase.detail


@pytest.mark.parametrize(
    ("declared", "holds"),
    [
        (None, {None, "off", "always"}),  # what the chat template comes to by itself
        (("off", None), {None, "off"}),
        (("on", None), {"on", "always"}),
        (("64", None), {"64"}),
    ],
)
def test_whether_a_model_thinks_decides(declared: tuple[str, None] | None, holds: set[str | None]) -> None:
    setting = SETTING if declared is None else replace(SETTING, chats={"gemma": declared})
    found = {
        thinking
        for thinking in (None, "off", "on", "always", "64", "65")
        if setting.holds(evaluation_row(thinking=thinking))
    }
    assert found == holds
    assert not setting.holds(evaluation_row(thinking="off", template_arguments='{"a":1}'))


def test_arguments_of_a_chat_template_decide_and_may_be_the_switch() -> None:
    arguments = '{"enable_thinking":true}'
    setting = replace(SETTING, chats={"gemma": (None, arguments)})
    assert setting.holds(evaluation_row(thinking="on", template_arguments=arguments))
    assert not setting.holds(evaluation_row(thinking="on"))


def test_everything_that_a_file_tells_decides() -> None:
    same = evaluation_row()
    assert SETTING.holds(same)
    others: tuple[dict[str, Any], ...] = (
        {"judge": "openai:m"}, {"subset": 5}, {"max_new_tokens": 8}, {"temperature": 1.0}, {"confirm_share": 0.4},
        {"direction": "negative"},
    )  # fmt: skip
    for other in others:
        assert not SETTING.holds(replace(same, **other)), other
    assert SETTING.holds(replace(same, seed=7)), "greedy text does not depend on it"
    assert not replace(SETTING, temperature=1.0).holds(replace(same, temperature=1.0, seed=7))
    weights = replace(SETTING, weights={"gemma": "/models/gemma-3-4b-it"})
    assert weights.holds(replace(same, model_id="gemma-3-4b-it"))
    assert not weights.holds(replace(same, model_id="google/gemma-3-12b-it"))
    for file in ("/models/SmolLM2.Q4_1.gguf", "someone/SmolLM2-GGUF:SmolLM2.Q4_1.gguf"):
        gguf = replace(SETTING, weights={"gemma": file})
        assert gguf.holds(replace(same, model_id="SmolLM2.Q4_1")), "as its identity names it"
        assert not gguf.holds(replace(same, model_id="SmolLM2.Q8_0"))


def test_a_folder_of_one_gguf_file_is_known_by_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.Q4_1.gguf").touch()
    file = tmp_path / "study.yaml"
    file.write_text(
        f"name: s\ntraits: {{t: {{dataset: ./t}}}}\njudge: likelihood\nmodels: {{m: {{instruct: {{model: {tmp_path}}}, "
        "layers: 1, coefficients: [1]}}\n"
    )
    declared = declared_by_data(load_experiment(file)).setting
    assert declared is not None
    assert declared.weights == {"m": str(tmp_path / "model.Q4_1.gguf")}


def test_what_an_imported_row_does_not_tell_is_no_disagreement() -> None:
    told = replace(
        evaluation_row(), origin="imported", judge="logprob:gpt-4.1-mini", judge_model="gpt-4.1-mini", subset=None,
        max_new_tokens=None, temperature=None, seed=None,
    )  # fmt: skip
    wanted = replace(SETTING, judge="openai:gpt-4.1-mini")
    assert wanted.holds(told)
    assert not wanted.holds(replace(told, judge_model="gpt-4.1"))
    assert not wanted.holds(replace(told, direction="negative"))


def test_of_settings_that_the_file_cannot_tell_apart_the_newest_is_current_for_all_labels() -> None:
    rows = [
        evaluated("probe"),
        evaluated("mean_diff"),
        stored(evaluation_row("probe", key="new", setting="new"), run_id="new", finished_at=5000),
    ]
    groups = [PROBE, replace(PROBE, label="mean_diff")]
    answer = ask_gaps.of(answers_of(rows, groups=tuple(groups), currency=Currency(SETTING)), FLOOR)
    assert [(one.label, one.status) for one in answer.remaining] == [("mean_diff", "missing")]
    known = replace(SETTING, question_sets={"refusal": "q0"})
    rows[2] = stored(evaluation_row("probe", key="new", setting="new", question_set="q0"), run_id="new", finished_at=1)
    answer = ask_gaps.of(answers_of(rows, groups=tuple(groups), currency=Currency(known)), FLOOR)
    assert [one.label for one in answer.remaining] == ["mean_diff"], "the questions that the file has now"


def test_what_is_current_does_not_depend_on_what_is_shown() -> None:
    rows = [evaluated("probe"), evaluated("mean_diff"), odd("mean_diff")]
    every = Answers(
        evaluations=Evaluations.of(rows), groups=(PROBE,), coefficient_ranges={}, currency=Currency(SETTING)
    )
    shown = massact.best.of(every.only(Filters(labels=("mean_diff",))), FLOOR).rows
    assert [(one.setting, one.is_current) for one in shown] == [("odd", False), ("setting-1", True)]
    rows = [evaluated("probe"), odd("probe", judge="openai:m", coherence_mean=90.0, max_new_tokens=64)]
    other = replace(every, evaluations=Evaluations.of(rows)).only(Filters(judges=("openai:m",)))
    assert [one.status for one in massact.gaps.of(other, FLOOR).rows] == ["ok"], "a judge that is asked for by name"


def test_the_report_and_gaps_agree() -> None:
    rows = [row(delta=40.0, trait_mean=41.5, coherence_mean=90.0)]
    rows.append(row(setting="odd", subset=3, delta=1.0, trait_mean=2.5, coherence_mean=20.0, finished_at=9000))
    answers = Answers(evaluations=Evaluations.of(rows), groups=experiment().groups(), coefficient_ranges={})
    evidence = Evidence.of(experiment(), answers)
    place = Place("toy-gemma-3", "refusal", "response[:5]")
    assert evidence.status(place, "probe") == "ok"
    mine = [one for one in massact.gaps.of(evidence.answers, FLOOR).rows if one.label == "probe" and one.setting]
    assert [(one.setting, one.status, one.is_current) for one in mine] == [
        ("s1", "ok", True),
        ("odd", "below_floor", False),
    ]


def test_the_store_keeps_what_the_file_says_of_the_setting() -> None:
    declared = declared_by(experiment())
    assert declared.setting is not None
    found = decode_declared(declared.experiment, encode_declared(declared, at=5))
    assert found is not None
    assert (found[1].setting, found[1].least_scored) == (declared.setting, declared.least_scored)
