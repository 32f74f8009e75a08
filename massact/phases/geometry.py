"""Cosines between vectors whose bests are compared, so that a report says "same vector" instead of comparing noise."""

from collections.abc import Iterable
from contextlib import suppress

from massact.errors import MissingPrerequisiteError
from massact.labels import parse_label
from massact.phases.session import Session
from massact.phases.vectors import StoredVectors
from massact.query import Answers, before_after_pairs
from massact.query.comparison import SAME_VECTOR_COSINE
from massact.vectors.geometry import cosine, vector_digest


def pair_cosines(session: Session, answers: Answers) -> dict[tuple[str, str], float]:
    """Cosine of each clean-before vector with its clean-after one, at every layer, by their digests."""
    cosines: dict[tuple[str, str], float] = {}
    pairs = before_after_pairs(answers.labels)
    for model in session.experiment.models:
        for trait in session.experiment.traits:
            places = {
                (point.position, point.layer)
                for point in answers.evaluations
                # an imported result has no vector in the store
                if point.model == model.name and point.trait == trait.name and point.vector_digest
            }
            if not places or not pairs:
                continue
            with suppress(MissingPrerequisiteError):  # imported results have no vectors
                vectors = StoredVectors(session, model, trait)
                for position, layer in sorted(places):
                    cosines.update(_of_place(session, vectors, pairs, (model.name, position, layer)))
    return cosines


def _of_place(
    session: Session, vectors: StoredVectors, pairs: Iterable[tuple[str, str]], place: tuple[str, str, int]
) -> dict[tuple[str, str], float]:
    model, position, layer = place
    cosines = {}
    for a, b in pairs:
        first, second = (vectors.of(position, parse_label(label))[layer] for label in (a, b))
        found = cosine(first, second)
        cosines[vector_digest(first), vector_digest(second)] = found
        if parse_label(a).method == "mean_diff" and found <= SAME_VECTOR_COSINE:
            session.say(
                f"warning: {a} and {b} on {model} at {position}, layer {layer}, have cosine {found:.4f}; zeroing is "
                "linear, so they should be one direction: the extraction is wrong"
            )
    return cosines
