"""Raw runs from a tracking server: by massact's query API where it has that, else by MLflow's own search.

The API gives what questions rank by and no more, which takes the server a hundredth of the time. Whether it is there
shows the first request to it: it costs no other."""

import math
import re
import time
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any, TypeVar

import requests

from massact.errors import StoreError
from massact.json_text import parse_object
from massact.store.read.base import (
    FAILED,
    FINISHED,
    MAX_RUN_IDS,
    WIRE_TYPE,
    RawPoints,
    RawRun,
    RunSource,
    ScoreStep,
    as_runs,
    unpack_points,
)
from massact.store.read.http import TrackingServer
from massact.store.schema import Kind, Tag, point_tag
from massact.store.schema.names import COHERENCE_SCORE, TRAIT_SCORE

_PAGE = 1000  # runs; one of an evaluation takes some 8 kB as JSON and 60 kB parsed
_EXPERIMENTS_PAGE = 1000
_HISTORY_PAGE = 25000  # the most that MLflow gives
_IDS_PER_QUERY = 100  # the server's filter parser slows down with the length of the list
T = TypeVar("T")
RAW = "massact/v1/raw"
_OURS = "X-Massact-Version"  # of the head of every answer of the API, refusals too
_BUSY = 503
_TRIES = 10
_LONGEST_PAUSE = 10.0  # seconds
RUN_ID = re.compile(r"[0-9A-Za-z_-]+")

_Run = Mapping[str, Any]  # a run as the server gives it


class RestSource(RunSource):
    """A `RunSource` over a tracking server, by the query API where the server has it."""

    notes: tuple[str, ...] = ()

    def __init__(self, uri: str) -> None:
        self._server = TrackingServer(uri)
        self._scores: dict[str, str | None] = {}
        self._has_api = True  # until an answer shows that it has not
        self._experiments()

    def answer(self, asked: Mapping[str, Any]) -> bytes | None:
        """A server's own answer to a question (`massact.query.question`); `None` where it has none."""
        return self._ask("answer", asked, bytes)

    def runs(self, experiment: str, *, kind: Kind | None, statuses: Sequence[str], tags: Sequence[str]) -> list[RawRun]:
        if kind is not None:
            asked = {"experiment": experiment, "kind": kind.value, "statuses": list(statuses), "tags": list(tags)}
            runs = self._ask("runs", asked, lambda data: as_runs(parse_object(data)["runs"]))
            if runs is not None:
                return runs
        return self._search_runs(experiment, kind, statuses, tags)

    def pages(self, experiment: str, kinds: Collection[str], *, tags: Sequence[str]) -> Iterator[list[RawRun]]:
        runs = self._of_experiment(experiment, FINISHED)
        meant = (_raw_run(run, tags) for run in runs if _tags_of(run)[Tag.KIND] in kinds)
        while page := list(islice(meant, _PAGE)):
            yield page

    def last_child_ends(self, run_ids: Collection[str]) -> dict[str, int]:
        ends = {}
        for run_id in filter(RUN_ID.fullmatch, run_ids):
            query = f"tags.`{Tag.PARENT}` = '{run_id}' AND attributes.end_time > 0"
            for run in self._first(query, order_by=["attributes.end_time DESC"]):
                ends[run_id] = int(run["info"]["end_time"])
        return ends

    def experiment_tags(self, prefix: str) -> list[dict[str, str]]:
        tags = [
            {tag["key"]: tag.get("value", "") for tag in home.get("tags", ()) if tag["key"].startswith(prefix)}
            for home in self._experiments()
        ]
        return [named for named in tags if named]

    def experiments(self) -> list[str]:
        """A run of each that is not known yet is asked for."""
        tag = f"tags.`{Tag.EXPERIMENT}`"
        known: list[str] = []
        while True:
            others = [f"{tag} != '{name}'" for name in known]
            runs = self._first(" AND ".join([f"{tag} LIKE '%'", *others]))
            names = {_tags_of(run).get(Tag.EXPERIMENT, "") for run in runs} - {"", *known}
            known += names
            if not names or any("'" in name for name in names):  # which no filter can leave out
                return known

    def points(self, experiment: str) -> RawPoints:
        points = self._ask("points", {"experiment": experiment}, unpack_points)
        return self._search_points(experiment) if points is None else points

    def _search_points(self, experiment: str) -> RawPoints:
        """The server serialises every param, metric and tag of every run: that is what takes the time."""
        wanted, points = point_tag(experiment), RawPoints([], [], [], 0)
        homes: set[str] = set()
        self._scores = {}
        # the kind is looked at here: for each page the server would go through all its tags once more
        for run in self._of_experiment(experiment, FINISHED):
            tags = _tags_of(run)
            if tags[Tag.KIND] != Kind.EVALUATION:
                continue
            raw = _raw_run(run, () if wanted in tags else (Tag.ROW,))
            # they came along, and would take as long to ask for
            self._scores[raw.run_id] = tags.get(Tag.SCORES)
            homes.add(str(run["info"]["experiment_id"]))
            if wanted in tags:
                points.tagged.append((raw.run_id, raw.finished_at, tags[wanted]))
            else:
                points.others.append(raw)
        no_kind = f"attributes.status = '{FINISHED}' AND tags.`{Tag.KIND}` IS NULL"
        n_foreign = sum(1 for _ in self._search(no_kind, sorted(homes))) if homes else 0
        failed = self._search_runs(experiment, Kind.EVALUATION, (FAILED,), (Tag.ROW, Tag.ERROR, Tag.KEY))
        return replace(points, failed=failed, n_foreign=n_foreign)

    def finished_runs(self, run_ids: Sequence[str], *, tags: Sequence[str]) -> list[RawRun]:
        told = self._ask_about("finished", run_ids, lambda values: as_runs(values["runs"]), tags=list(tags))
        if told is not None:
            return list(chain.from_iterable(told))
        runs = []
        for chunk in chunks(run_ids, _IDS_PER_QUERY):
            ids = ", ".join(f"'{run_id}'" for run_id in chunk)
            query = f"attributes.run_id IN ({ids}) AND attributes.status = '{FINISHED}'"
            runs += [_raw_run(run, tags) for run in self._search(query)]
        return runs

    def finished_values(self, run_ids: Sequence[str], tag: str) -> dict[str, str]:
        """Scores that were read with the points are still known."""
        told = None if self._scores else self._ask_about("values", run_ids, lambda data: dict(data["values"]), tag=tag)
        if told is not None:
            return dict(ChainMap(*told))
        known = self._scores if tag == Tag.SCORES else {}
        runs = self.finished_runs([run_id for run_id in run_ids if run_id not in known], tags=(tag,))
        values = {run.run_id: run.tags[tag] for run in runs if tag in run.tags}
        return values | {run_id: text for run_id in run_ids if (text := known.get(run_id)) is not None}

    def score_steps(self, run_ids: Sequence[str]) -> dict[str, list[ScoreStep]]:
        def read(answer: Mapping[str, Any]) -> dict[str, list[ScoreStep]]:
            return {run_id: [ScoreStep(*step) for step in steps] for run_id, steps in answer["steps"].items()}

        told = self._ask_about("steps", run_ids, read)
        if told is not None:
            return {run_id: [] for run_id in run_ids} | dict(ChainMap(*told))
        metrics = (TRAIT_SCORE, COHERENCE_SCORE)
        return {run_id: [step for metric in metrics for step in self._steps(run_id, metric)] for run_id in run_ids}

    def close(self) -> None:
        self._server.close()

    def _search_runs(
        self, experiment: str, kind: Kind | None, statuses: Sequence[str], tags: Sequence[str]
    ) -> list[RawRun]:
        runs = (run for status in statuses or ("",) for run in self._of_experiment(experiment, status, kind))
        return [_raw_run(run, tags) for run in runs]

    def _experiments(self) -> list[Mapping[str, Any]]:
        body = {"max_results": _EXPERIMENTS_PAGE, "view_type": "ACTIVE_ONLY"}
        pages = self._pages("POST", "experiments/search", body)
        return [home for page in pages for home in page.get("experiments", ())]

    def _of_experiment(self, experiment: str, status: str, kind: Kind | None = None) -> Iterator[_Run]:
        """The runs of ours of an experiment; empty `status` means any."""
        conditions = [f"tags.`{Tag.KIND}` = '{kind.value}'"] if kind else []
        # a name with a quote cannot be put in a filter, and MySQL ignores case
        conditions += [] if "'" in experiment else [f"tags.`{Tag.EXPERIMENT}` = '{experiment}'"]
        conditions += [f"attributes.status = '{status}'"] if status else []
        for run in self._search(" AND ".join(conditions)):
            tags = _tags_of(run)
            if tags.get(Tag.EXPERIMENT) == experiment and Tag.KIND in tags:
                yield run

    def _search(self, query: str, homes: Sequence[str] | None = None) -> Iterator[_Run]:
        """Runs that a filter admits, page by page: a hundred thousand whole ones would not fit in memory."""
        # a run that ends while pages are read shifts the rest, so one may come twice
        seen: set[str] = set()
        for page in self._pages("POST", "runs/search", self._body(query, homes, max_results=_PAGE)):
            for run in page.get("runs", ()):
                if run["info"]["run_id"] not in seen:
                    seen.add(run["info"]["run_id"])
                    yield run

    def _first(self, query: str, **options: Any) -> Sequence[_Run]:
        """The first run that a filter admits, if there is one."""
        body = self._body(query, None, max_results=1, **options)
        if not body["experiment_ids"]:
            return ()
        runs: Sequence[_Run] = self._server.ask("POST", "runs/search", body).get("runs", ())
        return runs

    def _body(self, query: str, homes: Sequence[str] | None, **options: Any) -> Mapping[str, Any]:
        homes = [home["experiment_id"] for home in self._experiments()] if homes is None else homes
        return {"experiment_ids": homes, "filter": query, "run_view_type": "ACTIVE_ONLY", **options}

    def _steps(self, run_id: str, metric: str) -> list[ScoreStep]:
        query = {"run_id": run_id, "metric_key": metric, "max_results": _HISTORY_PAGE}
        pages = self._pages("GET", "metrics/get-history", query)
        # NaN and the infinities come as text, an infinity of MLflow's database as 1.8e308
        values = sorted(
            (int(entry.get("timestamp", 0)), value, int(entry.get("step", 0)))
            for page in pages
            for entry in page.get("metrics", ())
            if math.isfinite(value := float(entry["value"])) and abs(value) <= 1e300
        )
        newest = {step: value for _, value, step in values}
        return [ScoreStep(metric, step, value) for step, value in newest.items()]

    def _pages(self, verb: str, path: str, query: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        token: str | None = None
        while token is None or token:
            page = self._server.ask(verb, path, {**query, "page_token": token} if token else query)
            yield page
            token = page.get("next_page_token", "")

    def _ask(self, name: str, asked: Mapping[str, Any], unpack: Callable[[bytes], T]) -> T | None:
        """The answer; `None` where MLflow's own search is to be asked, which says what is wrong, if anything is."""
        for _ in range(_TRIES if self._has_api else 0):
            answer = self._server.fetch("POST", f"{RAW}/{name}", body=asked)
            if _OURS not in answer.headers:
                self._has_api = False
                return None
            if answer.status_code != _BUSY:
                is_answer = answer.ok and answer.headers.get("Content-Type") == WIRE_TYPE
                return _unpacked(unpack, answer.content) if is_answer else None
            seconds = answer.headers.get("Retry-After", "")
            time.sleep(min(float(seconds), _LONGEST_PAUSE) if seconds.isdigit() else 1.0)
        if not self._has_api:
            return None
        raise StoreError(f"the tracking server has no time for this: {_detail(answer)}")

    def _ask_about(
        self, name: str, run_ids: Sequence[str], unpack: Callable[[Mapping[str, Any]], T], **more: Any
    ) -> list[T] | None:
        """The answers about some runs, many at a time; `None` as of `_ask`."""
        asked = ({"run_ids": ids, **more} for ids in chunks(run_ids, MAX_RUN_IDS))
        told = [self._ask(name, body, lambda data: unpack(parse_object(data))) for body in asked]
        known = [answer for answer in told if answer is not None]
        return known if len(known) == len(told) else None


def chunks(run_ids: Sequence[str], size: int) -> Iterator[list[str]]:
    """Ids in lists of a size; without those that no run can have."""
    sound = [run_id for run_id in run_ids if RUN_ID.fullmatch(run_id)]
    for start in range(0, len(sound), size):
        yield sound[start : start + size]


def _tags_of(run: _Run) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in run.get("data", {}).get("tags", ())}


def _raw_run(run: _Run, tags: Sequence[str]) -> RawRun:
    info, values = run["info"], _tags_of(run)
    present = {str(key): values[key] for key in tags if key in values}
    # JSON made from protobuf writes 64-bit integers as text
    started_at, finished_at = (
        None if info.get(name) is None else int(info[name]) for name in ("start_time", "end_time")
    )
    place = str(info.get("artifact_uri", ""))
    return RawRun(info["run_id"], info["status"], started_at, finished_at, present, place)


def _detail(answer: requests.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"it answers {answer.status_code}"


def _unpacked(unpack: Callable[[bytes], T], data: bytes) -> T:
    try:
        return unpack(data)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        problem = str(error)
    raise StoreError(f"the tracking server's answer is damaged ({problem}): try again")
