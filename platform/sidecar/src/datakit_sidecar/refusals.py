"""Which keys a KDC has refused, remembered beside the tickets across restarts of the process.

A container that is restarted after each failure would otherwise try the same wrong key each time, and three tries lock
an Active Directory account. The memory lives as long as the volume: a new pod tries once more.

What is kept is a slow, salted hash of the key, which helps nobody to find a password: whoever may read the folder holds
tickets, and those can be searched faster.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import krb5

from datakit_sidecar.errors import KeyRefused, KeyRefusedBefore
from datakit_sidecar.keytab import Key

_log = logging.getLogger(__name__)
FILE_NAME: Final = ".datakit-refused-keys.json"
_ROUNDS: Final = 200_000
T = TypeVar("T")


class Refusals:
    """The memory of one folder of tickets. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._lock = threading.Lock()

    def guard(self, context: krb5.Context, key: Key, exchange: Callable[[krb5.Context, Key], T]) -> T:
        """Make an exchange with a key, unless a KDC has refused the key; if one does now, remember it.

        It belongs in the thread that makes the exchange: a refusal then counts whether or not anybody waits for it.

        :raises KeyRefusedBefore: a KDC has refused it.
        :raises SidecarError: whatever the exchange raises.
        """
        self._check(context, key)
        try:
            return exchange(context, key)
        except KeyRefused:
            self._remember(context, key)
            raise

    def _check(self, context: krb5.Context, key: Key) -> None:
        with self._lock:
            known = self._read().get(key.principal, [])
        for each in known:
            if _digest(context, key, bytes.fromhex(each["salt"])).hex() == each["hash"]:
                raise KeyRefusedBefore(
                    f"the KDC refused this key before (version {key.kvno or 'unknown'}), so it was not tried again",
                    subject=key.principal,
                    cause="the vault still holds the old keytab or password",
                    fix="put the present one into the vault; if the account was changed instead, remove "
                    f"{self.path} and restart the sidecar",
                )

    def _remember(self, context: krb5.Context, key: Key) -> None:
        """Note that a KDC refused a key. A volume that does not take the note costs only the next process a try."""
        salt = secrets.token_bytes(16)
        entry = {"salt": salt.hex(), "hash": _digest(context, key, salt).hex(), "kvno": key.kvno}
        with self._lock:
            known = self._read()
            known.setdefault(key.principal, []).append(entry)
            self._write(known)

    def forget(self, principal: str) -> None:
        """The KDC took a key of the principal: what was refused before is of no interest."""
        with self._lock:
            known = self._read()
            if known.pop(principal, None) is not None:
                self._write(known)

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(name): [each for each in entries if _is_entry(each)] for name, entries in known.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            _log.warning("%s cannot be read (%s); refused keys of former processes are not known", self.path, error)
            return {}

    def _write(self, known: dict[str, list[dict[str, Any]]]) -> None:
        scratch = self.path.with_name(f"{self.path.name}.new")
        try:
            if not known:
                self.path.unlink(missing_ok=True)
                return
            scratch.unlink(missing_ok=True)
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(known, file)
            scratch.replace(self.path)
        except OSError as error:
            _log.warning("%s cannot be written (%s); a restarted sidecar tries the key again", self.path, error)
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)


def _is_entry(entry: Any) -> bool:
    try:
        return isinstance(entry["hash"], str) and bool(bytes.fromhex(entry["salt"]))
    except (TypeError, KeyError, ValueError):
        return False


def _digest(context: krb5.Context, key: Key, salt: bytes) -> bytes:
    keytab = krb5.kt_resolve(context, key.name)
    parts = sorted((entry.key.enctype, entry.key.data) for entry in keytab)
    return hashlib.pbkdf2_hmac("sha256", b"".join(data for _, data in parts), salt, _ROUNDS)
