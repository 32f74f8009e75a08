"""Raw runs over MLflow's REST API, from a tracking server."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests

from massact.errors import StoreError
from massact.schema import COHERENCE_SCORE, TRAIT_SCORE, Kind, Tag
from massact.store.base import FINISHED, RawRun, ScoreStep

TIMEOUT_SECONDS = (10.0, 300.0)
"""To connect, and between two bytes of an answer: a page of 5,000 runs takes a busy server a while."""
_PAGE = 5000  # runs; an evaluation's params, metrics and row come to some 6 kB, so a page is some 30 MB
_EXPERIMENTS_PAGE = 1000
_HISTORY_PAGE = 25000  # the most that MLflow gives
_IDS_PER_QUERY = 100  # the server's filter parser slows down with the length of the list
_RUN_ID = re.compile(r"[0-9A-Za-z_-]+")


class RestSource:
    """A `RunSource` over a tracking server.

    Honours MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or else MLFLOW_TRACKING_TOKEN; and
    MLFLOW_TRACKING_SERVER_CERT_PATH and MLFLOW_TRACKING_INSECURE_TLS, as MLflow's own client does.

    Raises:
        StoreError: the server does not answer, refuses the login, or is not MLflow's.
    """

    def __init__(self, uri: str) -> None:
        self._url = uri.rstrip("/")
        self._name = re.sub(r"//[^/@]*@", "//", self._url)  # without a password
        self._session = requests.Session()
        self._log_in()
        self._experiment_ids()

    def runs(
        self, experiment: str, *, kind: Kind, statuses: Sequence[str], tags: Sequence[str]
    ) -> list[RawRun]:
        """The runs of a kind; empty `statuses` means any."""
        conditions = [f"tags.`{Tag.KIND}` = '{kind.value}'"]
        if "'" not in experiment:
            conditions.append(f"tags.`{Tag.EXPERIMENT}` = '{experiment}'")
        if len(statuses) == 1:
            conditions.append(f"attributes.status = '{statuses[0]}'")
        # once more here: a name with a quote cannot be put in a filter, and MySQL ignores case
        return [
            _raw_run(run, tags)
            for run in self._search(" AND ".join(conditions))
            if _tags_of(run).get(Tag.EXPERIMENT) == experiment
            and (not statuses or run["info"]["status"] in statuses)
        ]

    def finished_runs(self, run_ids: Sequence[str], *, tags: Sequence[str]) -> list[RawRun]:
        """Those of the runs that are finished."""
        found = []
        sound = [run_id for run_id in run_ids if _RUN_ID.fullmatch(run_id)]  # no other can exist
        for start in range(0, len(sound), _IDS_PER_QUERY):
            chunk = ", ".join(f"'{run_id}'" for run_id in sound[start : start + _IDS_PER_QUERY])
            query = f"attributes.run_id IN ({chunk}) AND attributes.status = '{FINISHED}'"
            found += [_raw_run(run, tags) for run in self._search(query)]
        return found

    def score_steps(self, run_ids: Sequence[str]) -> dict[str, list[ScoreStep]]:
        """The per-question metrics of runs, NaN and infinite ones left out; a step's newest value counts."""
        return {
            run_id: [
                step for metric in (TRAIT_SCORE, COHERENCE_SCORE) for step in self._steps(run_id, metric)
            ]
            for run_id in run_ids
        }

    def close(self) -> None:
        """Let go of connections."""
        self._session.close()

    def _log_in(self) -> None:
        username, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        if username and password:
            self._session.auth = (username, password)
        elif token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        is_insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
        self._session.verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not is_insecure

    def _experiment_ids(self) -> list[str]:
        body = {"max_results": _EXPERIMENTS_PAGE, "view_type": "ACTIVE_ONLY"}
        pages = self._pages("POST", "experiments/search", body)
        return [one["experiment_id"] for page in pages for one in page.get("experiments", ())]

    def _search(self, query: str) -> list[Mapping[str, Any]]:
        body = {
            "experiment_ids": self._experiment_ids(),
            "filter": query,
            "run_view_type": "ACTIVE_ONLY",
            "max_results": _PAGE,
        }
        # a run that ends while pages are read shifts the rest, so one may come twice
        pages = self._pages("POST", "runs/search", body)
        return list({run["info"]["run_id"]: run for page in pages for run in page.get("runs", ())}.values())

    def _steps(self, run_id: str, metric: str) -> list[ScoreStep]:
        query = {"run_id": run_id, "metric_key": metric, "max_results": _HISTORY_PAGE}
        pages = self._pages("GET", "metrics/get-history", query)
        found = [_metric_value(one) for page in pages for one in page.get("metrics", ())]
        newest = {step: value for _, value, step in sorted(one for one in found if math.isfinite(one[1]))}
        return [ScoreStep(metric, step, value) for step, value in newest.items()]

    def _pages(self, verb: str, path: str, query: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        token = ""
        while True:
            asked = {**query, "page_token": token} if token else query
            page = self._ask(verb, path, asked)
            yield page
            token = page.get("next_page_token", "")
            if not token:
                return

    def _ask(self, verb: str, path: str, query: Mapping[str, Any]) -> Mapping[str, Any]:
        is_get = verb == "GET"
        try:
            answer = self._session.request(
                verb,
                f"{self._url}/api/2.0/mlflow/{path}",
                params=query if is_get else None,
                json=None if is_get else query,
                timeout=TIMEOUT_SECONDS,
            )
        except requests.RequestException as error:
            raise StoreError(
                f"the tracking server {self._name} does not answer ({type(error).__name__}): "
                "start it or pass another --tracking-uri"
            ) from error
        return self._read(answer, path)

    def _read(self, answer: requests.Response, path: str) -> Mapping[str, Any]:
        if answer.status_code in (401, 403):
            raise StoreError(
                f"the tracking server {self._name} refuses the login ({answer.status_code}): set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.ok and isinstance(content, dict):
            return content
        if isinstance(content, dict) and "error_code" in content:
            raise StoreError(
                f"the tracking server {self._name} refuses {path}: {_one_line(content.get('message'))}"
            )
        if answer.status_code >= 500:
            raise StoreError(
                f"the tracking server {self._name} fails ({answer.status_code}): see its log, try again"
            )
        raise StoreError(
            f"{self._name} is not an MLflow server (answer {answer.status_code}): check the tracking URI"
        )


def _one_line(message: object) -> str:
    return " ".join(str(message or "no reason given").split())[:300]


def _tags_of(run: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in run.get("data", {}).get("tags", ())}


def _raw_run(run: Mapping[str, Any], tags: Sequence[str]) -> RawRun:
    info, values = run["info"], _tags_of(run)
    present = {str(key): values[key] for key in tags if key in values}
    started_at, finished_at = (_milliseconds(info.get(name)) for name in ("start_time", "end_time"))
    return RawRun(info["run_id"], info["status"], started_at, finished_at, present)


def _milliseconds(value: int | str | None) -> int | None:
    # JSON made from protobuf writes 64-bit integers as text
    return None if value is None else int(value)


def _metric_value(metric: Mapping[str, Any]) -> tuple[int, float, int]:
    """Timestamp, value and step; NaN and the infinities come as text."""
    value = float(metric["value"])
    if abs(value) > 1e300:  # how MLflow's database keeps an infinity
        value = math.inf
    return int(metric.get("timestamp", 0)), value, int(metric.get("step", 0))
