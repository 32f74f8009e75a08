"""Who may use a tracking server, kept by MLflow's own authentication and changed over its REST API.

A reader has MLflow's default permission and no role; a writer has the role `massact-writer`, MLflow's grant `USE` on
the workspace `default`; an administrator is one of MLflow's. What one user may do with one experiment is a grant of
MLflow's on it."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import requests

from massact.errors import StoreError, UsageError
from massact.store.credentials import find_login
from massact.store.read.http import TrackingServer

WRITER_ROLE = "massact-writer"
MIN_PASSWORD = 12  # characters; MLflow's own limit
_WORKSPACE = "default"
_WRITING = ("USE", "EDIT", "MANAGE")


class Role(StrEnum):
    """What a user may do beyond single experiments."""

    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"


GRANTS = {"nothing": "DENY", "read": "READ", "write": "EDIT", "manage": "MANAGE", "default": None}
"""What a user may do with one experiment -> MLflow's permission; `default` takes a grant back."""


@dataclass(frozen=True, slots=True)
class User:
    """A user, and how many experiments they may do more or less with than their role says."""

    name: str
    role: Role
    n_grants: int


class Users:
    """The users of one tracking server. Raises UsageError: the address is not a tracking server's; StoreError: it does
    not answer, has no users, or refuses; also from every method."""

    def __init__(self, uri: str) -> None:
        if not uri.startswith(("http://", "https://")):
            raise UsageError(
                "only a tracking server has users: name it with --tracking-uri or MLFLOW_TRACKING_URI, "
                "such as https://mlflow.example.org"
            )
        self._url, self._server = uri.rstrip("/"), TrackingServer(uri, is_written_to=True)

    def all(self) -> list[User]:
        """Every user, by name."""
        told = self._ask("GET", "2.0/mlflow/users/list")["users"]
        return sorted((_user(user) for user in told), key=lambda user: user.name)

    def add(self, name: str, password: str, role: Role) -> None:
        """Make a user; where the role cannot be given, no user is left behind."""
        check_name(name)
        check_password(password)
        self._ask("POST", "2.0/mlflow/users/create", {"username": name, "password": password})
        try:
            self.set_role(name, role)
        except StoreError:
            self._ask("DELETE", "2.0/mlflow/users/delete", {"username": name})
            raise

    def set_role(self, name: str, role: Role) -> int:
        """Give a user exactly one role; the number of grants to write that a reader lost by it."""
        known = {user["username"]: user for user in self._ask("GET", "2.0/mlflow/users/list")["users"]}
        if name not in known:
            raise StoreError(f"the tracking server {self._url} has no user {name!r}: see massact users list")
        user = known[name]
        is_admin = role is Role.ADMIN
        if bool(user["is_admin"]) != is_admin:
            body = {"username": name, "is_admin": is_admin}
            self._ask("PATCH", "2.0/mlflow/users/update-admin", body)
        shared = [held for held in user["roles"] if not _is_own(held)]
        if role is Role.WRITER:
            if not any(map(_is_writing, shared)):
                body = {"username": name, "role_id": self._writer_role()}
                self._ask("POST", "3.0/mlflow/roles/assign", body)
            return 0
        for held in shared:
            # also roles that were made by other means and let who has them write
            if any(grant["permission"] in _WRITING for grant in held["permissions"] or ()):
                body = {"username": name, "role_id": held["id"]}
                self._ask("DELETE", "3.0/mlflow/roles/unassign", body)
        return self._take_back(name, user["roles"]) if role is Role.READER else 0

    def set_password(self, name: str, password: str) -> None:
        """Change a password; the server at once takes no other."""
        check_password(password)
        body = {"username": name, "password": password}
        login = find_login()
        if login.username == name:  # MLflow asks for the old one
            body["current_password"] = login.password or ""
        self._ask("PATCH", "2.0/mlflow/users/update-password", body)

    def remove(self, name: str) -> None:
        """Remove a user and what they were granted; their experiments stay."""
        self._ask("DELETE", "2.0/mlflow/users/delete", {"username": name})

    def grant(self, name: str, experiment: str, may: str) -> None:
        """Say what a user may do with an experiment, one of `GRANTS`; it replaces what was said before."""
        query = {"experiment_name": experiment}
        told = self._ask("GET", "2.0/mlflow/experiments/get-by-name", query)["experiment"]
        body = {"username": name, "resource_type": "experiment", "resource_id": told["experiment_id"]}
        # who manages an experiment may not list users: what was granted before shows only here
        self._ask("POST", "3.0/mlflow/users/permissions/revoke", body, but="RESOURCE_DOES_NOT_EXIST")
        if GRANTS[may] is not None:
            self._ask("POST", "3.0/mlflow/users/permissions/grant", {**body, "permission": GRANTS[may]})

    def close(self) -> None:
        self._server.close()

    def _writer_role(self) -> int:
        """The role's id; made by the first who needs it."""
        known = self._ask("GET", "3.0/mlflow/roles/list", {"workspace": _WORKSPACE})["roles"]
        role = next((listed for listed in known if listed["name"] == WRITER_ROLE), None)
        if role is None:
            said = "May create experiments and models; manages those it created."
            body = {"workspace": _WORKSPACE, "name": WRITER_ROLE, "description": said}
            role = self._ask("POST", "3.0/mlflow/roles/create", body)["role"]
        if not _is_writing(role):
            grant = {"resource_type": "workspace", "resource_pattern": "*", "permission": "USE"}
            self._ask("POST", "3.0/mlflow/roles/permissions/add", {"role_id": role["id"], **grant})
        return int(role["id"])

    def _take_back(self, name: str, roles: Iterable[Mapping[str, Any]]) -> int:
        """A reader writes nothing, not even what they made as a writer."""
        places = [
            _place(grant)
            for role in roles
            if _is_own(role)
            for grant in role["permissions"]
            if grant["permission"] in _WRITING
        ]
        for kind, place in places:
            body = {"username": name, "resource_type": kind, "resource_id": place}
            self._ask("POST", "3.0/mlflow/users/permissions/revoke", body)
        return len(places)

    def _ask(
        self, verb: str, path: str, content: Mapping[str, Any] | None = None, *, but: str = ""
    ) -> Mapping[str, Any]:
        """The answer; empty where MLflow refuses with the error code `but`."""
        answer = self._server.fetch(verb, f"api/{path}", **{"query" if verb == "GET" else "body": content})
        told = _content(answer)
        if answer.ok and not answer.is_redirect:
            return told
        if but and told.get("error_code") == but:
            return {}
        raise StoreError(f"the tracking server {self._url} {_refusal(answer, told, path)}")


def generate_password() -> str:
    """A password that nobody chose: 32 characters, 192 bits."""
    return secrets.token_urlsafe(24)


def check_name(name: str) -> None:
    """Whether MLflow can log a user of this name in. Raises UsageError: it cannot."""
    if not name or not name.isascii() or not name.isprintable() or any(sign in name for sign in ": "):
        raise UsageError(f"user name {name!r}: write ASCII characters, without a colon and spaces")


def check_password(password: str) -> None:
    """Whether MLflow takes a password, and takes it again at the login; a UsageError says what it lacks."""
    if len(password) < MIN_PASSWORD:
        raise UsageError(f"the password has fewer than {MIN_PASSWORD} characters: choose a longer one")
    if not password.isascii() or not password.isprintable():
        # MLflow's artifact routes read logins as ASCII
        raise UsageError("the password has characters that are not printable ASCII: choose others")


def _user(told: Mapping[str, Any]) -> User:
    roles: Sequence[Mapping[str, Any]] = told["roles"]
    rank = Role.WRITER if any(map(_is_writing, roles)) else Role.READER
    grants = [grant for role in roles if _is_own(role) for grant in role["permissions"]]
    n_grants = sum(_place(grant)[0] == "experiment" for grant in grants)
    return User(told["username"], Role.ADMIN if told["is_admin"] else rank, n_grants)


def _is_own(role: Mapping[str, Any]) -> bool:
    """Whether it is the hidden role in which MLflow keeps the grants of a single user."""
    return str(role["name"]).startswith("__user_")


def _is_writing(role: Mapping[str, Any]) -> bool:
    """Whether who has the role may create experiments."""
    return any(
        _place(grant) == ("workspace", "*") and grant["permission"] in _WRITING for grant in role["permissions"] or ()
    )


def _place(grant: Mapping[str, Any]) -> tuple[str, str]:
    return str(grant["resource_type"]), str(grant["resource_pattern"])


def _content(answer: requests.Response) -> Mapping[str, Any]:
    try:
        content = answer.json()
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _refusal(answer: requests.Response, told: Mapping[str, Any], path: str) -> str:
    status, codes = answer.status_code, requests.codes
    if status == codes.unauthorized:
        return (
            f"refuses the login ({status}): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "~/.mlflow/credentials"
        )
    if status == codes.forbidden:
        return f"forbids this ({status}): only administrators may change users, or whose experiment it is"
    if "message" in told:
        return f"refuses: {' '.join(str(told['message']).split())[:300]}"
    if status == codes.not_found and "/users/" in path:
        return "has no users: start it with massact serve --auth"
    return f"does not answer as an MLflow server ({status}): check the address, see its log"
