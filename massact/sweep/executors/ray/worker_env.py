"""What other machines are told of the command that they work for, secrets included."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_PREFIXES = ("MLFLOW_TRACKING_", "MLFLOW_S3_", "MLFLOW_HTTP_", "AWS_", "AZURE_STORAGE_", "OPENAI_")
_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TOKENIZERS_PARALLELISM")
_OF_THE_MACHINE = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE")
"""Files: each machine has its own."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Variables that a process elsewhere gets; their values are in no repr, and so in no log."""

    values: Mapping[str, str] = field(repr=False)

    def set(self) -> None:
        """Set them in this process."""
        os.environ.update(self.values)


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The command's own place, as others need to know it."""

    tracking_uri: str = field(repr=False)
    """It may hold a password."""
    experiment: str
    spool: Path
    """Whole path of the spool's folder: it is the same on every machine."""
    key_variable: str
    """Environment variable that holds the judge's key."""

    def environment(self) -> Environment:
        """Logins, keys and tokens of this process that a worker, a judge or a spool actor may need.

        Ray writes the variables of a `runtime_env` into its logs; arguments of an actor it does not.
        """
        wanted = {
            name: value
            for name, value in os.environ.items()
            if (name.startswith(_PREFIXES) and name not in _OF_THE_MACHINE)
            or name in (*_NAMES, self.key_variable)
        }
        return Environment({**wanted, "MLFLOW_TRACKING_URI": self.tracking_uri})


def reaches_anywhere(tracking_uri: str, artifact_location: str) -> bool:
    """Whether another machine can write to a run store: it is no file of this one, and neither are its artifacts."""
    if tracking_uri.startswith("sqlite") or "://" not in tracking_uri:
        return False
    scheme, mark, _ = artifact_location.partition("://")
    # `mlflow-artifacts:/1/...` goes through the server
    return (bool(mark) and scheme != "file") or artifact_location.startswith("mlflow-artifacts:")
