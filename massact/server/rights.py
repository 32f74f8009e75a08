"""Which MLflow experiments whoever asks may read: MLflow is asked, in this process, in their name.

Its answer to `experiments/search` is what its own permissions leave, whatever authorises here: the basic-auth app,
a plugin of it, or nobody. Nothing is kept from one request to the next, so a changed permission counts at once.
"""

import json
from collections.abc import Iterator

from flask import Flask, Request
from mlflow.server.handlers import _add_static_prefix
from werkzeug.test import Client

from massact.server.problems import FAILED, ProblemError, kind_of_status

_PAGE = 1000
_NOT_PASSED_ON = frozenset(
    # of the body that is not passed on; and the origin, which was checked when the request came in
    (
        "Content-Length",
        "Content-Type",
        "Transfer-Encoding",
        "Accept-Encoding",
        "Origin",
        "Referer",
        "Connection",
    )
)


def readable_experiments(app: Flask, request: Request) -> list[int]:
    """The ids of the MLflow experiments, not deleted, that the sender of a request may read.

    Raises:
        ProblemError: MLflow refuses the login, or does not answer.
    """
    return sorted({int(one["experiment_id"]) for page in _pages(app, request) for one in page})


def _pages(app: Flask, request: Request) -> Iterator[list[dict[str, str]]]:
    client = Client(app.wsgi_app, use_cookies=False)
    headers = [(name, value) for name, value in request.headers if name not in _NOT_PASSED_ON]
    token = ""
    while True:
        body = {"max_results": _PAGE, "view_type": "ACTIVE_ONLY"} | ({"page_token": token} if token else {})
        answer = client.open(
            _add_static_prefix("/api/2.0/mlflow/experiments/search"),
            method="POST",
            json=body,
            headers=headers,
            environ_base={"REMOTE_ADDR": request.remote_addr or ""},
        )
        if answer.status_code != 200:
            kind = kind_of_status(answer.status_code) if 400 <= answer.status_code < 500 else FAILED
            raise ProblemError(kind, "MLflow does not say which experiments may be read")
        page = json.loads(answer.get_data())
        yield page.get("experiments", [])
        token = page.get("next_page_token", "")
        if not token:
            return
