"""Taking turns with a model: hooks act on every pass, so a judge must not run one beside steered generation."""

import threading
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

_guard = threading.Lock()
_turns: "WeakKeyDictionary[Any, threading.RLock]" = WeakKeyDictionary()


def turn(model: Any) -> AbstractContextManager[Any]:
    """While the block runs no other thread has a turn with the model, a `torch.nn.Module`."""
    with _guard:
        return _turns.setdefault(model, threading.RLock())
