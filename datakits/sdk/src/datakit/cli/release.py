"""``datakit release``: check, build, compare, test, push, attach, and tag last."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datakit.cli._options import Json
from datakit.cli._output import out, print_json
from datakit.cli._registry import Address, Base, CaFile, Datakit, PasswordFile, User, megabytes, open_chosen

if TYPE_CHECKING:
    from datakit.release.image import Built
    from datakit.release.pushing import Pushed
    from datakit.release.registry import Release


def release(
    name: Datakit,
    base: Base = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sign the provenance with this private key (PEM).")
    ] = None,
    key_passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the passphrase of the key.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but push.")] = False,
    registry: Address = None,
    username: User = None,
    password_file: PasswordFile = None,
    ca_file: CaFile = None,
    json_: Json = False,
) -> None:
    """Release a datakit, in the version that its datakit.yaml says.

    Refused: something uncommitted, a failing check or test,
    a version that exists with another digest,
    a version too low for what its contracts change.
    Run again, it completes what was interrupted.
    """
    from datakit.cli._rules import refuse_problems
    from datakit.model.project import Project
    from datakit.release.gate import compare, refuse_unreproducible, run_tests
    from datakit.release.registry import Release
    from datakit.release.releasing import attach_missing, build, push

    began = time.monotonic()
    project = Project.find()

    def say(step: str) -> None:
        if not json_:
            out().print(step, style="dim", markup=False)

    with open_chosen(registry, username, password_file, ca_file) as opened:
        say(f"checking {name}")
        built = build(project, name, opened, base=base)
        refuse_unreproducible(built.commit, built.folder)
        refuse_problems(project, built.folder)
        compared = compare(built, opened)
        if isinstance(compared, Release):
            attached = [] if dry_run else attach_missing(built, opened, key=key, passphrase_file=key_passphrase_file)
            _show_existing(compared, attached, opened.image(f"datakits/{name}"), json_)
            return
        say("testing it")
        run_tests(built.folder, project.root)
        pushed = None
        if not dry_run:
            pushed = push(
                compared,
                opened,
                key=key,
                passphrase_file=key_passphrase_file,
                say=lambda part: say(f"pushing {part}"),
            )
        _show(compared, pushed, opened.image(f"datakits/{name}"), time.monotonic() - began, json_)


def _show_existing(existing: Release, attached: list[str], image: str, as_json: bool) -> None:
    if as_json:
        print_json({**release_json(existing), "state": "already released", "attached": attached})
        return
    out().print(f"{image}:v{existing.version} was released already, as {existing.digest}", markup=False)
    for kind in attached:
        out().print(f"  attached again: {kind}", markup=False)


def _show(built: Built, pushed: Pushed | None, image: str, seconds: float, as_json: bool) -> None:
    mine, previous = built.image.release, built.previous
    changes = [each.as_json() for each in built.changes]
    if as_json:
        print_json(
            {
                **release_json(mine),
                "state": "would be released" if pushed is None else "released",
                "image": f"{image}@{mine.digest}",
                "previous": previous.version if previous else None,
                "changes": changes,
                "pushed": {"blobs": pushed.blobs, "bytes": pushed.size} if pushed else None,
                "attached": pushed.attachments if pushed else [],
                "seconds": round(seconds, 3),
            }
        )
        return
    console = out()
    console.print(f"{'released' if pushed else 'would release'} {image}:v{mine.version}", markup=False)
    console.print(f"  digest    {mine.digest}")
    if previous is not None:
        console.print(f"  after     {previous.version}, {_count(len(built.changes))}")
    for each in built.changes:
        console.print(f"            {each.dataset or 'landing'}: {each.words} ({each.bump})", markup=False)
    if pushed:
        console.print(f"  sent      {pushed.blobs} blobs, {megabytes(pushed.size)}, in {seconds:.1f} s")


def release_json(release: Release) -> dict[str, Any]:
    """Return a release as ``--json`` shows it."""
    return {
        "name": release.name,
        "version": release.version,
        "digest": release.digest,
        "kind": release.kind,
        "created": release.created.isoformat(),
        "revision": release.revision,
        "contract": release.contract_hash,
        "includes": [each._asdict() for each in release.includes],
        "base": {"name": release.base_name, "digest": release.base_digest},
        "size": release.size,
    }


def _count(number: int) -> str:
    return "no change of a contract" if number == 0 else f"{number} change{'s' if number > 1 else ''} of contracts"
