"""What a figure is drawn from: a DataFrame of an answer, or an experiment in a store, as the report's evidence."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from massact.addresses import resolve_tracking_uri
from massact.asked import declared_by_data, named_file
from massact.config import load_experiment
from massact.domain import DEFAULT_COHERENCE_FLOOR, DEFAULT_LEAST_SCORED, Direction
from massact.errors import UsageError
from massact.names import as_held
from massact.plot.basis import Drawn, Given, admitted, undeclared
from massact.plot.frames import as_frame, drawn_from_frame, facts_from_frame
from massact.query import Answer, Answers
from massact.report.contents import Evidence
from massact.report.facts import VectorFact
from massact.schema import EvaluationRow
from massact.store import RunStore, open_store

if TYPE_CHECKING:
    import pandas as pd

Source: TypeAlias = "Answer[Any] | pd.DataFrame | str | Path"
"""An answer, or its DataFrame; or an experiment file, or the name of an experiment that the store holds."""


def drawn_from(source: Source, given: Given, *, with_rows: bool = False) -> Drawn:
    """The evidence of a source.

    Args:
        with_rows: whether the whole evaluations are needed too, of a store.

    Raises:
        UsageError: a column is missing, the experiment is unknown, or the filters admit nothing.
    """
    if given.floor is not None and not 0 <= given.floor <= 100:
        raise UsageError(f"coherence floor {given.floor:g}: coherence runs from 0 to 100")
    if isinstance(source, str | Path):
        return _of_store(source, given, with_rows=with_rows)
    if given.tracking_uri is not None:
        raise UsageError(
            "an answer and a DataFrame hold their own rows: leave tracking_uri out, or give the experiment's name"
        )
    return drawn_from_frame(as_frame(source), given)


def _of_store(source: str | Path, given: Given, *, with_rows: bool) -> Drawn:
    path = named_file(source)
    file = load_experiment(path) if path else None
    name = file.name if file else str(source)
    store = open_store(resolve_tracking_uri(given.tracking_uri))
    try:
        name = as_held(name, store.experiments())
        declared = declared_by_data(file) if file else store.declared(name)
        told = declared.floor if declared else DEFAULT_COHERENCE_FLOOR
        floor = told if given.floor is None else given.floor
        answers = Answers.from_store(
            store,
            name,
            groups=file.groups() if file else (),
            setting=declared.setting if declared else None,
            least_scored=declared.least_scored if declared else DEFAULT_LEAST_SCORED,
        )
        published = tuple(one.row for one in store.published(name))
        if not (answers.evaluations or answers.failures or published):
            raise UsageError(
                f"the run store holds nothing of an experiment {name!r}: give its file, or the name of one that the "
                "store holds"
            )
        answers = admitted(answers, given.only)
        answers = answers.with_scores(store, floor)
        rows = _rows(store, answers, name) if with_rows else ()
        for warning in store.warnings:
            warnings.warn(warning, stacklevel=2)
    finally:
        store.close()
    experiment = replace(file, coherence_floor=floor) if file else undeclared(floor, _directions(answers))
    evidence = Evidence.of(experiment, answers)
    # a filter admits only a part of what the file declares
    return Drawn(replace(evidence, answers=replace(evidence.answers, groups=answers.groups)), published, rows)


def _rows(store: RunStore, answers: Answers, name: str) -> tuple[EvaluationRow, ...]:
    wanted = {point.run_id for point in answers.evaluations}
    return tuple(one.row for one in store.evaluations(name) if one.run_id in wanted)


def _directions(answers: Answers) -> dict[str, Direction]:
    return {row.trait: row.direction or "positive" for row in answers.evaluations.samples.values()}


def energy_facts(source: Source, given: Given) -> tuple[Drawn, tuple[VectorFact, ...]]:
    """Where the energy of each vector lies.

    Raises:
        UsageError: a column is missing, the experiment is unknown, or the filters admit nothing.
    """
    if isinstance(source, Answer) or not isinstance(source, str | Path):
        return facts_from_frame(as_frame(source), given)
    drawn = drawn_from(source, given, with_rows=True)
    return drawn, tuple(
        VectorFact(
            model=row.model,
            trait=row.trait,
            position=row.position or "",
            label=row.label or "",
            layer=row.layer or 0,
            massive_energy=row.massive_energy,
        )
        for row in drawn.rows
        if row.massive_energy is not None
    )
