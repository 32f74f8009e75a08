"""Raw runs over MLflow's REST API, from a tracking server."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from massact.store.read.base import FAILED, FINISHED, UNENDED, RawPoints, RawRun, ScoreStep
from massact.store.read.http import TrackingServer
from massact.store.schema import COHERENCE_SCORE, TRAIT_SCORE, Kind, Tag, point_tag

_PAGE = 1000  # runs; one of an evaluation takes some 8 kB as JSON and 60 kB parsed
_MANY = 1000  # runs that are read side by side
_AT_ONCE = 4  # pages; as many as a server has workers unless it is told otherwise
_EXPERIMENTS_PAGE = 1000
_HISTORY_PAGE = 25000  # the most that MLflow gives
_IDS_PER_QUERY = 100  # the server's filter parser slows down with the length of the list
_Taken = tuple[RawRun, str | None, str | None, str]
"""A run, the texts of its point and of its scores, and its MLflow experiment."""
RUN_ID = re.compile(r"[0-9A-Za-z_-]+")


class RestSource:
    """A `RunSource` over a tracking server.

    The login and the time limit come from MLflow's own variables: see `TrackingServer`.

    Raises:
        StoreError: the server does not answer, refuses the login, or is not MLflow's.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, uri: str) -> None:
        self._server = TrackingServer(uri)
        self._scores: dict[str, str | None] = {}
        self._experiment_ids()

    def runs(
        self, experiment: str, *, kind: Kind, statuses: Sequence[str], tags: Sequence[str]
    ) -> list[RawRun]:
        """The runs of a kind; empty `statuses` means any."""
        query, is_meant = _of_kind(experiment, kind, statuses)
        return [_raw_run(run, tags) for run in self._search(query) if is_meant(run)]

    def stream(self, experiment: str, kind: Kind, *, tags: Sequence[str]) -> Iterator[RawRun]:
        """The finished runs of a kind, superseded ones too, in constant memory and no order."""
        query, is_meant = _of_kind(experiment, kind, (FINISHED,))
        return (_raw_run(run, tags) for run in self._search(query) if is_meant(run))

    def pages(
        self, experiment: str, kinds: Collection[str], *, tags: Sequence[str]
    ) -> Iterator[list[RawRun]]:
        """The finished runs of some kinds, superseded ones too, a page at a time, in constant memory."""
        query, is_meant = _of_experiment(experiment, (FINISHED,))
        meant = (run for run in self._search(query) if is_meant(run) and _tags_of(run)[Tag.KIND] in kinds)
        while page := [_raw_run(run, tags) for run in islice(meant, _PAGE)]:
            yield page

    def unended(self, experiment: str, *, tags: Sequence[str]) -> list[RawRun]:
        """The runs of any kind that have no end: at work, or left by a process that died."""
        found = []
        for status in UNENDED:
            query, is_meant = _of_experiment(experiment, (status,))
            found += [_raw_run(run, tags) for run in self._search(query) if is_meant(run)]
        return found

    def last_child_ends(self, run_ids: Collection[str]) -> dict[str, int]:
        """When the last of a run's children ended (ms since 1970); absent where none has."""
        found = {}
        for run_id in filter(RUN_ID.fullmatch, run_ids):
            query = f"tags.`{Tag.PARENT}` = '{run_id}' AND attributes.end_time > 0"
            body = {
                "experiment_ids": self._experiment_ids(),
                "filter": query,
                "max_results": 1,
                "order_by": ["attributes.end_time DESC"],
            }
            for run in self._server.ask("POST", "runs/search", body).get("runs", ()):
                found[run_id] = int(run["info"]["end_time"])
        return found

    def experiment_tags(self, prefix: str) -> list[dict[str, str]]:
        """Of each MLflow experiment that has such, its tags whose keys begin with a prefix."""
        tags = [
            {tag["key"]: tag.get("value", "") for tag in one.get("tags", ()) if tag["key"].startswith(prefix)}
            for one in self._experiments()
        ]
        return [one for one in tags if one]

    def experiments(self) -> list[str]:
        """The names of the experiments that there are runs of, in no order: a run of each that is not known yet."""
        tag, homes = f"tags.`{Tag.EXPERIMENT}`", self._experiment_ids()
        found: list[str] = []
        while True:
            others = [f"{tag} != '{name}'" for name in found]
            body = {
                "experiment_ids": homes,
                "filter": " AND ".join([f"{tag} LIKE '%'", *others]),
                "run_view_type": "ACTIVE_ONLY",
                "max_results": 1,
            }
            runs = self._server.ask("POST", "runs/search", body).get("runs", ()) if homes else ()
            names = {_tags_of(run).get(Tag.EXPERIMENT, "") for run in runs} - {"", *found}
            found += names
            if not names or any("'" in name for name in names):  # which no filter can leave out
                return found

    def points(self, experiment: str) -> RawPoints:
        """The evaluations of an experiment: of the finished ones no more than their points.

        The server serialises every param, metric and tag of every run: that is what takes the time.
        Several requests at once keep all its workers at it.
        """
        wanted = point_tag(experiment)
        tagged, others, homes, scores = [], [], set(), {}

        def take(run: Mapping[str, Any]) -> _Taken:
            own = _tags_of(run)
            raw = _raw_run(run, () if wanted in own else (Tag.ROW,))
            return raw, own.get(wanted), own.get(Tag.SCORES), str(run["info"]["experiment_id"])

        for raw, text, given, home in self._collect(experiment, take):
            scores[raw.run_id] = given  # they came along, and would take as long as the rest to ask for
            homes.add(home)
            if text is None:
                others.append(raw)
            else:
                tagged.append((raw.run_id, raw.finished_at, text))
        self._scores = scores
        n_foreign = self._count_foreign(sorted(homes)) if homes else 0
        failed = self.runs(
            experiment, kind=Kind.EVALUATION, statuses=(FAILED,), tags=(Tag.ROW, Tag.ERROR, Tag.KEY)
        )
        return RawPoints(tagged, others, failed, n_foreign)

    def _collect(self, experiment: str, take: Callable[[Mapping[str, Any]], _Taken]) -> Iterable[_Taken]:
        """What is taken of each finished evaluation; many are read in parts, side by side.

        MLflow makes run ids of hexadecimal digits, at random: sixteen parts of one size, and of the 256th
        part a look tells whether they are many. The kind is looked at here: for each page the server would
        go through all its tags once more.
        """
        query, is_meant = _of_experiment(experiment, (FINISHED,))
        experiments = self._experiment_ids()

        def read(start: str) -> dict[str, _Taken]:
            condition = f"attributes.run_id LIKE '{start}%'" if start else ""
            found = self._search(" AND ".join(filter(None, (query, condition))), experiments)
            meant = (run for run in found if is_meant(run) and _tags_of(run)[Tag.KIND] == Kind.EVALUATION)
            return {run["info"]["run_id"]: take(run) for run in meant}

        if len(read("00")) < _MANY / 256:
            return read("").values()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            parts = list(pool.map(read, "0123456789abcdef"))
        return [taken for part in parts for taken in part.values()]

    def _count_foreign(self, mlflow_experiments: Sequence[str]) -> int:
        query = f"attributes.status = '{FINISHED}' AND tags.`{Tag.KIND}` IS NULL"
        return sum(1 for _ in self._search(query, mlflow_experiments))

    def finished_runs(self, run_ids: Sequence[str], *, tags: Sequence[str]) -> list[RawRun]:
        """Those of the runs that are finished."""
        found = []
        sound = [run_id for run_id in run_ids if RUN_ID.fullmatch(run_id)]  # no other can exist
        for start in range(0, len(sound), _IDS_PER_QUERY):
            chunk = ", ".join(f"'{run_id}'" for run_id in sound[start : start + _IDS_PER_QUERY])
            query = f"attributes.run_id IN ({chunk}) AND attributes.status = '{FINISHED}'"
            found += [_raw_run(run, tags) for run in self._search(query)]
        return found

    def finished_values(self, run_ids: Sequence[str], tag: str) -> dict[str, str]:
        """One tag of those of the runs that are finished and have it; scores read with the points are still known."""
        known = self._scores if tag == Tag.SCORES else {}
        found = self.finished_runs([one for one in run_ids if one not in known], tags=(tag,))
        values = {run.run_id: run.tags[tag] for run in found if tag in run.tags}
        return values | {one: text for one in run_ids if (text := known.get(one)) is not None}

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
        self._server.close()

    def _experiment_ids(self) -> list[str]:
        return [one["experiment_id"] for one in self._experiments()]

    def _experiments(self) -> list[Mapping[str, Any]]:
        body = {"max_results": _EXPERIMENTS_PAGE, "view_type": "ACTIVE_ONLY"}
        pages = self._pages("POST", "experiments/search", body)
        return [one for page in pages for one in page.get("experiments", ())]

    def _search(
        self, query: str, experiments: Sequence[str] | None = None, n_pages: int | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """Runs that a filter admits, page by page: a hundred thousand whole ones would not fit in memory."""
        body = {
            "experiment_ids": self._experiment_ids() if experiments is None else experiments,
            "filter": query,
            "run_view_type": "ACTIVE_ONLY",
            "max_results": _PAGE,
        }
        # a run that ends while pages are read shifts the rest, so one may come twice
        seen: set[str] = set()
        for page in islice(self._pages("POST", "runs/search", body), n_pages):
            for run in page.get("runs", ()):
                if run["info"]["run_id"] not in seen:
                    seen.add(run["info"]["run_id"])
                    yield run

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
            page = self._server.ask(verb, path, asked)
            yield page
            token = page.get("next_page_token", "")
            if not token:
                return


def _of_kind(
    experiment: str, kind: Kind, statuses: Sequence[str]
) -> tuple[str, Callable[[Mapping[str, Any]], bool]]:
    """A filter for the server, and what it cannot say: whether a run that it gave is meant."""
    query, is_meant = _of_experiment(experiment, statuses)
    return f"tags.`{Tag.KIND}` = '{kind.value}'" + (f" AND {query}" if query else ""), is_meant


def _of_experiment(
    experiment: str, statuses: Sequence[str]
) -> tuple[str, Callable[[Mapping[str, Any]], bool]]:
    """The same for runs of any kind of ours."""
    conditions = []
    if "'" not in experiment:
        conditions.append(f"tags.`{Tag.EXPERIMENT}` = '{experiment}'")
    if len(statuses) == 1:
        conditions.append(f"attributes.status = '{statuses[0]}'")

    def is_meant(run: Mapping[str, Any]) -> bool:
        # a name with a quote cannot be put in a filter, and MySQL ignores case
        own = _tags_of(run)
        of_experiment = own.get(Tag.EXPERIMENT) == experiment and Tag.KIND in own
        return of_experiment and (not statuses or run["info"]["status"] in statuses)

    return " AND ".join(conditions), is_meant


def _tags_of(run: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in run.get("data", {}).get("tags", ())}


def _raw_run(run: Mapping[str, Any], tags: Sequence[str]) -> RawRun:
    info, values = run["info"], _tags_of(run)
    present = {str(key): values[key] for key in tags if key in values}
    started_at, finished_at = (_milliseconds(info.get(name)) for name in ("start_time", "end_time"))
    place = str(info.get("artifact_uri", ""))
    return RawRun(info["run_id"], info["status"], started_at, finished_at, present, place)


def _milliseconds(value: int | str | None) -> int | None:
    # JSON made from protobuf writes 64-bit integers as text
    return None if value is None else int(value)


def _metric_value(metric: Mapping[str, Any]) -> tuple[int, float, int]:
    """Timestamp, value and step; NaN and the infinities come as text."""
    value = float(metric["value"])
    if abs(value) > 1e300:  # how MLflow's database keeps an infinity
        value = math.inf
    return int(metric.get("timestamp", 0)), value, int(metric.get("step", 0))
