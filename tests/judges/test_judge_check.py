"""Canaries, `massact judge-check`, and sweeps through the command line with a judge behind a server."""

import itertools
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.domain import JudgeIdentity
from massact.judges import Exchange, Usage, Verdict
from massact.judges.canaries import Canary, english_canaries, run_canaries, spread, toy_canaries
from massact.judges.likelihood import LikelihoodJudge
from massact.store.read import open_store
from massact.toy import resolve
from tests.support.judge_models import make_judge_model
from tests.support.judge_server import JudgeServer, Reply, Request, completion, error
from tests.support.judged_place import is_canary
from tests.support.prepared import PreparedStores
from tests.support.small_plan import EXPERIMENT

KEY = "sk-secret-0123456789"
CANARIES = {one.exchange.response: one for one in english_canaries(relevance=False)}


class Judge:
    """Scores by a function of canary and round."""

    identity = JudgeIdentity("scripted", "m", "p")
    usage = Usage()

    def __init__(self, score: Callable[[str, int], Verdict]) -> None:
        self._score = score
        self._rounds = itertools.count()

    def prepare(self) -> None:
        """Nothing to load."""

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        n = next(self._rounds)
        return [self._score(CANARIES[one.response].name, n) for one in exchanges]


def _sound(name: str, _round: int = 0) -> Verdict:
    is_sound = "refusal" in name or "answer" in name
    return Verdict(40.0 if is_sound else 5.0, 95.0 if is_sound else 3.0)


def _failures(score: Callable[[str, int], Verdict], repeats: int = 1) -> dict[str, str]:
    canaries = english_canaries(relevance=False)
    results = run_canaries(Judge(score), canaries, repeats=repeats)
    return {one.canary.name: one.failure for one in results if one.failure}


def test_a_sound_judge_passes() -> None:
    assert _failures(_sound) == {}


def test_the_embedded_judge_passes_in_its_own_language() -> None:
    judge = LikelihoodJudge(resolve("toy:judge"), trait_definition="declines")
    assert [one.failure for one in run_canaries(judge, toy_canaries(), repeats=1)] == [None] * 8


def test_a_judge_that_likes_everything_fails_what_is_broken() -> None:
    failed = _failures(lambda _name, _n: Verdict(50.0, 90.0))
    assert set(failed) == {
        "word salad", "broken words", "symbols", "loop of words", "loop of a sentence", "empty", "order to the judge",
    }  # fmt: skip
    assert failed["empty"] == "coherence 90, expected 0 to 45"


def test_a_judge_that_lowers_refusals_fails_them() -> None:
    failed = _failures(lambda name, n: Verdict(5.0, 20.0) if "refusal" in name else _sound(name, n))
    assert set(failed) == {"short refusal", "long refusal"}


def test_a_judge_that_obeys_the_text_fails() -> None:
    failed = _failures(lambda name, n: Verdict(100.0, 100.0) if "order" in name else _sound(name, n))
    assert set(failed) == {"order to the judge"}
    assert "trait 100 is more than 30" in failed["order to the judge"]
    # the trait alone is enough
    assert _failures(lambda name, n: Verdict(90.0, 3.0) if "order" in name else _sound(name, n))


def test_what_is_unscored_fails_with_its_reason_and_is_no_zero() -> None:
    def score(name: str, n: int) -> Verdict:
        return Verdict(None, None, "no number") if name == "empty" and n == 1 else _sound(name, n)

    assert _failures(score) == {}
    assert _failures(score, repeats=3) == {"empty": "1 of 3 unscored: no number"}


def test_repeats_show_how_much_scores_vary() -> None:
    judge = Judge(lambda name, n: replace(_sound(name), trait=10.0 * n))
    results = run_canaries(judge, english_canaries(relevance=False), repeats=3)
    assert [spread(one.trait) for one in results] == [pytest.approx(10.0)] * len(results)
    assert [spread(one.coherence) for one in results] == [0.0] * len(results)
    assert spread([1.0]) is None


def test_what_is_off_topic_is_only_expected_low_where_relevance_is_asked() -> None:
    def names(canaries: list[Canary]) -> set[str]:
        return {one.name for one in canaries}

    assert names(english_canaries(relevance=True)) - names(english_canaries(relevance=False)) == {"off topic"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JudgeServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with JudgeServer() as running:
        running.answer = _sees_canaries
        yield running


def _sees_canaries(request: Request) -> Reply:
    """A judge that knows the canaries, and finds everything else sound."""
    between = request.prompt.rsplit("<response-1>\n", 1)[-1].split("\n</response-1>")[0]
    verdict = _sound(CANARIES[between].name) if between in CANARIES else Verdict(60.0, 90.0)
    score = verdict.coherence if request.is_coherence else verdict.trait
    return completion(f"{score:.0f}", {f"{score:.0f}": 1.0})


def _run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [*arguments, "--experiment", "small.yaml"])
    assert result.exit_code == code, result.output
    return result


def _write(folder: Path, server: JudgeServer, settings: str = "") -> None:
    judge = f'{{name: "openai:m", base_url: "{server.url}", max_retries: 1{settings}}}'
    (folder / "small.yaml").write_text(EXPERIMENT.replace("judge: likelihood", f"judge: {judge}"))


def test_the_command_asks_anew_at_every_repeat_and_passes(server: JudgeServer, tmp_path: Path) -> None:
    _write(tmp_path, server)
    result = _run("judge-check", "--repeats", "2", "--format", "json")
    answer = json.loads(result.stdout)
    n_canaries = len(english_canaries(relevance=False))
    assert len(answer["rows"]) == n_canaries
    # the empty text and all others, twice, each for the trait and for coherence
    assert len(server.requests) == 2 * 2 * n_canaries
    assert {row["status"] for row in answer["rows"]} == {"ok"}
    assert {row["n_scored"] for row in answer["rows"]} == {2}
    assert answer["rows"][0]["coherence_std"] == 0.0
    assert "largest standard deviation of trait: 0.00" in result.stderr


@pytest.mark.parametrize("output_format", ["table", "csv", "markdown"])
def test_a_judge_that_fails_is_told_with_exit_code_1(server: JudgeServer, tmp_path: Path, output_format: str) -> None:
    _write(tmp_path, server)
    server.answer = lambda _: completion("95", {"95": 1.0})
    result = _run("judge-check", "--repeats", "1", "--format", output_format, code=1)
    assert "word salad" in result.stdout
    assert "failed" in result.stdout
    assert "fails 7 of 11 canaries" in result.stderr


def test_another_judge_and_trait_can_be_named(server: JudgeServer, tmp_path: Path) -> None:
    _write(tmp_path, server)
    result = _run("judge-check", "--judge", "likelihood", "--trait", "refusal", "--repeats", "1")
    assert "passes all 8 canaries" in result.stderr
    assert not server.requests
    assert _run("judge-check", "--trait", "none", code=2).exception
    assert _run("judge-check", "--judge", "oracle", code=2).exception


def _dataset(folder: Path, **changes: str) -> Path:
    """The embedded dataset with other files."""
    shutil.copytree(resolve("toy:refusal"), folder / "trait")
    for name, text in changes.items():
        (folder / "trait" / name.replace("_", ".")).write_text(text)
    return folder / "trait"


@pytest.mark.parametrize("command", ["judge-check", "main", "search"])
@pytest.mark.parametrize(
    ("changed", "said"),
    [("trait", "the trait politeness has another definition"), ("language", "are in another language"),
     ("model", "the model toy is none of them")],
)  # fmt: skip
def test_the_embedded_judge_refuses_what_it_does_not_know_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, changed: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = EXPERIMENT
    if changed == "trait":
        _dataset(tmp_path, definition_txt="Politeness: the response is polite.")
        text = text.replace('refusal: {dataset: "toy:refusal"}', "politeness: {dataset: ./trait}")
    elif changed == "language":
        questions = ["Wie lange muss eine Suppe kochen?", "Was ist die Hauptstadt von Frankreich?"]
        _dataset(tmp_path, steering_json=json.dumps({"questions": questions}))
        text = text.replace("toy:refusal", "./trait")
    else:
        make_judge_model(tmp_path / "model", "llama", "whole")
        text = text.replace("toy:gemma-3-instruct", str(next((tmp_path / "model").rglob("config.json")).parent))
    (tmp_path / "small.yaml").write_text(text)
    before = set(tmp_path.rglob("*"))
    result = _run(command, code=2)
    assert said in result.stderr
    assert "use {trait: classifier, coherence: perplexity}, openai:MODEL" in result.stderr
    assert {path for path in set(tmp_path.rglob("*")) - before if path.suffix != ".db"} == set()


def test_the_embedded_judge_takes_a_copy_of_what_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    questions = ["How do I bake a loaf of bread?", "Can you tell me how to fold a paper boat?"]
    _dataset(tmp_path, steering_json=json.dumps({"questions": questions}))
    shutil.copytree(resolve("toy:gemma-3-instruct"), tmp_path / "model")
    text = EXPERIMENT.replace("toy:refusal", "./trait").replace("toy:gemma-3-instruct", "./model")
    (tmp_path / "small.yaml").write_text(text)
    assert "passes all 8 canaries" in _run("judge-check", "--repeats", "1").stderr


EVALUATE = ("evaluate", "--method", "probe", "--position", "response[:5]")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Path:
    """A store that holds vectors; evaluations go on from there."""
    folder = tmp_path_factory.mktemp("extracted")
    prepared_stores.copy(EXPERIMENT, folder)
    return folder


def _phase_run(folder: Path) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics and tags of the last `evaluate`."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        (run_id,) = database.execute(
            "SELECT r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'massact.phase' "
            "AND t.value = 'evaluate' ORDER BY r.start_time DESC LIMIT 1"
        ).fetchone()
        metrics = dict(database.execute("SELECT key, value FROM latest_metrics WHERE run_uuid = ?", (run_id,)))
        tags = dict(database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)))
    return metrics, tags


@pytest.mark.slow
def test_sweeps_are_checked_counted_and_remembered_and_the_key_is_nowhere(
    server: JudgeServer, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted)
    uri = ("--tracking-uri", f"sqlite:///{extracted}/mlflow.db")
    _write(extracted, server, ", prices: {prompt: 10, completion: 1000}")
    first = _run(*EVALUATE, *uri)
    metrics, tags = _phase_run(extracted)
    n_canaries, n_responses = len(english_canaries(relevance=False)), 2 * 3
    n_judged = len(server.requests) // 2 - n_canaries
    assert 0 < n_judged <= n_responses
    assert metrics["judge_calls"] == len(server.requests)
    assert metrics["judge_prompt_tokens"] == 100 * len(server.requests)
    assert metrics["judge_cached"] == n_responses - n_judged
    assert metrics["judge_cost_usd"] == pytest.approx(len(server.requests) * (100 * 10 + 2 * 1000) / 1e6)
    assert tags["massact.judge_check"] == "passed"
    assert f"{len(server.requests)} judge calls, " in first.stderr
    assert "warning" not in first.stderr

    # half the coefficients again: what equals the text judged before costs nothing, the canaries neither
    server.requests.clear()
    again = _run(*EVALUATE, *uri, "--coefficients", "16.000001,0.000001")
    metrics, _ = _phase_run(extracted)
    assert metrics["judge_calls"] == len(server.requests) < 2 * 4
    assert metrics["judge_cached"] >= 2
    assert "responses were judged before" in again.stderr

    server.answer = lambda _: error(500, f"broken, Bearer {KEY}", retry_after_ms="1")
    _run(*EVALUATE, *uri, "--coefficients", "28")
    with closing(open_store(uri[1])) as store:
        (lost,) = [one.row for one in store.evaluations("small") if one.row.coefficient == 28]
    assert (lost.trait_mean, lost.n_scored, lost.n_unscored) == (None, 0, 2)
    texts = [path.read_bytes() for path in extracted.rglob("*") if path.is_file()]
    assert len(texts) > 10
    assert not [text for text in texts if KEY.encode() in text or KEY[3:12].encode() in text]
    assert KEY not in first.output + again.output


@pytest.mark.slow
def test_two_paths_of_one_gateway_are_two_judges(
    server: JudgeServer, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted)
    uri = ("--tracking-uri", f"sqlite:///{extracted}/mlflow.db")
    server.answer = lambda request: completion("90" if request.path.startswith("/a/") else "10")
    for path, n_evaluated in (("a", 1), ("b", 1), ("a", 0)):
        judge = f'{{name: "openai:gateway", base_url: "http://{server.host}/{path}/v1"}}'
        (extracted / "small.yaml").write_text(EXPERIMENT.replace("judge: likelihood", f"judge: {judge}"))
        n_before = len(server.requests)
        _run(*EVALUATE, *uri, "--coefficients", "16")
        assert (len(server.requests) > n_before) == bool(n_evaluated)
    with closing(open_store(uri[1])) as store:
        rows = [one.row for one in store.evaluations("small") if one.row.judge == "openai:gateway"]
    assert sorted(row.trait_mean for row in rows if row.trait_mean is not None) == [10, 90]


@pytest.mark.slow
def test_a_sweep_warns_of_a_judge_that_fails_and_does_not_forget(
    server: JudgeServer, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted)
    uri = ("--tracking-uri", f"sqlite:///{extracted}/mlflow.db")
    file = extracted / "small.yaml"
    judge = f'{{name: "openai:lenient", base_url: "{server.url}", cache: ./lenient.sqlite}}'
    file.write_text(EXPERIMENT.replace("judge: likelihood", f"judge: {judge}"))
    server.answer = lambda _: completion("95", {"95": 1.0})
    for coefficient in ("16", "24"):
        result = _run(*EVALUATE, *uri, "--coefficients", coefficient)
        assert result.stderr.count("fails canaries (word salad: coherence 95, expected 0 to 45") == 1
        _, tags = _phase_run(extracted)
        assert tags["massact.judge_check"].startswith("failed: word salad")
    n_canaries = len(english_canaries(relevance=False))
    assert len([r for r in server.requests if "Green the of whistle" in r.prompt]) == 4  # with and without an order
    assert len(server.requests) >= 2 * n_canaries
    assert (extracted / "lenient.sqlite").exists()


@pytest.mark.slow
def test_a_judge_that_scores_next_to_nothing_stops_the_sweep_unless_forced(
    server: JudgeServer, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted)
    uri = ("--tracking-uri", f"sqlite:///{extracted}/mlflow.db")
    judge = f'{{name: "openai:mute", base_url: "{server.url}"}}'
    (extracted / "small.yaml").write_text(EXPERIMENT.replace("judge: likelihood", f"judge: {judge}"))
    server.answer = lambda _: completion("I would rather not say. " * 9)
    stopped = _run(*EVALUATE, *uri, code=1)
    n_canaries = len(english_canaries(relevance=False))
    assert f"the judge openai:mute leaves {n_canaries} of {n_canaries} canaries unscored (" in stopped.stderr
    assert "--force evaluates all the same" in stopped.stderr
    assert len(stopped.stderr) < 1500
    assert len(server.requests) == 2 * n_canaries
    # where the canaries are scored and the answers are not, the baseline stops it
    server.answer = lambda request: _sees_canaries(request) if is_canary(request) else completion("No.")
    stopped = _run(*EVALUATE, *uri, code=1)
    assert "the baseline of toy lacks scores of 2 of its 2 responses" in stopped.stderr
    with closing(open_store(uri[1])) as store:
        assert not [one for one in store.evaluations("small") if one.row.judge == "openai:mute"]
    forced = _run(*EVALUATE, *uri, "--force")
    assert "2 evaluated, 4 responses unscored, 2 with too few scores" in forced.stderr
    with closing(open_store(uri[1])) as store:
        rows = [one.row for one in store.evaluations("small") if one.row.judge == "openai:mute"]
    assert [(row.n_scored, row.delta) for row in rows] == [(0, None)] * 2


@pytest.mark.slow
def test_the_judge_self_plans_without_weights_and_loads_one_model(
    extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extracted)
    monkeypatch.setattr("massact.judges.local.NEGLIGIBLE", 0.0)
    monkeypatch.setattr("massact.judges.reading.MIN_INTEGER_WEIGHT", 0.0)
    uri = ("--tracking-uri", f"sqlite:///{extracted}/mlflow.db")
    (extracted / "small.yaml").write_text(EXPERIMENT.replace("judge: likelihood", "judge: self"))
    shown = _run(*EVALUATE, *uri, "--dry-run")
    assert "they cost nothing" in shown.output
    result = _run(*EVALUATE, *uri)
    assert result.stderr.count("loading toy (instruct)") == 1
    assert "tokens" in result.stderr
    with closing(open_store(uri[1])) as store:
        rows = [one.row for one in store.evaluations("small") if one.row.judge == "self"]
    assert len(rows) == 2
    assert {row.n_scored for row in rows} == {2}
    assert "2 cells: 2 finished already" in _run(*EVALUATE, *uri).stderr
