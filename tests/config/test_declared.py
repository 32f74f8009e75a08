"""What an experiment file declares, kept in the store: its round trip, and questions without the file."""

import base64
import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import massact
from massact.cli.app import cli
from massact.config import load_experiment
from massact.config.values import declared_by
from massact.errors import NoMatrixError, UnknownExperimentError, UnknownNameError
from massact.store.read import open_store
from massact.store.schema import Declared, DeclaredPhase, encode_declared
from massact.store.schema.declared import declared_prefix, declared_tag, decode_declared
from massact.store.schema.names import EXPERIMENT_TAG_LIMIT
from massact.store.write.tracker import Tracker
from tests.support.store_fixtures import Filler, evaluation_row, point_tags

TOY = Path(__file__).resolve().parents[2] / "experiments" / "toy.yaml"
NAMES = st.text(min_size=1, max_size=30)
TUPLES = st.lists(NAMES, max_size=4).map(tuple)
PHASES = st.builds(DeclaredPhase, name=NAMES, models=TUPLES, positions=TUPLES, labels=TUPLES)
NUMBERS = st.floats(0, 1e12)
DECLARED = st.builds(
    Declared,
    experiment=NAMES,
    floor=st.floats(0, 100),
    traits=TUPLES,
    phases=st.lists(PHASES, max_size=3).map(tuple),
    coefficient_ranges=st.dictionaries(NAMES, st.tuples(NUMBERS, NUMBERS), max_size=3),
    confirm_share=st.none() | st.floats(0.01, 0.99),
)


def large(n: int) -> Declared:
    """One whose names do not compress."""
    labels = tuple(hashlib.sha256(str(i).encode()).hexdigest() for i in range(n))
    return Declared("study", 68.0, ("refusal",), (DeclaredPhase("phase1", ("m",), ("p",), labels),), {})


def kept(found: tuple[int, Declared] | None) -> Declared:
    assert found is not None
    return replace(found[1], source="the run store")


@given(DECLARED, st.integers(0, 1 << 50))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_comes_back_as_it_was(declared: Declared, at: int) -> None:
    tags = encode_declared(declared, at=at)
    found = decode_declared(declared.experiment, tags)
    assert found is not None
    assert found[0] == at
    assert kept(found) == declared


@pytest.mark.parametrize("n", [1, 400, 2000])
def test_what_does_not_fit_in_a_tag_is_split(n: int) -> None:
    declared = large(n)
    tags = encode_declared(declared, at=1)
    assert all(len(value) <= EXPERIMENT_TAG_LIMIT and len(key) <= 250 for key, value in tags.items())
    assert (len(tags) > 1) == (n > 1)
    assert list(tags)[-1] == declared_tag("study", 0)  # the others first, so that no half of it is believed
    assert kept(decode_declared("study", tags)) == declared


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="too many for tags"):
        encode_declared(large(20_000), at=1)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_what_is_damaged_is_never_believed(data: st.DataObject) -> None:
    declared = large(400)
    tags = dict(encode_declared(declared, at=7))
    key = data.draw(st.sampled_from(sorted(tags)))
    how = data.draw(st.sampled_from(["drop", "cut", "change", "other"]))
    if how == "drop" and key != declared_tag("study", 0):
        del tags[key]
    elif how == "cut":
        tags[key] = tags[key][: data.draw(st.integers(0, len(tags[key]) - 1))]
    elif how == "change":
        at = data.draw(st.integers(0, len(tags[key]) - 1))
        tags[key] = tags[key][:at] + ("!" if tags[key][at] != "!" else "?") + tags[key][at + 1 :]
    else:
        tags = tags | {key: encode_declared(large(401), at=7)[key]}
    try:
        found = decode_declared("study", tags)
    except ValueError:
        return
    assert kept(found) == declared  # nothing of weight was touched


@pytest.mark.parametrize(
    "content",
    [[], {"experiment": "other"}, {"experiment": "study"}, "bomb"],
    ids=["a list", "another's", "nothing", "larger than anything"],
)
def test_other_content_is_refused(content: Any) -> None:
    text = json.dumps({"experiment": "study", "x": " " * 50_000_000} if content == "bomb" else content)
    packed = base64.b64encode(zlib.compress(text.encode())).decode()
    digest = hashlib.sha256(packed.encode()).hexdigest()[:16]
    with pytest.raises(ValueError, match=r"another experiment|has no|cut off"):
        decode_declared("study", {declared_tag("study", 0): f"1 1 {digest} 5 {packed}"})


def test_the_file_and_the_store_declare_the_same_groups() -> None:
    experiment = load_experiment(TOY)
    declared = declared_by(experiment)
    found = kept(decode_declared(experiment.name, encode_declared(declared, at=1)))
    for phase in (None, "phase1", "phase2", "phase3"):
        assert experiment.groups(phase) == declared.groups(phase) == found.groups(phase)
    assert found.coefficient_ranges == declared.coefficient_ranges
    assert len(encode_declared(declared, at=1)) == 1
    with pytest.raises(UnknownNameError, match="declares no phase 'phase9'"):
        found.groups("phase9")


@pytest.fixture
def store(uri: str) -> str:
    """A store in which a phase of the toy file ran, and in which one group is evaluated."""
    experiment = load_experiment(TOY)
    tracker = Tracker(uri, experiment.name, floor=68.0, declared=declared_by(experiment))
    with tracker.phase("phase1", params={}):
        pass
    group = experiment.groups()[0]
    row = evaluation_row(
        group.label,
        3,
        12.0,
        key="k",
        experiment=experiment.name,
        model=group.model,
        trait=group.trait,
        position=group.position,
    )
    Filler(uri).run("one", tracker.experiment_id, tags=point_tags(row))
    return uri


def test_gaps_are_answered_without_the_file(store: str) -> None:
    name = load_experiment(TOY).name
    with_file = massact.gaps(TOY, tracking_uri=store)
    assert len(with_file.remaining) == len(load_experiment(TOY).groups()) - 1
    assert massact.gaps(name, tracking_uri=store) == with_file
    assert massact.best(name, tracking_uri=store) == massact.best(TOY, tracking_uri=store)
    phase = massact.gaps(name, tracking_uri=store, phase="phase2")
    assert phase == massact.gaps(TOY, tracking_uri=store, phase="phase2")
    result = CliRunner().invoke(cli, ["gaps", "--experiment", name, "--tracking-uri", store])
    assert result.exit_code == 1
    assert "groups are gaps at coherence 68" in result.stderr


def test_the_newest_of_several_counts(uri: str) -> None:
    filler = Filler(uri)
    for at, floor in ((5, 60.0), (9, 70.0), (7, 65.0)):
        home = filler.client.create_experiment(f"home {at}")
        declared = replace(large(3), floor=floor)
        for key, value in encode_declared(declared, at=at).items():
            filler.client.set_experiment_tag(home, key, value)
    gone = filler.client.create_experiment("deleted")
    for key, value in encode_declared(replace(large(3), floor=1.0), at=99).items():
        filler.client.set_experiment_tag(gone, key, value)
    filler.client.delete_experiment(gone)
    reader = open_store(uri)
    found = reader.declared("study")
    assert found is not None
    assert found.floor == 70.0
    assert reader.declared("stud") is None  # not by the beginning of a name
    home = filler.client.create_experiment("damaged")
    filler.client.set_experiment_tag(home, declared_prefix("study") + "0", "1 1 ? ? ?")
    assert reader.declared("study") == found
    assert any("cannot be read" in one for one in reader.warnings)
    reader.close()


def test_without_it_the_message_says_what_to_do(uri: str) -> None:
    filler = Filler(uri)
    home = filler.client.create_experiment("home")
    filler.run("one", home, tags=point_tags(evaluation_row(key="k", experiment="study")))
    with pytest.raises(NoMatrixError, match="pass --experiment FILE, or run a phase of its file once"):
        massact.gaps("study", tracking_uri=uri)
    with pytest.raises(UnknownExperimentError, match="holds no evaluation of an experiment 'nobody'"):
        massact.gaps("nobody", tracking_uri=uri)


def test_a_phase_does_not_fail_because_it_cannot_be_kept(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    tracker = Tracker(uri, "study", floor=68.0, declared=large(400), say=said.append)
    _refuse(monkeypatch, tracker, lambda key: key.startswith(declared_prefix("study")))
    with tracker.phase("phase1", params={}):
        pass
    assert [one.partition(":")[0] for one in said] == ["warning"]
    assert "no such right" in said[0]
    reader = open_store(uri)
    assert [(one.phase, one.status) for one in reader.phases("study")] == [("phase1", "FINISHED")]
    reader.close()


def _refuse(monkeypatch: pytest.MonkeyPatch, tracker: Tracker, is_refused: Callable[[str], bool]) -> None:
    keep = tracker._client.set_experiment_tag

    def refuse(experiment_id: str, key: str, value: str) -> None:
        if is_refused(key):
            raise PermissionError("no such right")
        keep(experiment_id, key, value)

    monkeypatch.setattr(tracker._client, "set_experiment_tag", refuse)
