"""``datakit-vault get``: a secret's fields; a value only to a terminal, and only if asked for."""

from __future__ import annotations

import sys
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

import typer

from datakit_vault._reference import Reference
from datakit_vault._settings import VaultSettings
from datakit_vault.cli._options import Json, SecretReference, with_settings
from datakit_vault.cli._output import out, print_json
from datakit_vault.errors import ConfigurationError

if TYPE_CHECKING:
    from datakit_vault._record import FieldInfo, SecretRecord
    from datakit_vault._secret import Secret
    from datakit_vault._vault import Vault


@with_settings
def get(
    reference: SecretReference,
    field: Annotated[str | None, typer.Argument(help="Slug of a field; without, all fields are listed.")] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show the value, on a terminal only.")] = False,
    json_: Json = False,
    *,
    settings: VaultSettings,
) -> None:
    """List a secret's fields, or read one to see that it can be read.

    A value is shown only with --reveal and only on a terminal: never in a pipe, a file or JSON. Of a file that is no
    text, --reveal shows the length and the SHA-256, to compare it with the original.
    """
    from datakit_vault._vault import Vault

    asked = Reference.parse(reference)
    if reveal:
        _refuse_to_reveal(field, as_json=json_)
    with Vault(settings) as vault:
        record = vault.record(asked)
        if field is None:
            _list(record, as_json=json_)
        else:
            _read(vault, record, field, reveal=reveal, as_json=json_)


def _refuse_to_reveal(field: str | None, *, as_json: bool) -> None:
    if field is None:
        raise ConfigurationError("--reveal shows one value", fix="name its field after the reference")
    if as_json or not sys.stdout.isatty():
        raise ConfigurationError(
            "a value is shown on a terminal only",
            cause="--json is for scripts" if as_json else "stdout is a pipe or a file, where the value would stay",
            fix="run it in a terminal; programs read secrets from the files that the sidecar publishes",
        )


def _list(record: SecretRecord, *, as_json: bool) -> None:
    if as_json:
        print_json(described(record))
        return
    from rich.table import Table
    from rich.text import Text

    console = out()
    state = "active" if record.active else "inactive"
    console.print(Text.assemble((record.path or record.name, "bold"), f"  id {record.id}, {state}"))
    table = Table("field", "kind", "name", "file", box=None, pad_edge=False, header_style="bold")
    for field in record.fields:
        table.add_row(Text(field.slug), kind_of(field), Text(field.name), Text(field.filename or ""))
    console.print(table)


def _read(vault: Vault, record: SecretRecord, slug: str, *, reveal: bool, as_json: bool) -> None:
    value = vault.read(record, slug)
    field = record.field(slug)
    if reveal:
        sys.stdout.write(_for_terminal(value) + "\n")
    elif as_json:
        print_json({**described(record), "read": slug})
    else:
        what = "a text" if field is None or not field.is_file else f"the file {field.filename}"
        out().print(f"{slug} can be read: it is {what}. --reveal shows it, on a terminal.", markup=False)


def _for_terminal(value: Secret[bytes]) -> str:
    """Return a text so that it cannot command the terminal, or what identifies a file that is none."""
    data = value.reveal()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"{len(data)} bytes, SHA-256 {sha256(data).hexdigest()}"
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)


def described(record: SecretRecord) -> dict[str, object]:
    """Return a secret's metadata as ``--json`` shows it."""
    return {
        "reference": str(record.reference),
        "id": record.id,
        "name": record.name,
        "active": record.active,
        "last_change": record.last_change,
        "checkout": record.checkout_enabled,
        "rotates_when_read": record.rotates_when_read,
        "requires_comment": record.requires_comment,
        "requires_approval": record.requires_approval,
        "fields": [
            {"slug": field.slug, "name": field.name, "kind": kind_of(field), "file": field.filename}
            for field in record.fields
        ],
    }


def kind_of(field: FieldInfo) -> str:
    """Return what a field holds, in a word or two."""
    if field.is_file:
        return "file" if field.filename else "no file"
    return "password" if field.is_password else "text"
