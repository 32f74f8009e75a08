"""Questions over stored evaluations: pure functions over rows that give frozen rows.

Neither torch, transformers nor mlflow is imported; pandas only by `to_frame`.
"""

from massact.query.answers import Answers, Filters
from massact.query.evaluations import Evaluations
from massact.query.rows import Answer, Point

__all__ = ["Answer", "Answers", "Evaluations", "Filters", "Point"]
