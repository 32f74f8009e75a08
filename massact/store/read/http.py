"""A tracking server: asked over HTTP, answering within a time limit, its refusals explained in one line."""

import math
import os
from collections.abc import Mapping
from concurrent.futures import Future
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import requests
from requests import exceptions
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from massact.addresses import shown_uri
from massact.errors import StoreError, UnusableStoreError
from massact.store.credentials import log_in
from massact.store.retry import status_passes

TIMEOUT_SECONDS = (10.0, 300.0)  # to connect, and for a whole answer: a page of 5,000 runs takes a busy server a while
_TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_LONGEST_SECONDS = 86400
_PASSING = (
    requests.ConnectionError, requests.Timeout, TimeoutError, exceptions.ChunkedEncodingError,
    exceptions.ContentDecodingError,
)  # fmt: skip
_BROKEN_OFF = "broke off its answer: see its log, try again"
_REFUSED = {
    401: "refuses the login (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    403: "forbids reading (403): ask for the right to read, or for this host name among its --allowed-hosts",
}


class TrackingServer:
    """What answers at an address under MLflow's REST API, with the login, the TLS settings and the time limit
    (MLFLOW_HTTP_REQUEST_TIMEOUT) of MLflow's own variables; see `massact.store.credentials`."""

    def __init__(self, uri: str, *, is_written_to: bool = False) -> None:
        """`is_written_to`: nothing is asked twice, and no redirect followed, which would carry a password elsewhere."""
        self._url = uri.rstrip("/")
        self._name = shown_uri(self._url)
        self._session = requests.Session()
        self._follows = not is_written_to
        # a server may close a kept connection at the moment it is used again; asking twice changes nothing
        once_more = Retry(total=None, connect=0, read=int(self._follows), status=0, other=0, allowed_methods=None)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=once_more))
        log_in(self._session)

    def ask(self, verb: str, path: str, query: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to one question of MLflow's API, such as `POST`, `runs/search`; StoreError where there is none."""
        answer = self.fetch(verb, f"api/2.0/mlflow/{path}", **{"query" if verb == "GET" else "body": query})
        try:
            content = answer.json()
        except (ValueError, RecursionError):
            content = None
        # a redirect may turn POST into GET, whose answer would be to another question
        if answer.ok and answer.request.method == verb and _is_answer(content, path):
            return dict(content)
        said = self._refusal(answer, content, path)
        is_down = status_passes(answer.status_code) or said.endswith(_BROKEN_OFF)
        raise (StoreError if is_down else UnusableStoreError)(said)

    def fetch(
        self, verb: str, path: str, *, query: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
    ) -> requests.Response:
        """Whatever the server answers in time at a path, such as `massact/v1/gaps`; StoreError else."""
        limit = _time_limit()
        connecting = min(TIMEOUT_SECONDS[0], limit)
        # `verify` unsaid, REQUESTS_CA_BUNDLE would win
        options: dict[str, Any] = {"timeout": (connecting, limit), "verify": self._session.verify}
        options["allow_redirects"] = self._follows
        answered: Future[requests.Response] = Future()

        def send() -> None:
            try:
                url = f"{self._url}/{path}"
                answered.set_result(self._session.request(verb, url, params=query, json=body, **options))
            except Exception as error:
                answered.set_exception(error)

        # requests only limits the time between two bytes, and a server may trickle for ever
        Thread(target=send, daemon=True).start()
        try:
            return answered.result(limit)
        except (OSError, ValueError) as error:  # those of requests are OSErrors
            for_good = (exceptions.SSLError, exceptions.ProxyError)
            is_down = isinstance(error, _PASSING) and not isinstance(error, for_good)
            raise (StoreError if is_down else UnusableStoreError)(
                f"the tracking server {self._name} {_unanswered(error, connecting, limit)}"
            ) from error

    def close(self) -> None:
        self._session.close()

    def _refusal(self, answer: requests.Response, content: object, path: str) -> str:
        status, codes = answer.status_code, requests.codes
        said = f"is not an MLflow server (answer {status}): check the tracking URI"
        if answer.history:
            target = urlsplit(answer.url)
            said = (
                f"leads to {target.scheme}://{target.netloc.rpartition('@')[2]}, which does not answer as an "
                f"MLflow server ({status}): check the tracking URI, it may have to be that address"
            )
        elif status in _REFUSED:
            said = _REFUSED[status]
        elif isinstance(content, dict) and "error_code" in content:
            said = f"refuses {path}: {_one_line(content.get('message'))}"
        elif status >= codes.server_error or status == codes.too_many_requests:
            said = f"fails ({status}): see its log, try again"
        elif answer.ok and content is None and answer.content.lstrip().startswith(b"{"):
            said = _BROKEN_OFF
        return f"the tracking server {self._name} {said}"


def _unanswered(error: Exception, connecting: float, limit: float) -> str:
    cause = _cause(error)
    failures: dict[type[Exception] | tuple[type[Exception], ...], str] = {
        requests.ConnectTimeout: f"does not answer within {connecting:g} s: check the address, and that it is up",
        (requests.Timeout, TimeoutError): f"gives no whole answer within {limit:g} s: try again when it is less busy, "
        f"or give it more seconds in {_TIMEOUT_VARIABLE}",
        exceptions.SSLError: f"does not speak TLS as it should ({cause}): write http:// if it has no TLS, or "
        "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of its authority",
        exceptions.ProxyError: f"is not reached through the proxy ({cause}): see HTTP_PROXY and NO_PROXY",
        exceptions.TooManyRedirects: "redirects in a circle: check the tracking URI",
        (exceptions.ChunkedEncodingError, exceptions.ContentDecodingError): _BROKEN_OFF,
        exceptions.ConnectionError: f"does not answer ({cause}): start it or pass another --tracking-uri",
        # what these say may hold the address or the login with its password
        (requests.RequestException, ValueError): f"cannot be asked ({type(error).__name__}): write "
        "http://HOST:PORT, and check the MLFLOW_TRACKING_ variables of the login",
        OSError: f"cannot be asked ({cause}): check MLFLOW_TRACKING_SERVER_CERT_PATH",
    }
    return next(text for kinds, text in failures.items() if isinstance(error, kinds))


def _time_limit() -> float:
    text = os.environ.get(_TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text or TIMEOUT_SECONDS[1])
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise UnusableStoreError(f"{_TIMEOUT_VARIABLE} is {text!r}: write a number of seconds up to {_LONGEST_SECONDS}")
    return seconds


def _is_answer(content: object, path: str) -> bool:
    """Whether it has what `experiments/search` gives, or is empty as where nothing was listed."""
    if not isinstance(content, dict):
        return False
    listed = content.get(path.partition("/")[0])
    return isinstance(listed, list) or (listed is None and content.keys() <= {"next_page_token"})


def _cause(error: BaseException) -> str:
    """The system's words at the end of a chain of errors, such as `Connection refused`."""
    said = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            said = cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return _one_line(said)


def _one_line(message: object) -> str:
    return " ".join(str(message or "no reason given").split())[:300]
