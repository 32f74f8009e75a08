"""Questions over stored evaluations: pure functions over rows that give frozen rows.

Neither torch, transformers nor mlflow is imported; pandas only by `to_frame`.
"""

from massact.query.answers import Answers
from massact.query.confirmed import Confirmed
from massact.query.evaluations import Evaluations
from massact.query.filters import Filters
from massact.query.next_coefficients import Bracket
from massact.query.questions.best import BestRow, best
from massact.query.questions.coefficients import CoefficientRatio, CoefficientsAnswer, coefficients
from massact.query.questions.compare import ComparisonRow, before_after_pairs, compare
from massact.query.questions.confirmations import (
    ConfirmationRow,
    ConfirmationsAnswer,
    ConfirmedPlace,
    confirmations,
)
from massact.query.questions.curve import CurveRow, curve
from massact.query.questions.gaps import GapRow, GapsAnswer, gaps
from massact.query.questions.judges import JudgesAnswer, JudgesRow, JudgesWinner, judges
from massact.query.questions.published import PublishedComparison, compare_published
from massact.query.questions.runs import RunRow, SortBy, runs
from massact.query.questions.sensitivity import SensitivityAnswer, SensitivityRow, sensitivity
from massact.query.rows import Answer, Point, Status
from massact.query.tables import answer_html

__all__ = [
    "Answer",
    "Answers",
    "BestRow",
    "Bracket",
    "CoefficientRatio",
    "CoefficientsAnswer",
    "ComparisonRow",
    "ConfirmationRow",
    "ConfirmationsAnswer",
    "Confirmed",
    "ConfirmedPlace",
    "CurveRow",
    "Evaluations",
    "Filters",
    "GapRow",
    "GapsAnswer",
    "JudgesAnswer",
    "JudgesRow",
    "JudgesWinner",
    "Point",
    "PublishedComparison",
    "RunRow",
    "SensitivityAnswer",
    "SensitivityRow",
    "SortBy",
    "Status",
    "before_after_pairs",
    "best",
    "coefficients",
    "compare",
    "compare_published",
    "confirmations",
    "curve",
    "gaps",
    "judges",
    "runs",
    "sensitivity",
]

Answer.as_html = answer_html
