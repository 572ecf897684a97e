"""Who calls: an API key in the Authorization header opens one project, and says what its holder may."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from feinschliff.gateway.errors import ApiError
from feinschliff.kit.errors import Invalid
from feinschliff.kit.names import ID_WORDS, check_id

DEFAULT_PROJECT = "default"
SKIP_GUARDS = "skip_guards"
RIGHTS = frozenset({SKIP_GUARDS})


@dataclass(frozen=True)
class Opened:
    """What a key opens: a project, and rights beyond what every key has."""

    project: str
    rights: frozenset[str] = frozenset()

    @property
    def may_skip_guards(self) -> bool:
        """Whether calls may leave out guards that a deployment allows to leave out."""
        return SKIP_GUARDS in self.rights


@dataclass(frozen=True)
class Keys:
    """The keys that are known, as SHA-256 digests: the time of a look-up says nothing about a key."""

    projects: Mapping[bytes, Opened] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, text: str, *, variable: str = "keys") -> Keys:
        """`key=project,key=project:skip_guards`; of several `=` the last counts; a key without one is of `default`.

        Raises:
            ValueError: names `variable` and the number of the bad entry, never the key.
        """
        projects: dict[bytes, Opened] = {}
        for number, entry in enumerate((item.strip() for item in text.split(",") if item.strip()), start=1):
            key, separator, project = entry.rpartition("=")
            if not separator:
                key, project = entry, DEFAULT_PROJECT
            if not key or _digest(key) in projects:
                raise ValueError(f"{variable}: entry {number} has no key, or one that is there already")
            project, *rights = project.split(":")
            if not RIGHTS.issuperset(rights):
                raise ValueError(f"{variable}: entry {number} gives a right that is not {', '.join(sorted(RIGHTS))}")
            try:
                projects[_digest(key)] = Opened(check_id(project, field=variable), frozenset(rights))
            except Invalid:
                raise ValueError(f"{variable}: entry {number} names no project; an id is {ID_WORDS}") from None
        return cls(projects)

    @property
    def is_open(self) -> bool:
        """No key is configured: any opens the project `default`, with all rights."""
        return not self.projects

    def opened_by(self, authorization: str | None) -> Opened:
        """What the header's key opens.

        Raises:
            ApiError: 401 invalid_api_key.
        """
        scheme, _, key = (authorization or "").strip().partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise _refused("No API key was sent. Send it as the header `Authorization: Bearer YOUR_KEY`.")
        opened = Opened(DEFAULT_PROJECT, RIGHTS) if self.is_open else self.projects.get(_digest(key))
        if opened is None:
            raise _refused(f"Incorrect API key provided: {_masked(key)}. Ask whoever runs this installation for one.")
        return opened


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _masked(key: str) -> str:
    return f"{key[:3]}***{key[-4:]}" if len(key) >= 16 else "***"


def _refused(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
