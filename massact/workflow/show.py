"""What a model said: a stored evaluation's responses, each beside the unsteered one to the same question."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from massact.domain import Response
from massact.errors import StoreError, UsageError
from massact.names import shown, visible
from massact.store.read import RunStore, open_source
from massact.store.responses import read_responses
from massact.store.schema import Artifact, EvaluationRow
from massact.store.write.artifacts import fetch_from

_NARROWEST = 24  # characters of a column at least


@dataclass(frozen=True, slots=True)
class Shown:
    """An evaluation and what was said in it."""

    run_id: str
    row: EvaluationRow
    responses: tuple[Response, ...]
    unsteered: tuple[Response, ...]  # to the same questions; empty where the baseline kept none

    def content(self) -> dict[str, Any]:
        """As JSON can hold it."""
        told = ("model", "trait", "position", "label", "layer", "coefficient", "trait_mean", "coherence_mean", "delta")
        pairs = [(response, self._unsteered(response.question)) for response in self.responses]
        return {
            "run_id": self.run_id,
            **{name: getattr(self.row, name) for name in told},
            "responses": [{"steered": asdict(a), "unsteered": b and asdict(b)} for a, b in pairs],
        }

    def text(self, most: int | None = None) -> str:
        """For a terminal: the evaluation, then all questions, or so many at most, two columns each."""
        row, width = self.row, shutil.get_terminal_size((120, 24)).columns
        figures = f"delta {_score(row.delta, '+.1f')}, coherence {_score(row.coherence_mean)}"
        lines = [
            f"{row.model}, {row.trait}: {row.label}, {row.position}, layer {row.layer}, {row.coefficient:g}",
            f"{figures}, judge {row.judge}, run {self.run_id}",
        ]
        for number, response in enumerate(self.responses[:most], 1):
            lines += ["", *textwrap.wrap(f"{number}. {visible(response.question)}", width)]
            pair = (("unsteered", self._unsteered(response.question)), ("steered", response))
            lines += columns([_told(*side) for side in pair], width)
        if most is not None and (left := len(self.responses) - most) > 0:
            lines += ["", f"{left} more: leave --limit out"]
        return "\n".join(lines) + "\n"

    def _unsteered(self, question: str) -> Response | None:
        return next((response for response in self.unsteered if response.question == question), None)


def read_row(run_id: str, tracking_uri: str) -> EvaluationRow:
    """The row of an evaluation's run; UsageError where it is none."""
    with closing(open_source(tracking_uri)) as source:
        return steered_row(RunStore(source), run_id)


def steered_row(store: RunStore, run_id: str) -> EvaluationRow:
    """The row of an evaluation's run; UsageError where it is none."""
    row = store.rows([run_id]).get(run_id)
    if row is None or row.layer is None or row.coefficient is None:
        raise UsageError(
            f"run {shown(run_id)} is no finished evaluation with a vector: massact runs and massact best --format json "
            "name those that are"
        )
    return row


def read_shown(run_id: str, tracking_uri: str) -> Shown:
    """The responses of an evaluation's run; UsageError where it is none, or kept none."""
    with closing(open_source(tracking_uri)) as source:
        store = RunStore(source)
        row = steered_row(store, run_id)
        lender = store.finished_keys(row.experiment).get(row.same_as_key or "", run_id)
        baselines = {baseline.row.key: baseline.run_id for baseline in store.baselines(row.experiment)}
        wanted = [lender, *filter(None, [baselines.get(row.baseline_key or "")])]
        runs = {run.run_id: run.artifact_uri for run in source.finished_runs(wanted, tags=())}
    said = [kept_responses(runs[id_], tracking_uri) if id_ in runs else () for id_ in wanted]
    if not said[0]:
        raise UsageError(
            f"run {run_id} kept no responses (--save-responses): the best of each group has them, or evaluate with "
            "--save-responses all"
        )
    return Shown(run_id, row, said[0], said[1] if len(said) > 1 else ())


def kept_responses(artifact_uri: str, tracking_uri: str) -> tuple[Response, ...]:
    """The responses of a run; empty where it kept none."""
    try:
        return read_responses(fetch_from(artifact_uri, Artifact.RESPONSES, tracking_uri=tracking_uri))
    except StoreError:
        return ()


def _told(name: str, response: Response | None) -> str:
    if response is None:
        return f"{name}\nnot kept"
    scores = f"{name}: trait {_score(response.trait)}, coherence {_score(response.coherence)}"
    thought = f"\n[thought: {visible(response.thinking)}]" if response.thinking else ""
    said = "\n".join(map(visible, response.response.splitlines())) or "(nothing)"
    return f"{scores}{thought}\n{said}"


def _score(value: float | None, form: str = ".1f") -> str:
    return "unscored" if value is None else format(value, form)


def columns(texts: Sequence[str], width: int) -> Iterator[str]:
    """Texts side by side, each wrapped to its share of the width."""
    room = max(_NARROWEST, (width - 3 * len(texts)) // len(texts))
    wrapped = [[part for line in text.splitlines() for part in textwrap.wrap(line, room) or [""]] for text in texts]
    for cells in zip_longest(*wrapped, fillvalue=""):
        yield "   " + " | ".join(cell.ljust(room) for cell in cells).rstrip(" |")
