"""Tables, figures and the report in Markdown and HTML, all computed from the store's answers.

A section is one file (its words, its tables, its figures) and one entry of `massact.report.page.SECTIONS`. Neither
torch, transformers nor mlflow is imported; matplotlib and jinja2 only when something is drawn.
"""

from massact.report.checks import Criterion
from massact.report.evidence import (
    Commit,
    CosineMatrix,
    Evidence,
    Facts,
    Place,
    Provenance,
    Sample,
    VectorFact,
)
from massact.report.page import SECTIONS, Report, build_report
from massact.report.section import Figure, Section, Table

__all__ = [
    "SECTIONS",
    "Commit",
    "CosineMatrix",
    "Criterion",
    "Evidence",
    "Facts",
    "Figure",
    "Place",
    "Provenance",
    "Report",
    "Sample",
    "Section",
    "Table",
    "VectorFact",
    "build_report",
]
