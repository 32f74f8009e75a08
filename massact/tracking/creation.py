"""Making a run so that it is made once: a request whose answer was lost is not made again unseen."""

import time
from collections.abc import Mapping
from typing import Any

from massact.addresses import shown_uri
from massact.errors import StoreError
from massact.schema import MlflowTag, Tag

_PLACE = "/api/2.0/mlflow/runs/create"


def request_run(
    tracking_uri: str, experiment_id: str, *, name: str, started_at: int, tags: Mapping[str, str]
) -> tuple[str, str]:
    """Make a run on a tracking server by one request. Returns its id and artifact URI.

    MLflow's client would ask again after a time-out or an error 500, and so make a second run; here
    the caller looks what is there first.
    """
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    body = {
        "experiment_id": experiment_id,
        "user_id": tags.get(MlflowTag.USER, "unknown"),
        "start_time": started_at,
        "run_name": name,
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
    }
    credentials = get_default_host_creds(tracking_uri)  # type: ignore[no-untyped-call]
    answer = http_request(credentials, _PLACE, "POST", max_retries=0, json=body)  # type: ignore[no-untyped-call]
    made = verify_rest_response(answer, _PLACE).json()
    try:
        return str(made["run"]["info"]["run_id"]), str(made["run"]["info"]["artifact_uri"])
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"tracking store {shown_uri(tracking_uri)} answers, but not as MLflow does"
        ) from error


class Creation:
    """One run that is to be made: `make` asks for it, `find` looks whether an earlier `make` did it."""

    def __init__(
        self, client: Any, tracking_uri: str, experiment_id: str, *, name: str, tags: Mapping[str, str]
    ) -> None:
        self._client, self._uri, self._experiment_id = client, tracking_uri, experiment_id
        self._name, self._tags = name, dict(tags)
        self._started_at = int(time.time() * 1000)

    def make(self) -> tuple[str, str]:
        """Make the run. Returns its id and artifact URI."""
        about = {"name": self._name, "started_at": self._started_at, "tags": self._tags}
        if self._uri.strip().lower().startswith(("http://", "https://")):
            return request_run(self._uri.strip(), self._experiment_id, **about)  # type: ignore[arg-type]  # as above
        made = self._client.create_run(
            self._experiment_id, start_time=self._started_at, tags=self._tags, run_name=self._name
        )
        return str(made.info.run_id), str(made.info.artifact_uri)

    def find(self) -> tuple[str, str] | None:
        """The run, if it is there: a process makes no two of one name in one millisecond."""
        found = self._client.search_runs(
            [self._experiment_id],
            filter_string=f"attributes.start_time = {self._started_at}",
            max_results=1000,
        )
        for run in found:
            tags = run.data.tags
            if run.info.run_name == self._name and tags.get(Tag.PROCESS) == self._tags.get(Tag.PROCESS.value):
                return str(run.info.run_id), str(run.info.artifact_uri)
        return None
