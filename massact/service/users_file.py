"""What MLflow's auth app reads: a configuration file that names the user database and keeps checked logins a while."""

import configparser
import os
from pathlib import Path

CACHE_SECONDS = 60
"""How long a checked password is believed. Without it each request costs MLflow 0.18 s of hashing."""
AUTH_ENVIRONMENT = {
    "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    "MLFLOW_SERVER_ENABLE_GRAPHQL_AUTH": "true",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_ENABLE_WORKSPACES": "false",
}
"""With users, whatever of MLflow's has no rules for them is off. None of it is of use here."""


def write(path: Path, database_uri: str, permission: str) -> None:
    """Write the file, for its owner alone: the URI may hold a password. The admin's is never in it."""
    parser = configparser.ConfigParser()
    parser["mlflow"] = {
        "default_permission": permission,
        "database_uri": database_uri.replace("%", "%%"),  # a percent sign is a reference to configparser
        "admin_username": "admin",
        "auth_cache_ttl_seconds": str(CACHE_SECONDS),
    }
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        parser.write(file)
