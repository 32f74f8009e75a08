"""Questions over stored evaluations: pure functions over rows that give frozen rows.

Neither torch, transformers nor mlflow is imported; pandas only by `to_frame`.
"""

from massact.query.answers import Answers, Confirmed, Filters
from massact.query.evaluations import Evaluations
from massact.query.next_coefficients import Bracket
from massact.query.questions.best import BestRow, ask_best
from massact.query.questions.coefficients import CoefficientRatio, CoefficientsAnswer, ask_coefficients
from massact.query.questions.compare import ComparisonRow, ask_compare, before_after_pairs
from massact.query.questions.confirmations import (
    ConfirmationRow,
    ConfirmationsAnswer,
    ConfirmedPlace,
    ask_confirmations,
)
from massact.query.questions.curve import CurveRow, ask_curve
from massact.query.questions.gaps import GapRow, GapsAnswer, ask_gaps
from massact.query.questions.judges import JudgesAnswer, JudgesRow, JudgesWinner, ask_judges
from massact.query.questions.published import PublishedComparison, compare_published
from massact.query.questions.runs import RunRow, SortBy, ask_runs
from massact.query.questions.sensitivity import SensitivityAnswer, SensitivityRow, ask_sensitivity
from massact.query.rows import Answer, Point, Status

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
    "ask_best",
    "ask_coefficients",
    "ask_compare",
    "ask_confirmations",
    "ask_curve",
    "ask_gaps",
    "ask_judges",
    "ask_runs",
    "ask_sensitivity",
    "before_after_pairs",
    "compare_published",
]
