"""``datakit-lab vault``: the double of the vault in the foreground, and the commands for a running one.

Values are never arguments: everybody on the machine can read those. They come from files, a prompt or stdin.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from datakit_lab._commands import console, end_on_sigterm, until_interrupted
from datakit_lab.errors import LabError

app = typer.Typer(help="Run only the vault double, in the foreground, or command a running one.")


class VaultKind(StrEnum):
    """Which of Delinea's vaults the double plays."""

    SECRET_SERVER = "secret-server"  # noqa: S105  # the name of a product
    PLATFORM = "platform"


Control = Annotated[
    Path, typer.Option("--control", envvar="DATAKIT_LAB_VAULT", help="The running double's control socket.")
]
Secret = Annotated[str, typer.Argument(help="Its id or full path.")]
Fields = Annotated[list[str], typer.Argument(help="keytab=@FILE is a file; password is a text, asked for or on stdin.")]
_DEFAULT_CONTROL = Path(".lab/vault.sock")


@app.callback(invoke_without_command=True)
def vault(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Loopback port, 0 for a free one.")] = 10443,
    kind: Annotated[VaultKind, typer.Option(help="Which vault it plays.")] = VaultKind.SECRET_SERVER,
    certificates: Annotated[
        Path | None, typer.Option(help="Folder of server.pem and server.key; without, new ones for this run.")
    ] = None,
    credentials: Annotated[
        Path | None, typer.Option(help="Folder for the account's credential; without, a passing one.")
    ] = None,
    control: Annotated[Path | None, typer.Option(help="Socket for commands; without, a passing one.")] = None,
) -> None:
    """Run only the vault double, in the foreground. Its secrets live in its memory and are gone with it."""
    if context.invoked_subcommand is not None:
        return
    import contextlib
    import tempfile

    from datakit_lab.certificates import ServerCertificate, issue_certificate
    from datakit_lab.control import serve
    from datakit_lab.vault import handlers, run_vault

    end_on_sigterm()
    with contextlib.ExitStack() as stack:
        passing = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="datakit-lab-")))
        if certificates is None:
            certificate = issue_certificate(passing / "certificates")
        else:
            certificate = ServerCertificate.in_folder(certificates)
        folder = credentials or passing / "credentials"
        fake = stack.enter_context(run_vault(port=port, kind=kind.value, certificate=certificate, credentials=folder))
        socket = control or passing / "control"
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.enter_context(serve(socket, handlers(fake)))
        until_interrupted(
            [
                f"The double of the vault ({kind.value}) answers at {fake.url}.",
                f"credentials: {folder}",
                f"authority: {certificate.authority}",
                f"add a secret: datakit-lab vault add /Folder/Name password --control {socket}",
            ]
        )


@app.command()
def add(
    path: Annotated[str, typer.Argument(help="Full path: /Folder/Name.")],
    fields: Fields,
    checkout: Annotated[bool, typer.Option("--checkout", help="Readers must check it out.")] = False,
    comment: Annotated[bool, typer.Option("--comment", help="Readers must say why.")] = False,
    control: Control = _DEFAULT_CONTROL,
) -> None:
    """Add a secret."""
    from datakit_lab.vault import VaultControl

    flags = {"checkout": checkout, "requires_comment": comment}
    number = VaultControl(control).add_secret(path, _read(fields), **flags)
    typer.echo(f"{path} has the id {number}")


@app.command()
def rotate(secret: Secret, fields: Fields, control: Control = _DEFAULT_CONTROL) -> None:
    """Give fields of a secret other values, as the vault's own password change does."""
    from datakit_lab.vault import VaultControl

    for field, value in _read(fields).items():
        VaultControl(control).rotate(secret, field, value)
        typer.echo(f"{secret} has another {field}")


@app.command()
def fault(
    name: Annotated[str, typer.Argument(help="throttled, unavailable, slow, html …, down, or clear.")],
    times: Annotated[int | None, typer.Option(help="How many requests it spoils; without, all until clear.")] = None,
    matching: Annotated[str, typer.Option(help="Only requests whose path holds this; oauth2 for logins.")] = "/api/v",
    seconds: Annotated[float, typer.Option(help="For slow and silent.")] = 0.2,
    retry_after: Annotated[float | None, typer.Option(help="What Retry-After says, in seconds.")] = None,
    control: Control = _DEFAULT_CONTROL,
) -> None:
    """Make the double misbehave; `down` refuses connections, and `clear` ends every fault."""
    from datakit_lab.vault import VaultControl

    running = VaultControl(control)
    if name == "clear":
        running.clear()
    elif name == "down":
        running.stop()
    else:
        running.fault(name, times=times, matching=matching, seconds=seconds, retry_after=retry_after)
    typer.echo("no fault waits any more" if name == "clear" else f"waits: {name}")


@app.command()
def log(control: Control = _DEFAULT_CONTROL) -> None:
    """Show what clients have asked for; never a value or a token."""
    from rich.table import Table

    from datakit_lab.vault import VaultControl

    table = Table("method", "path", "asks", "status", "fault", box=None, pad_edge=False, header_style="bold")
    for request in VaultControl(control).requests():
        asks = " ".join(f"{name}={value}" for name, value in request["query"].items())
        status = str(request["status"] or "broken")
        table.add_row(request["method"], request["path"], asks, status, request["fault"] or "")
    console().print(table)


def _read(fields: list[str]) -> dict[str, str | bytes]:
    """Return the values of fields by slug."""
    values: dict[str, str | bytes] = {}
    for field in fields:
        slug, separator, source = field.partition("=")
        if not separator:
            values[slug] = _ask_for(slug)
        elif source.startswith("@"):
            values[slug] = _content(Path(source[1:]))
        else:
            raise LabError(
                f"{slug}=… holds the value itself, which every user of this machine can read",
                fix=f"write {slug}=@FILE for a file, or {slug} alone to be asked for a text",
            )
    return values


def _ask_for(slug: str) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(slug, hide_input=True))
    line = sys.stdin.readline()
    if not line:
        raise LabError(f"there is no line for {slug} on stdin", fix="give one line for each text, in their order")
    return line.removesuffix("\n")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}", fix="name a file that this user can read") from None
