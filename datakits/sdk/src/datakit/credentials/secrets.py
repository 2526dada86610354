"""Secrets: files that the sidecar publishes, read at each use so that a rotated one works at the next connection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Generic, NoReturn, TypeVar

from datakit.errors import SecretUnavailable

_T = TypeVar("_T", str, bytes)
_DEFAULT_FOLDER: Final = "/run/datakit/secrets"


class Secret(Generic[_T]):
    """A value that does not print, format, compare, pickle or copy; only :meth:`reveal` gives it out."""

    __slots__ = ("__value",)

    def __init__(self, value: _T) -> None:
        self.__value: _T = value

    def reveal(self) -> _T:
        """Return the value, for the one call that needs it."""
        return self.__value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never pickled or copied")

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __getstate__(self) -> Any:
        raise TypeError("a Secret is never pickled or copied")


def secrets_folder() -> Path:
    """Return the folder of secret files: ``DATAKIT_SECRETS``, else ``/run/datakit/secrets``."""
    return Path(os.environ.get("DATAKIT_SECRETS", _DEFAULT_FOLDER))


def read_secret(reference: str) -> Secret[str]:
    """Read the secret ``REFERENCE/FIELD`` now. One trailing newline is not part of it.

    :raises SecretUnavailable: there is no such file, this process may not read it, or it is empty.
    """
    path = secrets_folder() / reference
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SecretUnavailable(
            f"the secret {reference!r} is not there",
            subject=str(path),
            cause="the sidecar does not publish it, or DATAKIT_SECRETS names another folder",
            fix=f"look at what is published: ls -l {path.parent}",
        ) from None
    except OSError as error:
        raise SecretUnavailable(
            f"this process (uid {os.geteuid()}) may not read the secret: {error.strerror}",
            subject=str(path),
            cause="the sidecar publishes for another user or group",
            fix=f"compare owner and mode: ls -ln {path.parent}",
        ) from None
    text = text.removesuffix("\n")
    if not text:
        raise SecretUnavailable(f"the secret {reference!r} is empty", subject=str(path), fix="correct it in the vault")
    return Secret(text)
