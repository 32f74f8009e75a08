"""What a command prints and what a server refuses, for the tests of the query API."""

import re
from typing import Any

import requests
from click.testing import CliRunner

from massact.cli.app import cli
from massact.server.processes import ABOUT, PROBLEM_TYPE
from tests.support.query_api import command_line
from tests.support.store_fixtures import EXPERIMENT


def printed(uri: str, question: str, given: dict[str, Any]) -> str:
    """What the command prints as JSON, but for the store, which a server does not name."""
    line = [*command_line(question, given), "--experiment", EXPERIMENT, "--tracking-uri", uri, "--format", "json"]
    result = CliRunner().invoke(cli, line)
    assert result.exit_code in (0, 1), result.output
    return re.sub(r'(?m)^  "store": ".*",$', '  "store": null,', result.stdout)


def problem(response: requests.Response) -> tuple[int, str, str]:
    """The status, the kind and the detail of a refusal."""
    assert response.headers["Content-Type"] == PROBLEM_TYPE
    content = response.json()
    assert set(content) == {"type", "title", "status", "detail"}
    assert content["status"] == response.status_code
    return response.status_code, content["type"].removeprefix(ABOUT), content["detail"]
