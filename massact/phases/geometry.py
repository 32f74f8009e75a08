"""Cosines between vectors whose bests are compared, so that a report says "same vector" instead of comparing noise."""

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
            if not places:
                continue
            try:
                vectors = StoredVectors(session, model, trait)
            except MissingPrerequisiteError as error:
                session.say(f"warning: vectors cannot be compared: {error}")
                continue
            for position, layer in places:
                for a, b in pairs:
                    first, second = (vectors.of(position, parse_label(label))[layer] for label in (a, b))
                    found = cosine(first, second)
                    cosines[vector_digest(first), vector_digest(second)] = found
                    if parse_label(a).method == "mean_diff" and found <= SAME_VECTOR_COSINE:
                        session.say(
                            f"warning: {a} and {b} on {model.name} at {position}, layer {layer}, have cosine "
                            f"{found:.4f}; zeroing is linear, so they should be one direction: the extraction is wrong"
                        )
    return cosines
