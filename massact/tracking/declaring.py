"""Keeping what an experiment file declares in the store, for questions that are asked without the file."""

import time
from collections.abc import Callable

from massact.schema import Declared, encode_declared
from massact.tracking.connection import first_line


def keep_declared(
    declared: Declared, set_tag: Callable[[str, str], None], say: Callable[[str], None]
) -> None:
    """Write it to an MLflow experiment. No phase fails for that: what goes wrong is said.

    Args:
        set_tag: sets a tag of the MLflow experiment.
    """
    try:
        for key, value in encode_declared(declared, at=int(time.time() * 1000)).items():
            set_tag(key, value)
    except Exception as error:
        say(
            f"warning: the store does not keep what the experiment file declares ({first_line(error)}): "
            "questions about what is missing need the file"
        )
