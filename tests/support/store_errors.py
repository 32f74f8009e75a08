"""Asking a question of a run store that cannot answer, as the whole command that a person types."""

from pathlib import Path

from click.testing import CliRunner, Result

from massact.cli.app import cli

TOY = Path(__file__).resolve().parents[2] / "experiments" / "toy.yaml"


def gaps(uri: str, *options: str) -> Result:
    """`massact gaps` on a tracking URI, which may hold a password: so from the environment."""
    environment = {"MLFLOW_TRACKING_URI": uri}
    return CliRunner().invoke(cli, ["gaps", "--experiment", str(TOY), *options], env=environment)


def refusal(uri: str) -> str:
    """The one line that the command ends with, after its `error: `. A password is `secret` in these tests."""
    result = gaps(uri)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "secret" not in line
    assert len(line) < 600
    return line.removeprefix("error: ")
