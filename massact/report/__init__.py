"""Tables, figures and the report in Markdown and HTML, all computed from the store's answers.

A section is one file (its words, its tables, its figures) and one entry of `massact.report.page.SECTIONS`. Neither
torch, transformers nor mlflow is imported; matplotlib and jinja2 only when something is drawn.
"""
