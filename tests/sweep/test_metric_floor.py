"""A sweep whose file has a metric as its floor: what lacks it is evaluated anew, under the same keys."""

from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.config import load_experiment
from massact.store.read import open_store
from massact.store.schema import EvaluationRow
from massact.sweep.stores import view_columns
from tests.support.prepared import PreparedStores
from tests.support.small_plan import EXPERIMENT

pytestmark = pytest.mark.slow
N_CELLS = 4


def run(*arguments: str) -> Result:
    options = ["--experiment", "small.yaml", "--tracking-uri", f"sqlite:///{Path.cwd()}/mlflow.db"]
    result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def held() -> dict[str, EvaluationRow]:
    with closing(open_store(f"sqlite:///{Path.cwd()}/mlflow.db")) as store:
        return {one.row.key: one.row for one in store.evaluations("small")}


def test_what_lacks_the_floors_metric_is_evaluated_anew(
    prepared_stores: PreparedStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared_stores.copy(EXPERIMENT, tmp_path)
    Path("small.yaml").write_text(EXPERIMENT + "metrics: []\n")
    assert "4 evaluated" in run("phase1", "--max-rounds", "0").stderr
    before = held()
    assert len(before) == N_CELLS
    assert all(row.metrics is None for row in before.values())

    Path("small.yaml").write_text(EXPERIMENT)  # other metrics alone change nothing of what is finished
    assert "4 finished already" in run("phase1", "--max-rounds", "0").stderr

    Path("small.yaml").write_text(EXPERIMENT + "floor: {metric: kl, at_most: 1000}\n")
    gaps = run("gaps", "--phase", "phase1")
    assert gaps.exit_code == 1
    assert "4 evaluations have no kl, counted neither at the floor nor as a miss" in gaps.output
    assert "4 evaluated" in run("phase1", "--max-rounds", "0").stderr
    after = held()
    assert after.keys() == before.keys()
    for key, row in after.items():
        assert row.metrics is not None
        assert row.metrics["kl"] > 0
        assert (row.trait_mean, row.coherence_mean) == (before[key].trait_mean, before[key].coherence_mean)
        assert (row.metric_tokens, row.metric_sources) == (8, None)
    again = run("gaps", "--phase", "phase1")
    assert again.exit_code == 0
    assert "kl 1000 or less" in again.output
    best = run("best", "--floor", "distinct_2>=0.000001")
    assert "distinct_2" in best.stdout
    assert run("best", "--floor", "kl").exit_code == 2
    metrics, params = view_columns(load_experiment(Path("small.yaml")))
    assert metrics == ["kl", "perplexity"]
    assert "label" in params
    assert "operator" not in params
