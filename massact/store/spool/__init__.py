"""The spool: a finished evaluation goes to a local journal first, and then to the store (docs/design/spool.md)."""

from massact.store.spool.recover import JournalReport, send_leftovers
from massact.store.spool.spool import Spool

__all__ = ["DEFAULT_SPOOL", "JournalReport", "Spool", "send_leftovers"]

DEFAULT_SPOOL = ".massact/spool"  # folder of the spool unless another is named, under the working directory
