"""Tables, figures and the report in Markdown and HTML, all computed from the store's answers.

Neither torch, transformers nor mlflow is imported; matplotlib and jinja2 only when something is drawn.
"""

from massact.report.build import Report, build_report
from massact.report.contents import Provenance, ReportInput, Sample
from massact.report.criteria import Criterion
from massact.report.tables import PhaseName, phase_markdown, phase_verdicts

__all__ = [
    "Criterion",
    "PhaseName",
    "Provenance",
    "Report",
    "ReportInput",
    "Sample",
    "build_report",
    "phase_markdown",
    "phase_verdicts",
]
