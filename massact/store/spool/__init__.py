"""The spool: every finished evaluation is first written to a local journal, and then sent to the tracking store.

See docs/design/spool.md. Neither torch nor MLflow is loaded before something is sent.
"""

from massact.store.spool.recover import JournalReport, send_leftovers
from massact.store.spool.spool import Spool

__all__ = ["DEFAULT_SPOOL", "JournalReport", "Spool", "send_leftovers"]

DEFAULT_SPOOL = ".massact/spool"
"""Folder of the spool unless another is named, under the working directory."""
