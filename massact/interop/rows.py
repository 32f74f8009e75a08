"""An imported line as a row of the run store: its key, its setting and the digest of its content."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from massact.domain import COMPONENT, Recipe
from massact.errors import UsageError
from massact.interop.lines import LineError, ResultLine, Vector
from massact.interop.names import Context
from massact.keys import canonical_json, digest, digest_text
from massact.labels import parse_label
from massact.store.schema import EvaluationRow, Kind

VERSION = 1
"""Of the keys and digests made here; raising it makes every imported result a stranger."""
MULTI = "multi"
"""Method of a result that several vectors steered at once, and the prefix of its label."""


SCORED_SHARE = 0.9
"""A result that lacks more of the scores is of fewer questions, as far as its file tells."""


@dataclass(frozen=True, slots=True)
class FoundBaseline:
    """The baseline of a file that evaluations of its judge and number of questions are compared with."""

    key: str
    trait_mean: float | None


def n_asked(context: Context, line: ResultLine, counts: Collection[int]) -> int | None:
    """Over how many questions a line's means are; `None` where neither its header nor the line tells.

    The header's number, where it names one. A line's `n` counts scores, so without it a line that lacks a tenth of
    a baseline's, or less, is one of the baseline's questions; any other is of as many questions as it has scores.

    Args:
        counts: how many scores the baselines of its file have.
    """
    said, n = context.header.n_questions if context.header else None, line.result.n
    if said is not None and (n is None or n <= said):
        return said
    if n == 0:  # nothing was scored, whatever was asked
        return min(counts) if len(counts) == 1 else None
    if n is None:
        return None
    near = [count for count in counts if min(count, n) >= SCORED_SHARE * max(count, n)]
    return min(near, key=lambda count: (abs(count - n), count), default=n)


def imported_row(
    experiment: str,
    context: Context,
    line: ResultLine,
    baseline: FoundBaseline | None,
    *,
    n_questions: int | None,
) -> EvaluationRow:
    """The row of a baseline or an evaluation.

    Args:
        n_questions: as `n_asked` tells.

    Raises:
        LineError: neither the line nor its folder names a position.
    """
    header, result = context.header, line.result
    cell = cell_json(context, line, n_questions)
    before = baseline.trait_mean if baseline else None
    delta = None if before is None or result.trait_mean is None else round(result.trait_mean - before, 6)
    unscored = 0 if n_questions is None or result.n is None else max(0, n_questions - result.n)
    return EvaluationRow(
        kind=Kind.BASELINE if line.is_baseline else Kind.EVALUATION,
        experiment=experiment,
        key=digest_text(cell),
        cell=cell,
        setting=digest({"kind": "imported setting", **_setting(context, line, n_questions)}),
        model=context.model,
        model_variant=context.model_variant,
        model_id=context.model_id,
        trait=context.trait,
        judge=_judge_name(context, line),
        judge_model=header.judge_model if header else None,
        judge_prompt=line.trait_judge,
        question_set=header.prompts_file if header else None,
        n_questions=n_questions,
        prompt_set=context.prompt_set,
        vector_source=_source_text(header.document.get("vector_source") if header else None),
        origin="imported",
        baseline_key=baseline.key if baseline else None,
        baseline_trait_mean=before,
        trait_mean=result.trait_mean,
        coherence_mean=result.coherence_mean,
        delta=delta,
        trait_std=result.trait_std,
        n_scored=result.n or 0,
        n_unscored=unscored,
        unscored_because=result.reason,
        **_steering(context, line),
    )


def cell_json(context: Context, line: ResultLine, n_questions: int | None) -> str:
    """The canonical JSON of a line's cell, whose digest is its key: later results of one cell supersede earlier ones.

    A line without a timestamp cannot supersede another, so its result is part of its key; nor can one that lacks
    many scores supersede one that has them.
    """
    n = line.result.n
    fields: dict[str, Any] = {
        "kind": "imported baseline" if line.is_baseline else "imported evaluation",
        **_setting(context, line, n_questions),
        "position": position_of(context, line),
    }
    if not line.is_baseline:
        fields |= {"config": line.config, "vectors": [_vector(one) for one in line.vectors]}
    if n_questions is not None and n is not None and n < SCORED_SHARE * n_questions:
        fields["n_scored"] = n
    if line.timestamp is None:
        fields["result"] = line.document["result"]
    return canonical_json(fields)


def content_digest(context: Context, line: ResultLine) -> str:
    """Digest of a line and of what its file says about it: equal content is imported once."""
    names = ("model", "model_variant", "trait", "position", "prompt_set")
    header = context.header.document if context.header else None
    where = {name: getattr(context, name) for name in names}
    return digest({"version": VERSION, "context": where, "header": header, "line": line.document})


def position_of(context: Context, line: ResultLine) -> str | None:
    """The window that the (first) vector was extracted at; of a baseline, that of its folder.

    Raises:
        LineError: an evaluation for which neither its vector nor its folder tells.
    """
    position = line.vectors[0].position if line.vectors else None
    position = position or context.position
    if position is None and line.vectors:
        raise LineError("no position: neither the vector nor the file's folder names one")
    return position


def _setting(context: Context, line: ResultLine, n_questions: int | None) -> dict[str, Any]:
    """What a baseline and the evaluations compared with it share."""
    header = context.header
    said = header.n_questions if header else None
    return {
        **({} if n_questions == said else {"n_asked": n_questions}),
        "version": VERSION,
        "model_id": context.model_id,
        "model_variant": context.model_variant,
        "trait": context.trait,
        "prompts_file": header.prompts_file if header else None,
        "prompt_set": context.prompt_set,
        "n_questions": said,
        "direction": context.direction,
        "judge": {
            "model": header.judge_model if header else None,
            "method": header.judge_method if header else None,
            "trait_judge": line.trait_judge,
        },
        "vector_source": header.document.get("vector_source") if header else None,
    }


def _judge_name(context: Context, line: ResultLine) -> str:
    header = context.header
    method, model = (header.judge_method, header.judge_model) if header else (None, None)
    name = f"{method or 'unknown'}:{model or 'unknown'}"
    return name if line.trait_judge is None else f"{name}:{line.trait_judge}"


def _source_text(source: Any) -> str | None:
    if isinstance(source, dict):
        return ", ".join(f"{name} {value}" for name, value in source.items())
    return None if source is None else str(source)


def _label(vector: Vector) -> str:
    """A vector's label; what was steered elsewhere than in the residual stream is another way of steering."""
    return vector.label if vector.component == COMPONENT else f"{vector.component}/{vector.label}"


def _vector(vector: Vector) -> dict[str, Any]:
    return {
        **vector.extra,
        "layer": vector.layer,
        "component": vector.component,
        "position": vector.position,
        "method": vector.label,
        "weight": vector.weight,
    }


def _steering(context: Context, line: ResultLine) -> dict[str, Any]:
    """Fields of an evaluation's row that a baseline's has not."""
    if line.is_baseline:
        return {}
    first = line.vectors[0]
    label = _label(first)
    if len(line.vectors) > 1:
        label = f"{MULTI}:" + "+".join(f"{_label(one)}@{one.layer}" for one in line.vectors)
    return {
        "position": position_of(context, line),
        "label": label,
        **_recipe(
            label if len(line.vectors) > 1 else first.label, MULTI if len(line.vectors) > 1 else first.method
        ),
        "layer": first.layer,
        "coefficient": first.weight,
        "component": first.component,
        "direction": context.direction,
        "n_vectors": len(line.vectors),
    }


def _recipe(label: str, method: str) -> Mapping[str, Any]:
    try:
        recipe: Recipe = parse_label(label)
    except UsageError:
        return {"method": method}
    cleaning = recipe.cleaning
    return {
        "method": recipe.method,
        "cleaning": cleaning.when,
        "scope": cleaning.scope,
        "n_dims": cleaning.n_dims,
    }
