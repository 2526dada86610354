"""``datakit releases``, ``show`` and ``verify``: what was released, what it is made of, and whether that is true."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datakit.cli._options import Json
from datakit.cli._output import out, print_json, show_error
from datakit.cli._registry import (
    Address,
    CaFile,
    Datakit,
    PasswordFile,
    ReleaseName,
    User,
    find_release,
    megabytes,
    open_chosen,
)
from datakit.cli.release import release_json
from datakit.errors import ImageCorrupt, NothingToDo

if TYPE_CHECKING:
    from datakit.release.contracts import Difference


def releases(
    name: Datakit,
    registry: Address = None,
    username: User = None,
    password_file: PasswordFile = None,
    ca_file: CaFile = None,
    json_: Json = False,
) -> None:
    """List the releases of a datakit, the newest version first."""
    with open_chosen(registry, username, password_file, ca_file) as opened:
        found = opened.releases(name)
        where = opened.image(f"datakits/{name}")
    if json_:
        print_json({"image": where, "releases": [release_json(each) for each in reversed(found)]})
        return
    if not found:
        raise NothingToDo(f"nothing was released as {where} yet", fix=f"datakit release {name}")
    from rich.table import Table

    table = Table("version", "digest", "committed", "commit", "size", "includes", box=None, pad_edge=False)
    for each in reversed(found):
        table.add_row(
            each.version,
            each.digest,
            f"{each.created:%Y-%m-%d %H:%M}",
            each.revision[:12],
            megabytes(each.size),
            ", ".join(f"{one.name} {one.version}" for one in each.includes),
        )
    console = out()
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def show(
    release: ReleaseName,
    sbom: Annotated[bool, typer.Option("--sbom", help="Print the bill of materials (CycloneDX), whole.")] = False,
    provenance: Annotated[bool, typer.Option("--provenance", help="Print the provenance (in-toto), whole.")] = False,
    registry: Address = None,
    username: User = None,
    password_file: PasswordFile = None,
    ca_file: CaFile = None,
    json_: Json = False,
) -> None:
    """Show a release: contracts, source datakits, bill of materials, provenance, size."""
    from datakit.release.attachments import promise_of
    from datakit.release.verifying import provenance_of, sbom_of

    with open_chosen(registry, username, password_file, ca_file) as opened:
        found = find_release(opened, release)
        bill, (statement, key_id) = sbom_of(opened, found), provenance_of(opened, found)
        promise = promise_of(opened, found)
        image = opened.image(f"datakits/{found.name}", found.digest)
    for wanted, document, what in ((sbom, bill, "bill of materials"), (provenance, statement, "provenance")):
        if wanted and document is None:
            raise ImageCorrupt(f"no {what} is attached", subject=image, fix=f"datakit verify {release}")
        if wanted:
            print_json(document)
            return
    if json_:
        document = promise.model_dump(mode="json")
        print_json(
            {
                **release_json(found),
                "image": image,
                "datasets": document["datasets"],
                "landing": document["landing"],
                "sbom": {"components": len(bill["components"])} if bill else None,
                "provenance": statement["predicate"] if statement else None,
                "signed_by": key_id,
            }
        )
        return
    console = out()
    console.print(f"{found.name} {found.version} ({found.kind} datakit)", style="bold", markup=False)
    started = statement["predicate"]["runDetails"]["metadata"]["startedOn"] if statement else "unknown"
    builder = statement["predicate"]["runDetails"]["builder"]["id"] if statement else "unknown"
    rows = [
        ("image", image),
        ("commit", f"{found.revision}, {found.created:%Y-%m-%d %H:%M} UTC"),
        ("released", f"{started} by {builder}"),
        ("signed by", key_id or "nobody"),
        ("base", f"{found.base_name}@{found.base_digest}"),
        *(("includes", f"{each.name} {each.version} ({each.digest})") for each in found.includes),
        ("size", megabytes(found.size)),
        ("packages", str(len(bill["components"])) if bill else "no bill of materials is attached"),
        ("contract", found.contract_hash),
    ]
    for label, text in rows:
        console.print(f"  {label:<10}{text}", markup=False)
    for dataset, contract in promise.datasets.items():
        keyed = f", key {', '.join(contract.key)}" if contract.key else ", no key"
        console.print(f"    {dataset}: {len(contract.columns)} columns{keyed}", markup=False)


def verify(
    release: ReleaseName,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The public key (PEM) that has to have signed the provenance.")
    ] = None,
    registry: Address = None,
    username: User = None,
    password_file: PasswordFile = None,
    ca_file: CaFile = None,
    json_: Json = False,
) -> None:
    """Check that a release is what it says: content, contract, bill of materials, provenance, signature.

    Reads all of its layers. Exit code 78 if something is wrong.
    """
    from datakit.release.verifying import verify as verify_it

    with open_chosen(registry, username, password_file, ca_file) as opened:
        found = find_release(opened, release)
        findings = list(verify_it(opened, found, key=key))
        image = opened.image(f"datakits/{found.name}", found.digest)
    wrong = [each for each in findings if each.error is not None]
    if json_:
        listed = [{"subject": each.subject, "ok": each.error is None, "words": each.words} for each in findings]
        errors = [each.error.as_json() for each in wrong if each.error]
        print_json({"image": image, "ok": not wrong, "findings": listed, "errors": errors})
    else:
        out().print(image, markup=False)
        for each in findings:
            out().print(f"  {'ok   ' if each.error is None else 'wrong'}  {each.subject}: {each.words}", markup=False)
        for each in wrong:
            if each.error is not None:
                show_error(each.error)
    if wrong:
        raise typer.Exit(max(each.error.exit_code for each in wrong if each.error is not None))


def released_differences(before: str, after: str) -> tuple[Difference, ...]:
    """Return what the release ``after`` promises differently from the release ``before``, both ``NAME@VERSION``."""
    from datakit.release.attachments import promise_of
    from datakit.release.contracts import differences

    with open_chosen(None, None, None, None) as opened:
        old, new = (find_release(opened, each) for each in (before, after))
        return differences(promise_of(opened, old), promise_of(opened, new))
