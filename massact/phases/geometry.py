"""Cosines between vectors whose bests are compared, so that a report says "same vector" instead of comparing noise."""

from massact.labels import parse_label
from massact.phases.evaluate import StoredVectors
from massact.phases.session import Session
from massact.query import Answers, before_after_pairs
from massact.vectors.geometry import cosine, vector_digest


def pair_cosines(session: Session, answers: Answers) -> dict[tuple[str, str], float]:
    """Cosine of each clean-before vector with its clean-after one, at every layer, by their digests."""
    cosines: dict[tuple[str, str], float] = {}
    pairs = before_after_pairs(answers.labels)
    for model in session.experiment.models:
        for trait in session.experiment.traits:
            places = {
                (one.row.position, one.row.layer)
                for one in answers.rows
                if one.row.model == model.name and one.row.trait == trait.name
            }
            if not places:
                continue
            vectors = StoredVectors(session, model, trait)
            for position, layer in places:
                if position is None or layer is None:
                    continue
                for a, b in pairs:
                    first, second = (vectors.of(position, parse_label(label))[layer] for label in (a, b))
                    cosines[vector_digest(first), vector_digest(second)] = cosine(first, second)
    return cosines
