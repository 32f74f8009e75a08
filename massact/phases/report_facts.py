"""What a report says of where its numbers come from, and of the vectors behind them."""

import importlib.metadata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from massact import __version__
from massact.errors import MassactError
from massact.labels import parse_label
from massact.phases.session import Session
from massact.phases.vectors import StoredVectors
from massact.query import Answers, BestRow
from massact.query.selection import recipe_of
from massact.report import Commit, CosineMatrix, Judging, Provenance, VectorFact
from massact.schema import EvaluationRow, JudgeMetric, Kind, MlflowTag, Tag
from massact.store import RunStore
from massact.store.contents import stored_runs
from massact.tracking.provenance import provenance_tags
from massact.vectors.geometry import cosine

_PACKAGES = ("mlflow", "torch", "transformers", "scikit-learn")
MOST_LABELS = 9
"""Labels of a place whose vectors are set side by side."""


def provenance(session: Session, store: RunStore, rows: Sequence[EvaluationRow], n_failed: int) -> Provenance:
    """Versions, commits, datasets, counts, times and what the judge was asked.

    Args:
        rows: the whole evaluations.
        n_failed: evaluations that failed and were not finished since.
    """
    name = session.experiment.name
    baselines = [one.row for one in store.baselines(name)]
    timed = [*rows, *baselines]
    generating, judging = (
        sum(getattr(row, field) or 0.0 for row in timed) for field in ("generation_seconds", "judge_seconds")
    )
    return Provenance(
        n_evaluations=len(rows),
        total_seconds=generating + judging if timed else None,
        generation_seconds=generating if timed else None,
        judge_seconds=judging if timed else None,
        git_commit=provenance_tags().get(MlflowTag.GIT_COMMIT),
        # massact itself is not installed where `mlflow run` made the environment
        versions={"massact": __version__, **{one: importlib.metadata.version(one) for one in _PACKAGES}},
        counts=_counts(store, name, rows, n_baselines=len(baselines), n_failed=n_failed),
        commits=_commits(session),
        datasets=_datasets(session),
        judging=_judging(session, store),
    )


def _datasets(session: Session) -> dict[str, str]:
    """The digest of each trait's dataset; one that cannot be read any more is left out."""
    found = {}
    for trait in session.experiment.traits:
        with suppress(MassactError):
            found[trait.name] = session.dataset(trait).digest
    return found


def _counts(
    store: RunStore, name: str, rows: Sequence[EvaluationRow], *, n_baselines: int, n_failed: int
) -> dict[str, int]:
    """Cells by kind; a kind that there is none of is left out."""
    found = {
        "of them taken over from a label with an alike vector": sum(row.same_as is not None for row in rows),
        "of them imported": sum(row.origin == "imported" for row in rows),
        "baselines": n_baselines,
        "screenings, given up on a part of the questions": len(store.screenings(name)),
        "confirmations on other questions": len(store.confirmations(name)),
        "failed": n_failed,
    }
    return {what: count for what, count in found.items() if count}


def _commits(session: Session) -> tuple[Commit, ...]:
    """The commits that evaluations were made by, the most runs first."""
    tags = (MlflowTag.GIT_COMMIT, Tag.GIT_DIRTY)
    runs: Counter[str] = Counter()
    dirty: Counter[str] = Counter()
    for run in stored_runs(session.tracking_uri, session.experiment.name, Kind.EVALUATION, tags=tags):
        commit = run.tags.get(MlflowTag.GIT_COMMIT, "")
        runs[commit] += 1
        dirty[commit] += run.tags.get(Tag.GIT_DIRTY) == "true"
    return tuple(Commit(commit, count, dirty[commit]) for commit, count in runs.most_common())


def _judging(session: Session, store: RunStore) -> Judging | None:
    """What the judges of all phases' runs were asked, together."""
    total: dict[str, float] = {}
    for phase in store.phases(session.experiment.name):
        found = session.tracker.metrics(phase.run_id)
        for name in JudgeMetric:
            if name in found:
                total[name] = total.get(name, 0.0) + found[name]
    if not total:
        return None
    return Judging(
        calls=int(total.get(JudgeMetric.CALLS, 0)),
        prompt_tokens=int(total.get(JudgeMetric.PROMPT_TOKENS, 0)),
        completion_tokens=int(total.get(JudgeMetric.COMPLETION_TOKENS, 0)),
        cached=int(total.get(JudgeMetric.CACHED, 0)),
        cost_usd=total.get(JudgeMetric.COST),
    )


def vector_facts(rows: Iterable[EvaluationRow]) -> tuple[VectorFact, ...]:
    """Where the energy of each evaluated vector lies, once per layer; the newest where several tell."""
    found = {}
    for row in rows:
        if row.massive_energy is None or row.layer is None or row.position is None or row.label is None:
            continue
        fact = VectorFact(
            model=row.model,
            trait=row.trait,
            position=row.position,
            label=row.label,
            layer=row.layer,
            massive_energy=row.massive_energy,
        )
        found[fact.model, fact.trait, fact.position, fact.label, fact.layer] = fact
    return tuple(found.values())


def label_cosines(session: Session, answers: Answers) -> tuple[CosineMatrix, ...]:
    """Cosines between the labels of each place, at the layer of its best; a place without vectors has none."""
    found = []
    # without the scores by question, which nothing here needs
    rows = replace(answers, scores=None).best(session.experiment.coherence_floor).rows
    for model in session.experiment.models:
        for trait in session.experiment.traits:
            bests = [
                row
                for row in rows
                if (row.model, row.trait, row.status) == (model.name, trait.name, "ok")
                and row.method not in (None, "random_baseline")
                and row.vector_digest is not None  # an imported result has no vector in the store
            ]
            if not bests:
                continue
            try:
                vectors = StoredVectors(session, model, trait)
            except MassactError:
                continue  # extracted elsewhere
            for position in dict.fromkeys(row.position for row in bests):
                matrix = _matrix(vectors, [row for row in bests if row.position == position])
                found += [matrix] if matrix else []
    return tuple(found)


def _matrix(vectors: StoredVectors, bests: Sequence[BestRow]) -> CosineMatrix | None:
    top = max(bests, key=lambda row: (row.delta or 0.0) * (-1 if row.direction == "negative" else 1))
    labels = sorted(dict.fromkeys(row.label for row in bests), key=_order)[:MOST_LABELS]
    if top.layer is None or len(labels) < 2:
        return None
    try:
        found = [vectors.of(top.position, parse_label(label))[top.layer] for label in labels]
    except (MassactError, IndexError):  # extracted elsewhere, perhaps from a model of more layers
        return None
    return CosineMatrix(
        model=top.model,
        trait=top.trait,
        position=top.position,
        layer=top.layer,
        labels=tuple(labels),
        values=tuple(tuple(cosine(a, b) for b in found) for a in found),
    )


def _order(label: str) -> tuple[int, str, int]:
    """The uncleaned first, then those cleaned of all dims, before and after, then the others by dims."""
    recipe = recipe_of(label)
    if recipe is None:
        return (3, label, 0)
    n_dims = recipe.cleaning.n_dims
    if recipe.cleaning.when == "none":
        return (0, recipe.method, 0)
    return (1, label, 0) if n_dims == "all" else (2, recipe.method, n_dims)
