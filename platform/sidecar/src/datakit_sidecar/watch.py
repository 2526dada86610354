"""Looks at the vault: at the start, on a schedule, on a signal, and after a KDC has refused a key.

A look costs one request for each secret: its marker tells whether anything changed, and only then the value is read.
The vault being slow or away delays looks and nothing else; what was read before is kept.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from datakit_vault import Reference, Secret, SecretRecord, Vault
from datakit_vault.errors import VaultError

from datakit_sidecar.agent import Agent
from datakit_sidecar.audit import AuditLog
from datakit_sidecar.errors import SidecarError
from datakit_sidecar.failure import Failure, one_line
from datakit_sidecar.keytab import Password, key_of_keytab
from datakit_sidecar.life import Tries
from datakit_sidecar.publish import Publisher
from datakit_sidecar.settings import SecretSettings, Settings
from datakit_sidecar.status import Board

_log = logging.getLogger(__name__)
_LONGEST_WAIT: Final = 30.0


@dataclass(slots=True, eq=False)
class _Item:
    """A secret to look at.

    :ivar take: gets its record when its marker changed; raises what is wrong.
    :ivar is_gone: whether what was published of it is no longer there.
    :ivar asked: how often somebody wanted it looked at out of turn.
    """

    name: str
    reference: Reference
    take: Callable[[SecretRecord], None]
    seen: Callable[[], None]
    failed: Callable[[Failure], None]
    is_gone: Callable[[], bool] = lambda: False
    marker: str | None = None
    asked: int = 0
    due: float = 0.0
    tries: Tries = field(default_factory=Tries)


class Watch:
    """Brings keys to the agents and publishes secrets, in a thread of its own.

    :param now: the clock, in seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        vault: Vault,
        *,
        agents: Iterable[Agent],
        enctypes: tuple[str, ...] | None,
        publisher: Publisher,
        audit: AuditLog,
        board: Board,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._vault = vault
        self._enctypes = enctypes
        self._publisher = publisher
        self._audit = audit
        self._board = board
        self._now = now
        self._changed = threading.Condition()
        self._stopped = False
        self._items = [self._key_item(agent) for agent in agents]
        self._items += [self._secret_item(secret) for secret in settings.secrets]
        self._thread = threading.Thread(target=self._run, name="vault", daemon=True)

    def start(self) -> None:
        """Begin, with a look at everything."""
        self._thread.start()

    def stop(self) -> None:
        """End after the request it is in; does not wait for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def look_now(self, name: str | None = None) -> None:
        """Look at one item, or at all, now; and read its value, whatever its marker says."""
        with self._changed:
            for item in self._items:
                if name in (None, item.name):
                    item.due = 0.0
                    item.marker = None
                    item.asked += 1
                    item.tries.reset()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                now = self._now()
                for item in self._items:
                    item.due = min(item.due, now + self._settings.vault_every)  # the clock may have been set back
                item = min(self._items, key=lambda each: each.due)
                if item.due > now:
                    self._changed.wait(max(0.01, min(_LONGEST_WAIT, item.due - now)))
                    continue
                item.due = now + self._settings.vault_every
                marker, asked = item.marker, item.asked
            self._look(item, marker, asked)

    def _look(self, item: _Item, marker: str | None, asked: int) -> None:
        began = time.monotonic()
        try:
            record = self._vault.record(item.reference)
            self._board.count_vault_call(time.monotonic() - began)
            if record.marker != marker or item.is_gone():
                item.take(record)
                with self._changed:
                    if item.asked == asked:  # else the value is to be read once more
                        item.marker = record.marker
            item.seen()
        except (VaultError, SidecarError) as error:
            self._note(item, error)
            return
        except Exception as error:  # noqa: BLE001 - a bug must not end the looks of weeks
            _log.critical("%s: a look at the vault met a bug; please report it", item.name, exc_info=error)
            self._note(item, SidecarError(f"a bug: {type(error).__name__}", fix="see the sidecar's log"))
            return
        with self._changed:
            item.tries.reset()
        with self._board.open() as board:
            board.vault_checked_at = self._now()

    def _note(self, item: _Item, error: Failure) -> None:
        now = self._now()
        with self._changed:
            item.tries.failed(now, retryable=error.retryable, life=0.0)
            item.due = min(item.due, max(now, item.tries.at(now)))
        self._board.count_failure("vault" if isinstance(error, VaultError) else "key", error)
        item.failed(error)
        _log.log(logging.WARNING if error.retryable else logging.ERROR, "%s: %s", item.name, one_line(error))
        if not error.retryable:
            self._audit.write(
                "vault.denied", secret=str(item.reference), used_for=item.name, reason=type(error).__name__
            )

    # Keys of principals ----------------------------------------------------------------------------------------------

    def _key_item(self, agent: Agent) -> _Item:
        principal = agent.principal

        def take(record: SecretRecord) -> None:
            self._take_key(agent, self._read(record, principal.key.field, principal.name))

        def note(error: Failure | None) -> None:
            with self._board.open() as board:
                board.tickets[principal.name].key_error = error

        return _Item(principal.name, principal.key.secret, take, lambda: note(None), note)

    def _take_key(self, agent: Agent, value: Secret[bytes]) -> None:
        principal = agent.principal
        if principal.key.kind == "password":
            is_new = agent.deliver(Password.of(principal.name, value))
            kvno = None
        else:
            try:
                key = key_of_keytab(principal.name, value, self._enctypes)
            except SidecarError as error:
                error.subject = f"secret {principal.key.secret}, field {principal.key.field}"
                raise
            finally:
                value.wipe()
            is_new = agent.deliver(key)
            kvno = key.kvno
        if is_new:
            self._audit.write("key.fetched", principal=principal.name, secret=str(principal.key.secret), kvno=kvno)

    # Secrets ---------------------------------------------------------------------------------------------------------

    def _secret_item(self, secret: SecretSettings) -> _Item:
        folder = self._settings.publish.secrets / secret.folder

        def take(record: SecretRecord) -> None:
            values = [(name, self._read(record, name, secret.folder)) for name in secret.fields]
            self._publish(secret, folder, values)

        def seen() -> None:
            with self._board.open() as board:
                board.secrets[secret.folder].checked_at = self._now()
                board.secrets[secret.folder].error = None

        def failed(error: Failure) -> None:
            with self._board.open() as board:
                board.secrets[secret.folder].error = error

        def is_gone() -> bool:
            # not Path.exists, which raises what is wrong with the folder; publishing says it
            return not all(os.path.exists(folder / name) for name in secret.fields)  # noqa: PTH110

        return _Item(secret.folder, secret.secret, take, seen, failed, is_gone)

    def _publish(self, secret: SecretSettings, folder: Path, values: list[tuple[str, Secret[bytes]]]) -> None:
        changed = []
        for name, value in values:
            try:
                if not self._publisher.has_secret(folder / name, value) and self._publisher.publish_secret(
                    folder, name, value
                ):
                    changed.append(name)
            finally:
                value.wipe()
        if not changed:
            return
        with self._board.open() as board:
            files = board.secrets[secret.folder]
            rotated = files.published_at is not None
            files.published_at = self._now()
            if rotated:
                files.rotated_at = files.published_at
        event = "secret.rotated" if rotated else "secret.published"
        self._audit.write(event, secret=str(secret.secret), folder=str(folder), fields=changed)
        _log.info("%s: %s %s", secret.folder, ", ".join(changed), "rotated" if rotated else "published")

    def _read(self, record: SecretRecord, name: str, used_for: str) -> Secret[bytes]:
        began = time.monotonic()
        value = self._vault.read(record, name)
        self._board.count_vault_call(time.monotonic() - began)
        self._audit.write("vault.read", secret=str(record.reference), id=record.id, field=name, used_for=used_for)
        return value
