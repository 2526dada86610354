"""``datakit-vault watch``: a line for every change of a secret."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from datakit_vault._reference import Reference
from datakit_vault._retry import RetryPolicy
from datakit_vault._settings import VaultSettings
from datakit_vault.cli._options import Json, SecretReference, with_settings
from datakit_vault.cli._output import Stopped, print_json, show_error
from datakit_vault.errors import ConfigurationError, TemporaryError

if TYPE_CHECKING:
    from datakit_vault._record import SecretRecord
    from datakit_vault._vault import Vault

_UNITS = {"s": 1, "m": 60, "h": 3600}


@with_settings
def watch(
    reference: SecretReference,
    every: Annotated[str, typer.Option("--every", help="How often to look: 10s, 5m, 1h.")] = "30s",
    json_: Json = False,
    *,
    settings: VaultSettings,
) -> None:
    """Print a line when a secret changes, and which fields did; until Ctrl-C.

    An outage is reported once, and the watch goes on. What cannot pass by itself ends it with its exit code.
    """
    from datakit_vault._vault import Vault

    asked = Reference.parse(reference)
    pause = _seconds(every)
    with Vault(settings, retry=RetryPolicy(attempts=1)) as vault:  # looking again is what it does anyway
        before = vault.record(asked)
        _say(before, "watching", [], as_json=json_)
        try:
            while True:
                time.sleep(pause)
                before = _look(vault, before, pause, as_json=json_)
        except Stopped:
            return


def _look(vault: Vault, before: SecretRecord, pause: float, *, as_json: bool) -> SecretRecord:
    """Look once, through an outage if there is one, and tell what has changed."""
    told = False
    while True:
        try:
            now = vault.record(before.reference)
            break
        except TemporaryError as error:
            if not told:
                show_error(error)
                told = True
            time.sleep(pause)
    if told:
        _say(now, "reachable again", [], as_json=as_json)
    if now.marker != before.marker:
        old = {field.slug: field.marker for field in before.fields}
        changed = [field.slug for field in now.fields if field.marker != old.get(field.slug)]
        _say(now, "changed", changed, as_json=as_json)
    if now.active != before.active:
        _say(now, "activated" if now.active else "deactivated", [], as_json=as_json)
    return now


def _say(record: SecretRecord, event: str, fields: list[str], *, as_json: bool) -> None:
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if as_json:
        content = {"at": at, "reference": str(record.reference), "event": event, "fields": fields}
        print_json({**content, "last_change": record.last_change}, indent=None)
        return
    changed = f": {', '.join(fields)}" if fields else ""
    rotated = f" (last password change {record.last_change})" if record.last_change and event == "changed" else ""
    typer.echo(f"{at}  {record.reference}  {event}{changed}{rotated}")


def _seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdecimal() and len(number) < 8 and int(number) and unit in _UNITS):
        raise ConfigurationError(
            f"{text!r} is no duration", subject="--every", fix="write a number and s, m or h: 30s, 5m"
        )
    return float(int(number) * _UNITS[unit])
