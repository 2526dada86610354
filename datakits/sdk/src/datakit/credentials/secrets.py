"""Secrets: files that the sidecar publishes, read at each use so that a rotated one works at the next connection."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, NoReturn, TypeVar

from datakit.credentials._waiting import NotYetError, is_there, wait_for
from datakit.errors import LoginRefused, SecretUnavailable

_T = TypeVar("_T", str, bytes)
_C = TypeVar("_C")
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
    return Path(os.environ.get("DATAKIT_SECRETS") or _DEFAULT_FOLDER)


def read_secret(reference: str) -> Secret[str]:
    """Read the secret ``REFERENCE/FIELD`` now. One trailing newline is not part of it.

    :raises SecretUnavailable: there is no such file, this process may not read it, or it holds no text.
    """
    try:
        return _read(reference)
    except NotYetError as not_yet:
        raise not_yet.error from None


class Login:
    """A login by password. Every connection reads the secret again, so that a rotated one needs no restart.

    A password that is being rotated is wrong for a moment: it has changed in the database, and the sidecar has not
    published the new one yet. So after a refusal another password is waited for; the same is not tried again.

    :param reference: the secret, ``REFERENCE/FIELD``.
    """

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._has_worked = False

    def connect(self, attempt: Callable[[Secret[str]], _C], *, stop: threading.Event | None = None) -> _C:
        """Return what ``attempt`` returns for the password; a secret that is not published yet is waited for.

        :param attempt: raises :class:`LoginRefused` where the password may be wrong.
        :param stop: ends the wait from another thread.
        :raises CredentialsNotReady: the secret did not come in time, or none that works instead of one that did.
        :raises LoginRefused: the password is wrong, and no other came in time.
        :raises SecretUnavailable: it cannot be used.
        """
        expected = "DATAKIT_SECRETS" in os.environ or is_there(secrets_folder().parent)
        secret = wait_for(lambda: _read(self._reference), expected=expected, stop=stop)
        try:
            connection = attempt(secret)
        except LoginRefused as error:
            refusal = error
        else:
            self._has_worked = True
            return connection

        def look_for_another() -> Secret[str]:
            other = _read(self._reference)
            if other.reveal() == secret.reveal():
                raise NotYetError(refusal, is_final=not self._has_worked)
            return other

        connection = attempt(wait_for(look_for_another, expected=expected, stop=stop))
        self._has_worked = True
        return connection


def _read(reference: str) -> Secret[str]:
    path = secrets_folder() / reference
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotYetError(
            SecretUnavailable(
                f"the secret {reference!r} is not there",
                subject=str(path),
                cause="the sidecar does not publish it, or DATAKIT_SECRETS names another folder",
                fix=f"look at what is published: ls -l {path.parent}",
            )
        ) from None
    except UnicodeDecodeError:
        raise SecretUnavailable(
            f"the secret {reference!r} is no UTF-8 text",
            subject=str(path),
            cause="the reference names a file of the vault, such as a keytab, and not a password",
            fix="name another field: REFERENCE/FIELD",
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
        raise NotYetError(
            SecretUnavailable(f"the secret {reference!r} is empty", subject=str(path), fix="correct it in the vault")
        )
    return Secret(text)
