"""The ``datakit-lab`` command. Heavy imports happen in the commands that need them."""

from __future__ import annotations

import sys
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from datakit_lab import vault_commands
from datakit_lab.errors import LabError

if TYPE_CHECKING:
    from rich.console import Console

    from datakit_lab.lifecycle import Health
    from datakit_lab.state import LabState

app = typer.Typer(
    name="datakit-lab",
    help="A corporate network in a box: KDC, vault and SQL Server doubles, PostgreSQL, sidecar; for laptops and tests.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(vault_commands.app, name="vault")


class DataSet(StrEnum):
    """What the SQL Server double can be filled with."""

    AIRLINE = "airline"
    TPCH = "tpch"
    NASTY = "nasty"


class Rotated(StrEnum):
    """What can be rotated."""

    KEYTAB = "keytab"
    PASSWORD = "password"  # noqa: S105  # its name


StateDir = Annotated[
    Path, typer.Option("--state-dir", envvar="DATAKIT_LAB_STATE", help="Where the lab keeps its files.")
]
_DEFAULT_STATE = Path(".lab")
Life = Annotated[str, typer.Option("--ticket-life", help="Life of a ticket: 30s, 15m, 10h.")]


@app.command()
def up(
    state_dir: StateDir = _DEFAULT_STATE,
    data: Annotated[str, typer.Option(help="Data sets, separated by commas: airline, tpch, nasty.")] = "airline",
    ticket_life: Life = "10h",
    clock_skew: Annotated[str, typer.Option(help="Difference of clocks the KDC forgives.")] = "5m",
    kdc_port: Annotated[int, typer.Option(help="Loopback port of the KDC.")] = 10088,
    sqlserver_port: Annotated[int, typer.Option(help="Loopback port of the SQL Server double.")] = 11433,
    postgres_port: Annotated[int, typer.Option(help="Loopback port of PostgreSQL.")] = 15432,
    vault_port: Annotated[int, typer.Option(help="Loopback port of the vault double.")] = 10443,
    sidecar_port: Annotated[int, typer.Option(help="Loopback port of the sidecar's health.")] = 18089,
) -> None:
    """Start the lab in the background and wait until it is ready."""
    import shlex

    from datakit_lab.lifecycle import look, start
    from datakit_lab.state import LabOptions, LabState

    state = LabState(state_dir)
    options = LabOptions(
        data=tuple(_data_sets(data)),
        kdc_port=kdc_port,
        sqlserver_port=sqlserver_port,
        postgres_port=postgres_port,
        vault_port=vault_port,
        sidecar_port=sidecar_port,
        ticket_life=int(_duration(ticket_life).total_seconds()),
        clock_skew=int(_duration(clock_skew).total_seconds()),
    )
    console = _console()
    with console.status("starting the lab"):
        already, _record = start(state, options)
    console.print("The lab is already running." if already else "The lab is ready.", style="bold")
    _show(state, look(state))
    option = "" if state_dir == _DEFAULT_STATE else f" --state-dir {shlex.quote(str(state_dir))}"
    typer.echo("\nLook around:")
    for command, what in [
        (f'eval "$(datakit-lab env{option})"', "Kerberos and secrets for this shell"),
        ("klist", "the tickets, for the lab's servers only"),
        (f"datakit-lab rotate keytab{option}", "new keys, which the sidecar follows"),
        (f"datakit-lab mutate{option}", "let the source change"),
        (f"datakit-lab down{option}", "end it"),
    ]:
        typer.echo(f"  {command:<40}  # {what}")


@app.command()
def down(state_dir: StateDir = _DEFAULT_STATE) -> None:
    """Stop everything, and remove tickets, secrets and databases; the logs stay."""
    from datakit_lab.lifecycle import end
    from datakit_lab.state import LabState

    ran = end(LabState(state_dir))
    _console().print("The lab is gone." if ran else "No lab was running; its leftovers, if any, are gone.")


@app.command()
def status(
    state_dir: StateDir = _DEFAULT_STATE,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show what runs. The exit code is 0 if all of it does, else 75."""
    from datakit_lab.lifecycle import look
    from datakit_lab.state import LabState

    state = LabState(state_dir)
    found = look(state)
    if as_json:
        import json

        typer.echo(json.dumps(found.as_json(), indent=2))
    elif found.record is None or not found.running:
        _console().print(f"No lab runs in {state_dir}.")
    else:
        _show(state, found)
    if not found.healthy:
        raise typer.Exit(75)


@app.command()
def env(state_dir: StateDir = _DEFAULT_STATE) -> None:
    """Print what a shell needs to be a client of the lab: eval "$(datakit-lab env)"."""
    import shlex

    from datakit_lab.lifecycle import running_record
    from datakit_lab.state import LabState

    for name, value in running_record(LabState(state_dir)).environment.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def rotate(what: Annotated[Rotated, typer.Argument()], state_dir: StateDir = _DEFAULT_STATE) -> None:
    """Rotate svc-datakit's keys, or the warehouse's password, where they are used and in the vault.

    The sidecar notices within seconds: see its audit log, .lab/logs/audit.jsonl.
    """
    from datakit_lab.lifecycle import rotate as rotate_it
    from datakit_lab.state import LabState

    for line in rotate_it(LabState(state_dir), what.value):
        typer.echo(line)


@app.command()
def load(name: DataSet, state_dir: StateDir = _DEFAULT_STATE) -> None:
    """Fill the running SQL Server double with one more data set."""
    _command(state_dir, "load", name=name.value)


@app.command()
def mutate(
    step: Annotated[str | None, typer.Argument(help="One step of the source's life; all of them if left out.")] = None,
    state_dir: StateDir = _DEFAULT_STATE,
) -> None:
    """Play the source's life: December arrives, delays are corrected, planes are retired, a column is added."""
    _command(state_dir, "mutate", step=step)


@app.command()
def faults(
    fault: Annotated[str, typer.Argument(help="'drop after 5000', 'stall 30', 'error 1205 times 2', or 'clear'.")],
    state_dir: StateDir = _DEFAULT_STATE,
) -> None:
    """Make the SQL Server double misbehave once, or as often as the text says."""
    _command(state_dir, "fault", text=fault)


@app.command()
def sidecar(
    state_dir: StateDir = _DEFAULT_STATE,
    image: Annotated[
        str | None, typer.Option(help="The sidecar's image. [dim]Default: the one that scripts/images builds[/dim]")
    ] = None,
    volume: Annotated[str, typer.Option(help="The volume in memory that it publishes into.")] = "datakit-credentials",
    stop: Annotated[bool, typer.Option("--stop", help="Remove it, with its volume.")] = False,
) -> None:
    """Run the sidecar of a running lab as a container, too, for datakits that are containers."""
    from importlib.metadata import version

    from datakit_lab.docker import Engine
    from datakit_lab.sidecar_container import SidecarContainer
    from datakit_lab.state import LabState

    state = LabState(state_dir)
    if not state.running:
        raise LabError(f"no lab runs in {state_dir}", fix="datakit-lab up")
    name = image or f"datakit.local/platform/sidecar:v{version('datakit-sidecar')}"
    container = SidecarContainer(Engine(), state, image=name, volume=volume)
    if stop:
        container.close()
        return
    container.start()
    typer.echo(f"container {container.name} publishes into the volume {volume}; docker logs {container.name}")


@app.command()
def kdc(
    directory: Annotated[Path | None, typer.Option(help="Where the realm lives; a passing one if left out.")] = None,
    port: Annotated[int, typer.Option(help="Loopback port, 0 for a free one.")] = 10088,
    realm: Annotated[str, typer.Option(help="Name of the realm.")] = "LAB.TEST",
    ticket_life: Life = "10h",
    principal: Annotated[list[str] | None, typer.Option(help="User or service to create; repeatable.")] = None,
) -> None:
    """Run only a KDC, in the foreground, with the principals and one keytab of them all."""
    from datakit_lab.kdc import Kdc

    _end_on_sigterm()
    with Kdc(directory, port=port, realm=realm, ticket_life=_duration(ticket_life)) as server:
        names = [name for name in principal or ["svc-datakit"] if not server.has_principal(name)]
        for name in names:
            server.add_principal(name)
        keytab = server.keytab(server.directory / "lab.keytab", *(principal or ["svc-datakit"]))
        _until_interrupted(
            [f"{realm} answers on port {server.port}.", f"KRB5_CONFIG={server.krb5_conf}", f"keytab: {keytab}"]
        )


@app.command()
def sqlserver(
    port: Annotated[int, typer.Option(help="Loopback port, 0 for a free one.")] = 11433,
    data: Annotated[str, typer.Option(help="Data sets, separated by commas: airline, tpch, nasty.")] = "airline",
    keytab: Annotated[Path | None, typer.Option(help="Keys of MSSQLSvc/HOST:PORT; without, no Kerberos.")] = None,
    principal: Annotated[
        list[str] | None, typer.Option(help="Who may read with a ticket, user@REALM; repeatable.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="The password of the SQL login datakit; without, a new one is printed.")
    ] = None,
    certificates: Annotated[
        Path | None, typer.Option(help="Folder of server.pem and server.key; without, new ones for this run.")
    ] = None,
    fault: Annotated[list[str] | None, typer.Option(help="A fault that waits from the start; repeatable.")] = None,
    control: Annotated[Path | None, typer.Option(help="Socket for load, mutate and faults.")] = None,
) -> None:
    """Run only the SQL Server double, in the foreground. It is a double for laptops and tests, not SQL Server."""
    import contextlib
    import secrets
    import tempfile

    from datakit_lab.certificates import ServerCertificate, issue_certificate
    from datakit_lab.control import serve
    from datakit_lab.double import DATABASE, SQL_LOGIN, run_double

    _end_on_sigterm()
    data_sets = _data_sets(data)
    password = password_file.read_text(encoding="utf-8") if password_file else secrets.token_urlsafe(12)
    with contextlib.ExitStack() as stack:
        if certificates is None:
            certificate = issue_certificate(
                Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="datakit-lab-")))
            )
        else:
            certificate = ServerCertificate.in_folder(certificates)
        double = stack.enter_context(
            run_double(
                port=port,
                data=data_sets,
                password=password,
                principals=principal or [],
                keytab=keytab,
                certificate=certificate,
                faults=fault or [],
            )
        )
        if control is not None:
            stack.enter_context(serve(control, double.handlers()))
        lines = [f"The double of SQL Server answers on port {double.server.port}.", f"database: {DATABASE}"]
        if password_file is None:
            lines.append(f"SQL login: {SQL_LOGIN}, password: {password}")
        _until_interrupted(lines)


@app.command()
def postgres(
    directory: Annotated[Path | None, typer.Option(help="Where the data lives; a passing one if left out.")] = None,
    port: Annotated[int, typer.Option(help="Loopback port, 0 for a free one.")] = 15432,
) -> None:
    """Run only a PostgreSQL, in the foreground."""
    from datakit_lab.postgres import Postgres

    _end_on_sigterm()
    with Postgres(directory, port=port) as server:
        _until_interrupted([f"PostgreSQL answers on port {server.port}.", f'psql "{server.dsn()}"'])


@app.command()
def registry(
    directory: Annotated[Path | None, typer.Option(help="Where images are kept; a passing one if left out.")] = None,
    port: Annotated[int, typer.Option(help="Loopback port, 0 for a free one.")] = 15000,
    user: Annotated[
        str | None, typer.Option(help="Let only this user in, with a new password that is printed; else everybody.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="With a certificate of an authority of its own.")] = False,
) -> None:
    """Run only a registry of images, in the foreground: Debian's docker-registry."""
    import contextlib
    import secrets
    import tempfile

    from datakit_lab.certificates import issue_certificate
    from datakit_lab.registry import Registry

    _end_on_sigterm()
    with contextlib.ExitStack() as stack:
        password = secrets.token_urlsafe(12)
        certificate = None
        if tls:
            folder = directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="datakit-lab-")))
            certificate = issue_certificate(folder / "certificates", Registry.names())
        users = {user: password} if user else None
        server = stack.enter_context(Registry(directory, port=port, users=users, certificate=certificate))
        lines = [f"The registry answers at {server.name}.", f"export DATAKIT_REGISTRY={server.name}"]
        if not server.name_resolves():
            lines.append("A Docker engine finds it with this line in /etc/hosts: 127.0.0.1 registry.localhost")
        if certificate is not None:
            lines.append(f"export DATAKIT_REGISTRY_CA={certificate.authority}")
        if user:
            lines.append(f"user: {user}, password: {password}")
        _until_interrupted(lines)


@app.command()
def kubernetes(
    directory: Annotated[
        Path | None, typer.Option(help="Where kubeconfig and certificates are put; a passing one if left out.")
    ] = None,
    port: Annotated[int, typer.Option(help="Loopback port of the API, 0 for a free one.")] = 16443,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Namespace to create besides default; repeatable.")
    ] = None,
    own_network: Annotated[
        bool, typer.Option("--own-network", help="Each pod has its own network, with this machine's servers. As root.")
    ] = False,
) -> None:
    """Run a double of Kubernetes, in the foreground: the API of pods, and the pods on the local Docker engine."""
    from datakit_lab.kubernetes import KubernetesDouble

    _end_on_sigterm()
    namespaces = tuple(namespace or ())
    with KubernetesDouble(directory, port=port, namespaces=namespaces, own_network=own_network) as double:
        _until_interrupted(
            [f"The double of Kubernetes answers at {double.url}.", f"export KUBECONFIG={double.kubeconfig}"]
        )


def _duration(text: str) -> timedelta:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = text[:-1], text[-1:]
    if not (number.isdecimal() and int(number) and unit in units):
        raise LabError(f"{text!r} is no duration", fix="write a number and s, m, h or d: 30s, 15m, 10h")
    return timedelta(seconds=int(number) * units[unit])


def _data_sets(text: str) -> list[str]:
    known = [each.value for each in DataSet]
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise LabError(f"there is no data set {name!r}", fix=f"choose of: {', '.join(known)}")
    return names


def _command(state_dir: Path, command: str, **arguments: str | None) -> None:
    """Send a command to the running double and print what it did."""
    from datakit_lab.control import call
    from datakit_lab.lifecycle import running_record
    from datakit_lab.state import LabState

    state = LabState(state_dir)
    running_record(state)
    for line in call(state.control, command, **arguments)["did"]:
        typer.echo(line)


def _show(state: LabState, found: Health) -> None:
    from rich.table import Table

    table = Table("server", "port", "process", "state", "log", box=None, pad_edge=False, header_style="bold")
    for name, service in found.record.services.items() if found.record is not None else ():
        good = "ready" if name == "sidecar" else "answers"
        table.add_row(
            name,
            str(service.port),
            str(service.pid or "-"),
            f"[green]{good}[/]" if found.answering[name] else "[red]down[/]",
            str(Path(service.log).relative_to(state.directory)),
        )
    console = _console()
    console.print(table)
    for principal, tickets in (found.sidecar or {}).get("principals", {}).items():
        left = min(tickets["seconds_left"].values(), default=0)
        services = ", ".join(tickets["seconds_left"])
        console.print(f"{principal}: tickets for {left:,} s (key version {tickets['kvno']}): {services}")
    for secret, files in (found.sidecar or {}).get("secrets", {}).items():
        console.print(f"secret {secret}: published {files['age_seconds']:,} s ago")


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _until_interrupted(lines: list[str]) -> None:
    import signal

    try:
        for line in [*lines, "Ctrl-C ends it."]:
            typer.echo(line)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        typer.echo("")


def _end_on_sigterm() -> None:
    """Let SIGTERM end a foreground command as Ctrl-C does, with everything cleaned up."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def main() -> NoReturn:
    """Run the command; errors of the lab end it with one message and their exit code."""
    try:
        app(standalone_mode=True)
    except LabError as error:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        console.print(f"[bold red]error[/]: {_escaped(error.what)}", soft_wrap=True)
        if error.fix:
            console.print(f"[bold]next step[/]: {_escaped(error.fix)}", soft_wrap=True)
        sys.exit(error.exit_code)
    sys.exit(0)
