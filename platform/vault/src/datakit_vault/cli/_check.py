"""``datakit-vault check``: from the credential's files to a secret's fields, what works and what does not."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from datakit_vault._reference import Reference
from datakit_vault._settings import VaultSettings
from datakit_vault.cli._get import kind_of
from datakit_vault.cli._options import Json, with_settings
from datakit_vault.cli._output import out, print_json
from datakit_vault.errors import ConfigurationError, VaultError

if TYPE_CHECKING:
    from datakit_vault._record import SecretRecord
    from datakit_vault._vault import Vault

State = Literal["good", "doubtful", "bad"]

_MARKS: Final = {"good": ("✓", "green"), "doubtful": ("!", "yellow"), "bad": ("✗", "red")}
_ENOUGH: Final = "View"
"""The role on a secret that reading it takes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found; ``fix`` is the next step, and ``exit_code`` that of the command if it is bad."""

    subject: str
    state: State
    detail: str
    fix: str | None = None
    exit_code: int = ConfigurationError.exit_code

    @classmethod
    def of(cls, subject: str, error: VaultError) -> Finding:
        """Return an error as a finding."""
        detail = f"{error.subject}: {error.what}" if error.subject else error.what
        return cls(subject, "bad", f"{detail} ({error.cause})" if error.cause else detail, error.fix, error.exit_code)


@with_settings
def check(
    reference: Annotated[str | None, typer.Argument(help="Id or full path; without, only the login is tried.")] = None,
    json_: Json = False,
    *,
    settings: VaultSettings,
) -> None:
    """Say whether the login works, and whether this account can read a secret.

    Reads no value and checks nothing out.
    """
    from datakit_vault._vault import Vault

    asked = None if reference is None else Reference.parse(reference)
    findings: list[Finding] = []
    with Vault(settings) as vault:
        for finding in examine(vault, asked):
            findings.append(finding)
            if not json_:
                _print(finding)
    bad = [finding for finding in findings if finding.state == "bad"]
    if json_:
        shown = [
            {"subject": each.subject, "state": each.state, "detail": each.detail, "fix": each.fix} for each in findings
        ]
        print_json({"ok": not bad, "findings": shown})
    else:
        doubtful = sum(finding.state == "doubtful" for finding in findings)
        out().print(f"{len(bad)} bad, {doubtful} doubtful, {len(findings)} looked at", markup=False)
    if bad:
        raise typer.Exit(bad[0].exit_code)


def examine(vault: Vault, reference: Reference | None) -> Iterator[Finding]:
    """Yield what was found, from the credential outwards; the first thing that is broken ends it."""
    yield _credential(vault.settings)
    began = time.monotonic()
    try:
        base = vault.login()
    except VaultError as error:
        yield Finding.of("login", error)
        return
    yield Finding("login", "good", f"works at {base}, in {1000 * (time.monotonic() - began):.0f} ms")
    if reference is None:
        return
    try:
        record = vault.record(reference)
    except VaultError as error:
        yield Finding.of("secret", error)
        return
    yield from _secret(record)
    yield _rights(vault, reference)
    yield from _conditions(record, vault.settings)


def _credential(settings: VaultSettings) -> Finding:
    folder = settings.credentials
    try:
        open_to_all = [path.name for path in folder.iterdir() if path.is_file() and path.stat().st_mode & stat.S_IROTH]
    except OSError as error:
        return Finding(
            "credential", "bad", f"{folder} cannot be read: {error.strerror}", "mount it, readable by this user"
        )
    if open_to_all:
        names = ", ".join(sorted(open_to_all))
        return Finding("credential", "doubtful", f"every user may read {names} in {folder}", f"chmod -R o= {folder}")
    return Finding("credential", "good", f"{folder}, for its owner or group only")


def _secret(record: SecretRecord) -> Iterator[Finding]:
    named = f"{record.name}, id {record.id}"
    if record.active:
        yield Finding("secret", "good", f"{named}, active")
    else:
        yield Finding("secret", "bad", f"{named}, is deactivated", "have it activated, or name another")
    fields = ", ".join(f"{field.slug} ({kind_of(field)})" for field in record.fields)
    if fields:
        yield Finding("fields", "good", fields)
    else:
        yield Finding("fields", "bad", "it has none", "look at its template in the vault")


def _rights(vault: Vault, reference: Reference) -> Finding:
    access = vault.access(reference)
    if access is None or access.role is None:
        return Finding("rights", "good", "the account may read it")
    if access.role == _ENOUGH:
        return Finding("rights", "good", f"the account has {_ENOUGH}, which is enough and no more")
    return Finding(
        "rights",
        "doubtful",
        f"the account has {access.role}; {_ENOUGH} is enough",
        "let the secret's owner take it back",
    )


def _conditions(record: SecretRecord, settings: VaultSettings) -> Iterator[Finding]:
    if record.rotates_when_read:
        yield Finding(
            "rotation",
            "bad",
            "its password changes when it is checked in, so reading it would break whoever uses it",
            "turn 'change password on check-in' off, and let the vault rotate it on a schedule",
        )
    else:
        yield Finding("rotation", "good", "reading it changes nothing")
    if not record.checkout_enabled:
        yield Finding("checkout", "good", "not needed")
    elif settings.checkout:
        yield Finding("checkout", "doubtful", "needed and allowed; nobody else can read it meanwhile", "turn it off")
    else:
        yield Finding("checkout", "bad", "needed, and not allowed here", "turn it off for this secret, or set checkout")
    if record.requires_comment and settings.comment is None:
        yield Finding("comment", "bad", "needed, and none is set", "set the comment to give")
    else:
        yield Finding("comment", "good", "set" if record.requires_comment else "not needed")


def _print(finding: Finding) -> None:
    from rich.text import Text

    mark, colour = _MARKS[finding.state]
    out().print(Text.assemble((f"{mark} ", colour), (finding.subject, "bold"), f": {finding.detail}"))
    if finding.fix:
        out().print(Text.assemble(("    next: ", "green"), finding.fix))
