"""What others wrote is read and never run: pickles, oversized headers, links and names that lead elsewhere."""

import ast
import contextlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.config import AdapterConfig, LoadConfig
from massact.doctor.artifacts import digest_in
from massact.errors import DataError, JudgeError, ModelError, StoreError
from massact.judges import likelihood
from massact.models.load import load_model
from massact.store.responses import read_responses
from massact.store.schema import encode_row
from massact.store.tensors import read_tensor
from massact.store.write.artifacts import fetch_from
from massact.store.write.stages import read_activations
from tests.support.doctor_store import make_store
from tests.support.saved import save_adapter, save_model
from tests.support.store_fixtures import EXPERIMENT, evaluation_row

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["v.safetensors", "v.pt", "v.bin", "v.npy", "v.npz", "v.joblib", "v"]


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "canary"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.place),)


def _pickled(canary: Canary) -> bytes:
    return pickle.dumps(canary)


def _saved_by_torch(canary: Canary) -> bytes:
    content = io.BytesIO()
    torch.save({"vector": canary}, content)
    return content.getvalue()


def _saved_by_numpy(canary: Canary) -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([canary], dtype=object), allow_pickle=True)
    return content.getvalue()


def _zipped_by_numpy(canary: Canary) -> bytes:
    content = io.BytesIO()
    np.savez(content, vector=np.array([canary], dtype=object))
    return content.getvalue()


WAYS = [_pickled, _saved_by_torch, _saved_by_numpy, _zipped_by_numpy]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("write", WAYS)
def test_no_pickle_is_loaded_as_a_vector(tmp_path: Path, write: Callable[[Canary], bytes], name: str) -> None:
    canary = Canary(tmp_path)
    file = tmp_path / name
    file.write_bytes(write(canary))
    with pytest.raises(DataError, match=r"only safetensors are opened") as caught:
        read_tensor(file, "vector")
    assert str(file) in str(caught.value)
    with pytest.raises(ValueError, match="header"):
        digest_in(file.read_bytes())
    assert not canary.place.exists()


@pytest.mark.parametrize("write", WAYS)
def test_no_pickle_is_loaded_as_activations(tmp_path: Path, write: Callable[[Canary], bytes]) -> None:
    canary = Canary(tmp_path)
    for name in ("train.safetensors", "validation.safetensors"):
        (tmp_path / name).write_bytes(write(canary))
    (tmp_path / "metadata.json").write_text('{"n_examples_pos": 1, "n_validation_pos": 1, "n_dropped": 0}')
    with pytest.raises(DataError):
        read_activations(tmp_path)
    (tmp_path / "responses.json").write_bytes(write(canary))
    with pytest.raises(DataError):
        read_responses(tmp_path / "responses.json")
    assert not canary.place.exists()


@pytest.mark.parametrize("write", WAYS)
def test_no_pickle_is_loaded_as_an_adapter(tmp_path: Path, write: Callable[[Canary], bytes]) -> None:
    canary = Canary(tmp_path)
    base = save_model(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapter", base)
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    (tmp_path / "adapter/adapter_model.bin").write_bytes(write(canary))
    with pytest.raises(ModelError, match="adapter"):
        load_model(str(base), adapter=AdapterConfig(str(tmp_path / "adapter")), options=LoadConfig(device="cpu"))
    assert not canary.place.exists()


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\x10\0\0\0\0\0\0\0{"], ids=["empty", "text", "cut"])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
def test_weights_of_an_adapter_that_are_none(tmp_path: Path, name: str, content: bytes) -> None:
    base = save_model(tmp_path / "base", "llama")
    save_adapter(tmp_path / "adapter", base)
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    (tmp_path / "adapter" / name).write_bytes(content)
    with pytest.raises(ModelError, match="adapter"):
        load_model(str(base), adapter=AdapterConfig(str(tmp_path / "adapter")), options=LoadConfig(device="cpu"))


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_no_pickle_is_loaded_as_a_model(tmp_path: Path, write: Callable[[Canary], bytes], name: str) -> None:
    canary = Canary(tmp_path)
    folder = save_model(tmp_path / "model", "llama")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(write(canary))
    with pytest.raises(ModelError):
        load_model(str(folder), options=LoadConfig(device="cpu"))
    assert not canary.place.exists()


def test_no_pickle_is_loaded_as_a_judge(tmp_path: Path) -> None:
    canary = Canary(tmp_path)
    folder = shutil.copytree(ROOT / "massact/toy/data/judge", tmp_path / "judge")
    (folder / "judge.safetensors").write_bytes(_pickled(canary))
    with pytest.raises(JudgeError, match="no fitted likelihood judge"):
        likelihood.LikelihoodJudge(folder, trait_definition="refusal")
    assert not canary.place.exists()


@pytest.mark.parametrize("length", [100_000_001, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_any_length_takes_no_memory(tmp_path: Path, length: int) -> None:
    file = tmp_path / "v.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(DataError, match="header too large"):
        read_tensor(file, "vector")


def test_a_tensor_that_says_it_is_larger_than_its_file(tmp_path: Path) -> None:
    file = tmp_path / "v.safetensors"
    header = b'{"vector":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DataError):
        read_tensor(file, "vector")


@pytest.mark.slow
def test_nothing_in_the_package_unpickles_or_evaluates() -> None:
    """A new reader has to be safetensors, JSON, SafeLoader or come with a test above."""
    banned = {
        "torch.load", "np.load", "numpy.load", "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load",
        "yaml.load", "yaml.unsafe_load", "yaml.full_load", "marshal.loads", "shelve.open", "eval", "exec", "compile",
        "zipfile.ZipFile", "tarfile.open", "shutil.unpack_archive", "os.system", "pd.read_pickle",
    }  # fmt: skip
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}"
        for path in sorted((ROOT / "massact").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in banned
        # of plain tensors alone; tests/vectors/test_imported.py shows that nothing of a file runs
        and "weights_only=True" not in [f"{one.arg}={ast.unparse(one.value)}" for one in node.keywords]
    ]
    assert not found


RESULT = (
    '{"result": {"trait_mean": 50.0, "coherence_mean": 80.0, "n": 1}, "timestamp": "2026-01-11T09:08:38", '
    '"config": {"vectors": [{"layer": 1, "weight": 2.0, "component": "residual", "method": "probe"}]}}\n'
)
HEADER = '{"type": "header", "trait": "refusal", "steering_model": "m", "steering_experiment": "e"}\n'


def _import(folder: Path, uri: str) -> Result:
    arguments = ["import", str(folder), "--experiment", "old", "--trait", "refusal", "--model", "m"]
    return CliRunner().invoke(cli, [*arguments, "--tracking-uri", uri, "--dry-run"])


@pytest.mark.slow
def test_links_do_not_lead_an_import_out_of_its_folder(tmp_path: Path, uri: str) -> None:
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "results.jsonl").write_text("canary-secret\n" + HEADER + RESULT)
    inside = tmp_path / "tree/steering/refusal/instruct/response__5/steering"
    inside.mkdir(parents=True)
    (inside / "results.jsonl").symlink_to(secret / "results.jsonl")
    other = inside.parent / "own"
    other.mkdir()
    (other / "results.jsonl").write_text(HEADER + RESULT)
    (other / "responses").symlink_to(secret)
    circle = inside.parent / "circle"
    circle.mkdir()
    (circle / "results.jsonl").symlink_to(circle / "results.jsonl")
    done = _import(tmp_path / "tree", uri)
    assert "a link to a file elsewhere" in done.output
    assert "canary" not in done.output
    assert done.exit_code == 1, done.output
    assert "1 result" in done.output  # that of the folder without links
    named = tmp_path / "named.jsonl"
    named.symlink_to(other / "results.jsonl")
    done = _import(named, uri)  # whoever names a link means what it points to
    assert "a link to a file elsewhere" not in done.output


def test_zip_bombs_are_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "v.safetensors", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v", b"\0" * 50_000_000)
    with pytest.raises(DataError, match="zip archive"):
        read_tensor(tmp_path / "v.safetensors", "vector")


class Malicious(BaseHTTPRequestHandler):
    """A tracking server whose lists of artifacts name files outside the folder that they are downloaded to."""

    names: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        files = [{"path": name, "is_dir": False, "file_size": 5} for name in self.names]
        is_list = asked.path.endswith("/artifacts") or asked.path.endswith("artifacts/list")
        body = json.dumps({"files": files}).encode() if is_list else b"taken"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "name",
    ["../../../escaped", "/escaped", "..\\..\\escaped", "%2e%2e/%2e%2e/escaped", "folder/../../escaped", "inside"],
)
def test_a_server_cannot_place_files_outside_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    names = [name.replace("/escaped", f"{tmp_path}/escaped") if name == "/escaped" else name]
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Malicious,), {"names": names}))
    Thread(target=server.serve_forever, daemon=True).start()
    downloads = tmp_path / "a/b/c/downloads"
    downloads.mkdir(parents=True)
    monkeypatch.setattr("massact.store.write.artifacts._copies", lambda: SimpleNamespace(name=str(downloads)))
    before = set(tmp_path.rglob("*"))
    with contextlib.suppress(StoreError):
        address = f"http://127.0.0.1:{server.server_port}"
        fetch_from("mlflow-artifacts:/1/run/artifacts", "vectors", tracking_uri=address)
    server.shutdown()
    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(downloads) for path in made), made
    assert ([path.name for path in made if path.is_file()] == ["inside"]) == (name == "inside"), made


HOSTILE = [
    "[" * 5000, '{"a":' * 1500, "", "null", "5", "[]", "{}", '{"kind": "evaluation"}', "1" * 4500, "NaN",
    '{"kind": "evaluation", "key": "\\ud800"}', '{"kind": "evaluation", "kind": "baseline"}',
]  # fmt: skip
ROWS = [
    {"key": []}, {"label": {}}, {"layer": "x"}, {"coefficient": None}, {"coefficient": 1e308}, {"n_questions": 2**62},
    {"position": "x"}, {"label": "\x1b[31m"}, {"delta": None}, {"trait_mean": -1e14}, {"judge": None}, {"model": ""},
]  # fmt: skip


@pytest.mark.slow
def test_tags_that_others_wrote_stop_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    made = make_store(uri)
    place = made.phase.experiment_id

    def run(status: str, **tags: str) -> None:
        named = {f"massact.{name}": text for name, text in tags.items()} | {"massact.experiment": EXPERIMENT}
        made_run = made.client.create_run(place, tags=named, start_time=1)
        if status != "RUNNING":
            made.client.set_terminated(made_run.info.run_id, status=status, end_time=2)

    for i, text in enumerate(HOSTILE):
        for kind in ("evaluation", "baseline", "calibration", "published"):
            run("FINISHED", kind=kind, row=text, key=f"{kind}-{i}")
        run("FAILED", kind="evaluation", row=text, error=text)
        run("RUNNING", kind="phase", phase="p", process=text, sweep=text)
        row = evaluation_row(key=f"good-{i}", coefficient=i + 5.0)
        run("FINISHED", kind="evaluation", row=encode_row(row), key=row.key, scores=text, imported=text, same_as=text)
    for i, changes in enumerate(ROWS):
        fields = {**json.loads(encode_row(evaluation_row(key=f"row-{i}", coefficient=i + 50.0))), **changes}  # type: ignore[dict-item]
        run("FINISHED", kind="evaluation", row=json.dumps(fields), key=f"row-{i}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    for command in (
        ("best", "--format", "json"), ("runs",), ("sensitivity",), ("coefficients",), ("judges",), ("doctor",),
        ("export", "--output", "out"),
    ):  # fmt: skip
        result = CliRunner().invoke(cli, [*command, "--experiment", EXPERIMENT])
        assert result.exception is None or isinstance(result.exception, SystemExit), (command, result.exception)
        assert result.exit_code in (0, 1), (command, result.output)
    assert len(list((tmp_path / "out").rglob("results.jsonl"))) > 0
