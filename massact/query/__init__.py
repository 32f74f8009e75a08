"""Questions over stored evaluations: pure functions over rows that give frozen rows.

Neither torch, transformers nor mlflow is imported; pandas only by `to_frame`.
"""

from massact.query.answers import Answers
from massact.query.cleaning_curve import CurveRow, curve
from massact.query.coefficient_patterns import CoefficientsAnswer, coefficients
from massact.query.comparison import ComparisonRow, before_after_pairs, compare
from massact.query.confirmation_rows import ConfirmationRow, ConfirmationsAnswer, ConfirmedPlace
from massact.query.confirmations import confirmations
from massact.query.confirmed import Confirmed
from massact.query.evaluations import Evaluations
from massact.query.filters import Filters
from massact.query.floor_sensitivity import SensitivityAnswer, SensitivityRow, sensitivity
from massact.query.gap_analysis import GapRow, GapsAnswer, gaps
from massact.query.judge_comparison import JudgesAnswer, JudgesRow, JudgesWinner, judges
from massact.query.ladder import Bracket
from massact.query.listing import RunRow, SortBy, runs
from massact.query.notebook import answer_html
from massact.query.published import PublishedComparison, compare_published
from massact.query.recommendations import CoefficientRatio
from massact.query.rows import Answer, Point, Status
from massact.query.winners import BestRow, best

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
