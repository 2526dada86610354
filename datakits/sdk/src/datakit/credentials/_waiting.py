"""Waiting for what the sidecar has not published yet: a run may start before the first ticket and the first secret.

Only what somebody else is about to put right is waited for. A wrong principal or a missing right stays wrong however
long one waits, and is said at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from datakit.errors import ConfigurationError, CredentialsNotReady, DatakitError

_T = TypeVar("_T")
_LOG = logging.getLogger("datakit.credentials")
_VARIABLE: Final = "DATAKIT_CREDENTIALS_WAIT"
DEFAULT_SECONDS: Final = 30.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
_stopped = threading.Event()


class NotYetError(Exception):
    """It is not there or not good, and whoever publishes it may still put it right.

    :ivar error: what to say if that does not happen.
    :ivar is_final: whether ``error`` itself is then right: another try would most likely end the same.
    """

    def __init__(self, error: DatakitError, *, is_final: bool = False) -> None:
        super().__init__(error.what)
        self.error = error
        self.is_final = is_final


def is_there(path: Path) -> bool:
    """Whether something is at a path; what this process may not look at counts, and reading it says why."""
    try:
        path.stat()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def wait_seconds() -> float:
    """Return how long to wait for a ticket or a secret: ``DATAKIT_CREDENTIALS_WAIT``, such as ``2m``, else 30 seconds.

    :raises ConfigurationError: it is no duration.
    """
    text = os.environ.get(_VARIABLE)
    if not text:
        return DEFAULT_SECONDS
    from pydantic import TypeAdapter, ValidationError

    from datakit.model.manifest import Duration

    try:
        return float(TypeAdapter(Duration).validate_python(text).total_seconds())
    except (ValidationError, OverflowError):
        raise ConfigurationError(
            f"{text!r} is not a duration", subject=_VARIABLE, fix="write a number and ms, s, m or h, such as 30s or 0s"
        ) from None


def stop_waiting() -> None:
    """End every wait of this process, in whichever thread, until :func:`resume_waiting`: somebody wants it to end."""
    _stopped.set()


def resume_waiting() -> None:
    """Let waits wait again."""
    _stopped.clear()


def is_told_to_end(stop: threading.Event | None) -> bool:
    """Whether somebody wants waits to end: this one, by ``stop``, or all."""
    return _stopped.is_set() or (stop is not None and stop.is_set())


def wait_for(look: Callable[[], _T], *, expected: bool, stop: threading.Event | None = None) -> _T:
    """Call ``look`` until it returns something.

    :param look: raises :class:`NotYetError` while waiting may help, anything else where it cannot.
    :param expected: whether somebody publishes here; otherwise the first look decides.
    :param stop: ends the wait from another thread.
    :raises CredentialsNotReady: the time is over, or the wait was ended.
    :raises DatakitError: what ``look`` raised, or its ``NotYetError`` holds where nothing is waited for.
    """
    bound = wait_seconds() if expected else 0.0
    began = time.monotonic()
    pause, told = _FIRST_PAUSE, ""
    stop = stop or threading.Event()
    while True:
        try:
            found = look()
        except NotYetError as not_yet:
            error, is_final = not_yet.error, not_yet.is_final
        else:
            if told:
                _LOG.info("%s: it came after %.1f s", told, time.monotonic() - began)
            return found
        if bound <= 0:
            raise error
        left = began + bound - time.monotonic()
        if left <= 0 or is_told_to_end(stop):
            raise error if is_final else _not_ready(error, time.monotonic() - began)
        if not told:
            told = error.subject or "credentials"
            _LOG.warning("%s: %s; waiting for the sidecar, up to %g s", told, error.what, bound)
        stop.wait(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _not_ready(error: DatakitError, seconds: float) -> CredentialsNotReady:
    return CredentialsNotReady(
        f"after {seconds:.0f} s of waiting, {error.what}",
        subject=error.subject,
        cause=error.cause,
        fix=f"{error.fix or 'look at the log of the sidecar'}; its /readyz says what it waits for itself",
    )
