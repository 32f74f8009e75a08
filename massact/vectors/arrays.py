"""Stored vectors as numpy's: what is told of them without loading torch."""

import hashlib

from massact._lazy import Numbers, np


def array_digest(vector: Numbers) -> str:
    """SHA-256, in hex, of the vector `[d_model]` as little-endian float32."""
    return hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()


def array_cosine(a: Numbers, b: Numbers) -> float:
    """Cosine of the angle between two vectors `[d_model]`, in float64."""
    a, b = a.astype(float), b.astype(float)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
