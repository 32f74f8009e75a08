"""docker/: what can be checked of images and compose file without a Docker daemon."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.support.composed import DOCKER, Composed, compose, environment_of, example

PROGRAMS = Path(sys.executable).parent


def _program(name: str) -> str:
    found = PROGRAMS / name
    return str(found) if found.exists() else name


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.worker"])
def test_the_dockerfiles_are_clean(name: str) -> None:
    command = [_program("hadolint"), "--failure-threshold", "info", DOCKER / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_compose_file_is_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_variable_is_in_the_example_and_the_other_way_round() -> None:
    used = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text()))
    assert used == set(example()) - {"COMPOSE_PROFILES"}


def test_the_examples_values_are_the_files_defaults() -> None:
    found = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (DOCKER / "compose.yaml").read_text()))
    differing = {name for name, value in found.items() if value != example()[name]}
    assert differing == {"MASSACT_ALLOWED_HOSTS"}  # an example of a name; the default is no name


@pytest.mark.slow
def test_every_secret_is_a_file_that_make_secrets_makes_and_somebody_uses(tmp_path: Path) -> None:
    service = Composed(tmp_path, "postgresql://nobody@/none")
    loaded = compose()
    made = {path.name for path in (tmp_path / "secrets").iterdir()}
    assert {name: one["file"] for name, one in loaded["secrets"].items()} == {n: f"secrets/{n}" for n in made}
    texts = [service.secret(name) for name in made]
    assert all(len(text) >= 30 for text in texts)
    assert len(set(texts)) == len(made)
    for name, one in loaded["services"].items():
        read = {v.rpartition("/")[2] for k, v in one.get("environment", {}).items() if k.endswith("_FILE")}
        assert read == set(one.get("secrets", ())), name
    before = service.secret("admin_password")
    subprocess.run(["bash", tmp_path / "make-secrets.sh"], check=True)
    assert service.secret("admin_password") == before


def test_no_password_stands_in_the_file_or_the_example() -> None:
    for name in compose()["services"]:
        for key, value in environment_of(name, example()).items():
            if re.search("PASSWORD|SECRET|KEY", key):
                assert value.startswith("/run/secrets/"), (name, key)
            assert not re.search(r"://[^/@]*:[^/@]*@", value), (name, key)
    assert not [name for name in example() if re.search("PASSWORD|SECRET|KEY", name)]


def test_services_are_pinned_hardened_limited_and_start_in_order() -> None:
    services = compose()["services"]
    for name, one in services.items():
        image = one["image"]
        assert image == "massact-server" or re.search(r":.*\d+\.\d+|:RELEASE\.\d{4}", image), name
        if "keeping" in one.get("profiles", ()) and name != "upgrade":
            continue
        assert one["read_only"], name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
    for name in ("database", "server", "store"):
        limits = services[name]["deploy"]["resources"]["limits"]
        assert set(limits) == {"cpus", "memory"}, name
    waits = services["server"]["depends_on"]
    assert waits["database"]["condition"] == "service_healthy"
    assert "healthcheck" in services["database"]
    assert "HEALTHCHECK" in (DOCKER / "Dockerfile").read_text()
    assert services["server"]["ports"] == ["${MASSACT_BIND:-127.0.0.1}:${MASSACT_PORT:-5000}:5000"]


def test_the_images_programs_are_nobodys_and_their_bases_are_pinned() -> None:
    for name in ("Dockerfile", "Dockerfile.worker"):
        text = (DOCKER / name).read_text()
        assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE))
        assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["10001:10001"]


def test_the_servers_requirements_are_current(root: Path) -> None:
    made = subprocess.run(
        [sys.executable, "tools/server_requirements.py"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert (DOCKER / "requirements-server.txt").read_text() == made, "run `make lock`"
    assert "torch" not in made


@pytest.mark.parametrize("script", sorted(path.name for path in DOCKER.glob("*.sh")))
def test_the_scripts_can_be_read_by_a_shell(script: str) -> None:
    shell = "sh" if script == "entrypoint.sh" else "bash"
    subprocess.run([shell, "-n", DOCKER / script], check=True)
    assert os.access(DOCKER / script, os.X_OK)


def test_a_job_is_made_of_the_example_by_mlflows_own_loader(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.projects import _parse_kubernetes_config
    from mlflow.projects._project_spec import load_project

    folder = DOCKER / "kubernetes"
    project = load_project(str(folder))
    assert project.docker_env == {"image": "massact-worker"}
    command = project.get_entry_point("evaluate").compute_command({"label": "probe"}, None)
    assert command.startswith("massact evaluate --experiment /massact/experiments/toy.yaml --method probe ")

    monkeypatch.chdir(root)
    for name in ("kubernetes", "kubernetes.config", "kubernetes.config.config_exception"):
        if name not in sys.modules:
            stand_in = ModuleType(name)
            stand_in.ConfigException = Exception  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, name, stand_in)
    from mlflow.projects.kubernetes import _get_kubernetes_job_definition, _get_run_command

    config = _parse_kubernetes_config(json.loads((folder / "kubernetes_config.json").read_text()))
    job = _get_kubernetes_job_definition(
        project.name, "registry/massact", "sha256:1", _get_run_command([command]), {"MLFLOW_RUN_ID": "r1"},
        config["kube-job-template"],
    )  # fmt: skip
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry/massact@sha256:1"
    assert container["command"][:2] == ["massact", "evaluate"]
    assert {"name": "MLFLOW_RUN_ID", "value": "r1"} in container["env"]
    assert job["metadata"]["namespace"] == "massact"
    assert yaml.safe_load(yaml.safe_dump(job)) == job


@pytest.mark.parametrize("name", ["main", "evaluate", "search"])
def test_a_jobs_entry_points_use_options_that_there_are(name: str) -> None:
    import click

    from massact.cli.app import cli

    line = yaml.safe_load((DOCKER / "kubernetes/MLproject").read_text())["entry_points"][name]["command"]
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    known = {option for one in command.params for option in one.opts}
    assert set(re.findall(r"--[\w-]+", line)) <= known
