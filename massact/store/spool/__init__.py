"""The spool: a finished evaluation goes to a local journal first, and then to the store (docs/design/spool.md)."""

from massact.store.spool.recover import JournalReport, send_leftovers
from massact.store.spool.spool import Spool

__all__ = ["JournalReport", "Spool", "send_leftovers"]
