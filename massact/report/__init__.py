"""Tables, figures and the report in Markdown and HTML, all computed from the store's answers.

Neither torch, transformers nor mlflow is imported; matplotlib and jinja2 only when something is drawn.
"""

from massact.report.checks import Criterion
from massact.report.evidence import (
    Commit,
    CosineMatrix,
    Judging,
    Provenance,
    ReportInput,
    Sample,
    SampleRole,
    VectorFact,
)
from massact.report.page import Report, build_report
from massact.report.phase_notes import PhaseName, phase_markdown, phase_verdicts

__all__ = [
    "Commit",
    "CosineMatrix",
    "Criterion",
    "Judging",
    "PhaseName",
    "Provenance",
    "Report",
    "ReportInput",
    "Sample",
    "SampleRole",
    "VectorFact",
    "build_report",
    "phase_markdown",
    "phase_verdicts",
]
