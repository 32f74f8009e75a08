"""Cosines between vectors whose bests are compared, so that a report says "same vector" instead of comparing noise."""

from collections.abc import Iterable
from contextlib import suppress

from massact.domain import DEFAULT_ALIKE
from massact.errors import MissingPrerequisiteError
from massact.labels import parse_label
from massact.phases.session import Session
from massact.phases.vectors import StoredVectors
from massact.query import Answers, before_after_pairs
from massact.vectors.geometry import cosine, vector_digest


def pair_cosines(session: Session, answers: Answers) -> dict[tuple[str, str], float]:
    """Cosine of each clean-before vector with its clean-after one, at every layer, by their digests."""
    cosines: dict[tuple[str, str], float] = {}
    pairs = before_after_pairs(answers.labels)
    places: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for (_, model_name, trait_name, position, _), points in answers.evaluations.by_place.items():
        if next(iter(points)).vector_digest:  # an imported result has no vector in the store
            at = ((position, layer) for layer in points.layers)
            places.setdefault((model_name, trait_name), set()).update(at)
    for model in session.experiment.models:
        for trait in session.experiment.traits:
            if not pairs or (model.name, trait.name) not in places:
                continue
            with suppress(MissingPrerequisiteError):  # extracted elsewhere
                vectors = StoredVectors(session, model, trait)
                for position, layer in sorted(places[model.name, trait.name]):
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
        if parse_label(a).method == "mean_diff" and found <= DEFAULT_ALIKE:
            session.say(
                f"warning: {a} and {b} on {model} at {position}, layer {layer}, have cosine {found:.4f}; zeroing is "
                "linear, so they should be one direction: the extraction is wrong"
            )
    return cosines
