"""The profile s3 of docker/compose.yaml, run without Docker: artifacts go through the server into an object store."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

from tests.support.composed import DOCKER, Composed
from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The address of an S3-compatible store."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def service(postgres: PostgresServer, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """A service whose .env says what .env.example says of object stores."""
    folder = tmp_path_factory.mktemp("object-store")
    (line,) = [line for line in (DOCKER / ".env.example").read_text().splitlines() if "COMPOSE_PROFILES=s3" in line]
    variables = dict(word.split("=", 1) for word in line.strip("# ").split())
    variables["MASSACT_S3_ENDPOINT"] = store
    made = Composed(folder, postgres.fresh(), variables)
    try:
        for _ in range(2):
            done = made.run("bucket")
            assert done.returncode == 0, done.stderr
        made.start()
        yield made
    finally:
        made.kill()


def _objects(service: Composed, store: str) -> list[str]:
    client = boto3.client(
        "s3",
        endpoint_url=store,
        region_name="us-east-1",
        aws_access_key_id=service.secret("store_user"),
        aws_secret_access_key=service.secret("store_password"),
    )
    return [one["Key"] for one in client.list_objects_v2(Bucket="massact").get("Contents", ())]


def test_clients_need_no_key_of_the_store_and_the_database_is_backed_up_alone(
    service: Composed, store: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    for name, value in service.login.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    client = MlflowClient(tracking_uri=service.address)
    run_id = client.create_run("0").info.run_id
    client.log_dict(run_id, {"kept": True}, "folder/kept.json")
    assert _objects(service, store) == [f"artifacts/0/{run_id}/artifacts/folder/kept.json"]
    path = client.download_artifacts(run_id, "folder/kept.json", str(tmp_path))
    assert json.loads(Path(path).read_text()) == {"kept": True}
    assert urlsplit(client.get_run(run_id).info.artifact_uri).scheme == "mlflow-artifacts"

    environment = service.environment("backup") | {"PG_BIN": str(postgres.programs)}
    command = ["bash", DOCKER / "backup.sh", tmp_path / "backups"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "s3://massact/artifacts, and not in this backup" in done.stderr
    backup = Path(done.stdout.strip())
    assert {path.name for path in backup.iterdir()} == {"about", "database.dump", "SHA256SUMS"}
    new = postgres.fresh()
    done = subprocess.run(
        ["bash", DOCKER / "restore.sh", backup],
        env=environment | {"MLFLOW_BACKEND_STORE_URI": new},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "massact doctor" in done.stdout
    assert MlflowClient(tracking_uri=new).get_run(run_id).info.status == "RUNNING"


def test_the_server_cannot_load_what_its_image_lacks(service: Composed) -> None:
    code = "import massact.server.app\nfor name in ('torch', 'transformers', 'sklearn'):\n"
    code += "  try: __import__(name)\n  except ModuleNotFoundError: print(name)"
    done = service.run("server", "python", "-c", code)
    assert done.stdout.split() == ["torch", "transformers", "sklearn"], done.stderr
    page = requests.get(f"{service.address}/health", timeout=10)
    assert page.status_code == 200


def test_make_bucket_says_what_is_wrong(service: Composed) -> None:
    done = service.run("bucket", MASSACT_SERVE_ARTIFACTS_DESTINATION="/artifacts")
    assert done.returncode == 1
    assert "is no s3://" in done.stderr
    done = service.run("bucket", MLFLOW_S3_ENDPOINT_URL="http://127.0.0.1:1", AWS_MAX_ATTEMPTS="1")
    assert done.returncode == 1
    assert "cannot be made" in done.stderr
    assert "Traceback" not in done.stderr
