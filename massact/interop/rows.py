"""A line as a row and a run of the store: of our own export with the whole row in it, or of trait-interp's.

An imported row's key, its setting and the digest of its content are made here.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from massact.domain import COMPONENT, Response
from massact.errors import UsageError
from massact.interop.lines import OWN, LineError, ResultLine, Vector
from massact.interop.names import Context
from massact.json_text import parse_object
from massact.keys import canonical_json, cell_json, digest, digest_text
from massact.labels import parse_label
from massact.store.responses import response_bytes
from massact.store.schema import TAG_LIMIT, Artifact, EvaluationRow, Kind, Scores, StageRow, stored_cell
from massact.store.schema.rows import decode_evaluation, decode_scores, encode_row, run_name
from massact.store.write.run_writer import FinishedRun, evaluation_run

Times = tuple[int, int]  # when a run started and when it finished, in milliseconds since 1970
_RowT = TypeVar("_RowT", EvaluationRow, StageRow)


@dataclass(frozen=True, slots=True)
class OwnLine:
    """A measured result, as the run store held it."""

    row: EvaluationRow
    scores: Scores | None
    times: Times
    responses: str | None  # its responses file within `responses/`


def measured_identity(key: str, finished_at: int | None) -> str:
    """By what a run that massact measured is known again: one cell finishes once in a millisecond."""
    return f"{key} {finished_at}"


def is_own(document: Mapping[str, Any]) -> bool:
    return OWN in document and document.get("type") != "header"


def parse_own_line(line: bytes, experiment: str) -> OwnLine:
    document = parse_object(line, allow_nan=True)  # once more: a row's 800.0 stays 800.0
    kind = Kind.BASELINE if document.get("type") == "baseline" else Kind.EVALUATION
    row, times = own_row(document, experiment, kind, decode_evaluation)
    extra = document[OWN]
    try:
        scores = None if extra.get("scores") is None else decode_scores(json.dumps(extra["scores"]))
    except (ValueError, TypeError, KeyError) as error:
        raise LineError(f"its `massact` object holds no row of ours: {error}") from error
    result = document.get("result")
    for name in ("trait_mean", "coherence_mean"):
        # an edited line: its row would say something else than people read in it
        said, kept = result.get(name) if isinstance(result, dict) else None, getattr(row, name)
        if said != kept:
            raise LineError(
                f"{name} is {said!r}, in its `massact` row {kept!r}: export again, or remove "
                "the `massact` object to import the line as it is written"
            )
    responses = extra.get("responses")
    parts = responses.split("/") if isinstance(responses, str) else [""]
    if responses is not None and (len(parts) > 4 or any(part in ("", ".", "..") or "\0" in part for part in parts)):
        raise LineError(f"its responses file {responses!r} lies outside `responses/`")
    return OwnLine(row, scores, times, responses)


def own_line(row: EvaluationRow, times: Times, scores: Scores | None) -> dict[str, Any]:
    """A measured result as a line; `parse_own_line` reads it back. The name of its responses' file may be added."""
    result = {name: getattr(row, name) for name in ("trait_mean", "trait_std", "coherence_mean")}
    line: dict[str, Any] = {"result": {**result, "n": row.n_scored}}
    if row.kind is Kind.BASELINE:
        line = {"type": "baseline", **line}
    else:
        vector = {name: getattr(row, name) for name in ("layer", "component", "position")}
        line["config"] = {"vectors": [{**vector, "method": row.label, "weight": row.coefficient}]}
    extra = {
        **own_document(row, times),
        "scores": None if scores is None else {"trait": scores.trait, "coherence": scores.coherence},
    }
    return {**line, "eval": {"trait_judge": None}, "timestamp": iso_time(times[1]), OWN: extra}


def own_document(row: EvaluationRow | StageRow, times: Times) -> dict[str, Any]:
    """What the `massact` object of a line or of a `calibration.json` holds at least."""
    cell = {} if row.cell is None else {"cell": row.cell}
    return {"row": json.loads(encode_row(row)), **cell, "started_at": times[0], "finished_at": times[1]}


def iso_time(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(tzinfo=None)
    return f"{moment.isoformat()}.{milliseconds % 1000:03d}"


def own_row(
    document: Mapping[str, Any], experiment: str, kind: Kind, decode: Callable[[str, str | None], _RowT]
) -> tuple[_RowT, Times]:
    """The row in a `massact` object, with its experiment replaced, and its times."""
    extra = document.get(OWN)
    if not isinstance(extra, dict):
        raise LineError("its `massact` object is damaged; export again, or remove it")
    try:
        row = decode(json.dumps(extra["row"]), extra.get("cell"))
    except (ValueError, TypeError, KeyError) as error:
        raise LineError(f"its `massact` object holds no row of ours: {error}") from error
    if row.kind is not kind:
        raise LineError(f"its `massact` row is of kind {row.kind}")
    if not isinstance(row.cell, str) or digest_text(row.cell) != row.key:
        row = replace(row, cell=None)
    finished_at = extra.get("finished_at")
    times = _milliseconds(extra.get("started_at", finished_at)), _milliseconds(finished_at)
    return replace(row, experiment=experiment), times


def _milliseconds(at: object) -> int:
    if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at < 2**53:
        raise LineError(f"its `massact` time {at!r} is no count of milliseconds")
    return at


VERSION = 1  # of the keys and digests made here; raising it makes every imported result a stranger
MULTI = "multi"  # method of a result that several vectors steered at once, and the prefix of its label
SCORED_SHARE = 0.9  # a result that lacks more of the scores is of fewer questions, as far as its file tells
IMPORTED_FILE = "imported.json"  # artifact that holds a line too long for the tag `massact.imported`
_NAME_LENGTH, _PARAM_LENGTH = 200, 6000


FileBaseline = tuple[str, float | None]
"""Key and trait mean of a file's baseline, which evaluations of its judge and number of questions are compared with."""


def n_asked(context: Context, line: ResultLine, counts: Collection[int]) -> int | None:
    """Over how many questions a line's means are; `None` where neither its header nor the line tells. The header's
    number, where it names one. A line's `n` counts scores, so without it a line that lacks a tenth of a baseline's, or
    less, is one of the baseline's questions; any other is of as many questions as it has scores."""
    said, n = context.header.n_questions, line.result.n
    if said is not None and (n is None or n <= said):
        return said
    if n == 0:  # nothing was scored, whatever was asked
        return min(counts) if len(counts) == 1 else None
    if n is None:
        return None
    near = [count for count in counts if min(count, n) >= SCORED_SHARE * max(count, n)]
    return min(near, key=lambda count: (abs(count - n), count), default=n)


def imported_row(
    experiment: str, context: Context, line: ResultLine, baseline: FileBaseline | None, *, n_questions: int | None
) -> EvaluationRow:
    header, result = context.header, line.result
    cell = imported_cell(context, line, n_questions)
    judge = f"{header.judge_method or 'unknown'}:{header.judge_model or 'unknown'}"
    source = header.vector_source
    if isinstance(source, dict):
        source = ", ".join(f"{name} {value}" for name, value in source.items())
    before = baseline[1] if baseline else None
    delta = None if before is None or result.trait_mean is None else round(result.trait_mean - before, 6)
    unscored = 0 if n_questions is None or result.n is None else max(0, n_questions - result.n)
    return EvaluationRow(
        kind=Kind.BASELINE if line.is_baseline else Kind.EVALUATION,
        experiment=experiment,
        key=digest_text(cell),
        cell=cell,
        setting=digest({"kind": "imported setting", **_setting(context, line, n_questions)}),
        **{name: getattr(context, name) for name in ("model", "model_variant", "model_id", "trait", "prompt_set")},
        judge=judge if line.trait_judge is None else f"{judge}:{line.trait_judge}",
        judge_model=header.judge_model,
        judge_prompt=line.trait_judge,
        question_set=header.prompts_file,
        n_questions=n_questions,
        vector_source=None if source is None else str(source),
        origin="imported",
        baseline_key=baseline[0] if baseline else None,
        baseline_trait_mean=before,
        **{name: getattr(result, name) for name in ("trait_mean", "coherence_mean", "trait_std")},
        delta=delta,
        n_scored=result.n or 0,
        n_unscored=unscored,
        unscored_because=result.reason,
        **_steering(context, line),
    )


def imported_cell(context: Context, line: ResultLine, n_questions: int | None) -> str:
    """The canonical JSON of a line's cell, whose digest is its key: later results of one cell supersede earlier ones. A
    line without a timestamp cannot supersede another, so its result is part of its key; nor can one that lacks many
    scores supersede one that has them."""
    n = line.result.n
    fields: dict[str, Any] = {
        "kind": "imported baseline" if line.is_baseline else "imported evaluation",
        **_setting(context, line, n_questions),
        "position": position_of(context, line),
    }
    if not line.is_baseline:
        names = ("layer", "component", "position", "weight")
        vectors = [
            {**vector.extra, **{name: getattr(vector, name) for name in names}, "method": vector.label}
            for vector in line.vectors
        ]
        fields |= {"config": line.config, "vectors": vectors}
    if n_questions is not None and n is not None and n < SCORED_SHARE * n_questions:
        fields["n_scored"] = n
    if line.timestamp is None:
        fields["result"] = line.document["result"]
    return canonical_json(fields)


def content_digest(context: Context, line: ResultLine) -> str:
    """Digest of a line and of what its file says about it: equal content is imported once."""
    names = ("model", "model_variant", "trait", "position", "prompt_set")
    where = {name: getattr(context, name) for name in names}
    return digest({"version": VERSION, "context": where, "header": context.header.document, "line": line.document})


def position_of(context: Context, line: ResultLine) -> str | None:
    """The window that the (first) vector was extracted at; of a baseline, that of its folder."""
    position = line.vectors[0].position if line.vectors else None
    position = position or context.position
    if position is None and line.vectors:
        raise LineError("no position: neither the vector nor the file's folder names one")
    return position


def _setting(context: Context, line: ResultLine, n_questions: int | None) -> dict[str, Any]:
    """What a baseline and the evaluations compared with it share."""
    header = context.header
    return {
        **({} if n_questions == header.n_questions else {"n_asked": n_questions}),
        "version": VERSION,
        **{name: getattr(context, name) for name in ("model_id", "model_variant", "trait", "prompt_set", "direction")},
        **{name: getattr(header, name) for name in ("prompts_file", "n_questions", "vector_source")},
        "judge": {"model": header.judge_model, "method": header.judge_method, "trait_judge": line.trait_judge},
    }


def _label(vector: Vector) -> str:
    """A vector's label; what was steered elsewhere than in the residual stream is another way of steering."""
    return vector.label if vector.component == COMPONENT else f"{vector.component}/{vector.label}"


def _steering(context: Context, line: ResultLine) -> dict[str, Any]:
    """Fields of an evaluation's row that a baseline's has not."""
    if line.is_baseline:
        return {}
    first = line.vectors[0]
    label, recipe = _label(first), dict[str, Any](method=first.method)
    if len(line.vectors) > 1:
        label = f"{MULTI}:" + "+".join(f"{_label(vector)}@{vector.layer}" for vector in line.vectors)
        recipe = {"method": MULTI}
    else:
        with suppress(UsageError):
            known = parse_label(first.label)
            cleaning = known.cleaning
            recipe = {"method": known.method, "cleaning": cleaning.when, "scope": cleaning.scope}
            recipe |= {"n_dims": cleaning.n_dims, "cleaning_mode": cleaning.mode, "quantile": cleaning.quantile}
    return {
        "position": position_of(context, line),
        "label": label,
        **recipe,
        "layer": first.layer,
        "coefficient": first.weight,
        "component": first.component,
        "direction": context.direction,
        "n_vectors": len(line.vectors),
    }


def imported_tag(path: Path, number: int, text: str, context: Context) -> tuple[str, dict[str, bytes]]:
    """The text of the tag `massact.imported` of a line, and the artifact where the line does not fit in it."""
    place = {"file": str(path), "line_number": number, **context.to_document()}
    whole = json.dumps(
        {**place, "header": context.header.document, "line": text}, separators=(",", ":"), allow_nan=False
    )
    if len(whole) <= TAG_LIMIT:
        return whole, {}
    # the path, which may itself be long, is in the artifact too
    short = {"line_number": number, "artifact": IMPORTED_FILE}
    return json.dumps(short, separators=(",", ":")), {IMPORTED_FILE: whole.encode()}


def result_run(
    row: EvaluationRow,
    scores: Scores | None,
    times: Times,
    responses: Sequence[Response],
    *,
    tags: Mapping[str, str] = {},
    files: Mapping[str, bytes] = {},
) -> FinishedRun:
    if responses:
        files = {**files, Artifact.RESPONSES.value: response_bytes(responses)}
    if row.origin is None and (cell := stored_cell(row)) is not None:
        row = replace(row, cell=cell_json(cell))
    name = run_name(replace(row, label=(row.label or OWN)[:100]))[:_NAME_LENGTH]  # a label of an import may be long
    try:
        run = evaluation_run(row, scores, name=name, started_at=times[0], finished_at=times[1], tags=tags, files=files)
    except ValueError as error:
        raise LineError(str(error)) from error
    for name, value in run.params.items():
        if len(value) > _PARAM_LENGTH:
            raise LineError(f"{name} has {len(value)} characters, MLflow keeps {_PARAM_LENGTH}")
    return run
