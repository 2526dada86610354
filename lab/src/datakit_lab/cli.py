"""The ``datakit-lab`` command. Heavy imports happen in the commands that need them."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from datakit_lab import server_commands, vault_commands
from datakit_lab._commands import DataSet, Life, console, data_sets, duration
from datakit_lab.errors import LabError, LabUnavailable

if TYPE_CHECKING:
    from datakit_lab.lifecycle import Health
    from datakit_lab.state import LabState

app = typer.Typer(
    name="datakit-lab",
    help="A corporate network in a box: KDC, vault and SQL Server doubles, PostgreSQL, sidecar; for laptops and tests.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Rotated(StrEnum):
    """What can be rotated."""

    KEYTAB = "keytab"
    PASSWORD = "password"  # noqa: S105  # its name


StateDir = Annotated[
    Path, typer.Option("--state-dir", envvar="DATAKIT_LAB_STATE", help="Where the lab keeps its files.")
]
_DEFAULT_STATE = Path(".lab")


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
    from datakit_lab.lifecycle import look, start
    from datakit_lab.state import LabOptions, LabState

    state = LabState(state_dir)
    options = LabOptions(
        data=tuple(data_sets(data)),
        kdc_port=kdc_port,
        sqlserver_port=sqlserver_port,
        postgres_port=postgres_port,
        vault_port=vault_port,
        sidecar_port=sidecar_port,
        ticket_life=int(duration(ticket_life).total_seconds()),
        clock_skew=int(duration(clock_skew).total_seconds()),
    )
    screen = console()
    with screen.status("starting the lab"):
        already, _record = start(state, options)
    found = look(state)
    if already:
        _refuse_half_a_lab(state_dir, found)
    screen.print("The lab is already running." if already else "The lab is ready.", style="bold")
    _show(state, found)
    option = _option(state_dir)
    typer.echo("\nLook around:")
    for command, what in [
        (f'eval "$(datakit-lab env{option})"', "Kerberos, secrets and the environment for this shell"),
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
    console().print("The lab is gone." if ran else "No lab was running; its leftovers, if any, are gone.")


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
        console().print(f"No lab runs in {state_dir}.")
    else:
        _show(state, found)
        _refuse_half_a_lab(state_dir, found)
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


for _server in (
    server_commands.kdc,
    server_commands.sqlserver,
    server_commands.postgres,
    server_commands.registry,
    server_commands.kubernetes,
):
    app.command()(_server)
app.add_typer(vault_commands.app, name="vault")


def _command(state_dir: Path, command: str, **arguments: str | None) -> None:
    """Send a command to the running double and print what it did."""
    from datakit_lab.control import call
    from datakit_lab.lifecycle import running_record
    from datakit_lab.state import LabState

    state = LabState(state_dir)
    running_record(state)
    for line in call(state.control, command, **arguments)["did"]:
        typer.echo(line)


def _option(state_dir: Path) -> str:
    """Return what a command needs to name this lab."""
    import shlex

    return "" if state_dir == _DEFAULT_STATE else f" --state-dir {shlex.quote(str(state_dir))}"


def _refuse_half_a_lab(state_dir: Path, found: Health) -> None:
    """Raise for a lab that was ready once, and some of whose servers have ended or do not answer.

    :raises LabUnavailable: names them.
    """
    down = [name for name, answers in found.answering.items() if not answers]
    if down and found.record is not None and found.record.phase == "ready":
        option = _option(state_dir)
        raise LabUnavailable(
            f"the lab runs, but not all of it: {', '.join(down)} {'is' if len(down) == 1 else 'are'} down",
            fix=f"datakit-lab down{option} && datakit-lab up{option}",
        )


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
    screen = console()
    screen.print(table)
    for principal, tickets in (found.sidecar or {}).get("principals", {}).items():
        left = min(tickets["seconds_left"].values(), default=0)
        services = ", ".join(tickets["seconds_left"])
        screen.print(f"{principal}: tickets for {left:,} s (key version {tickets['kvno']}): {services}")
    for secret, files in (found.sidecar or {}).get("secrets", {}).items():
        screen.print(f"secret {secret}: published {files['age_seconds']:,} s ago")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def main() -> NoReturn:
    """Run the command; errors of the lab end it with one message and their exit code."""
    try:
        app(standalone_mode=True)
    except LabError as error:
        from rich.console import Console

        stderr = Console(stderr=True, highlight=False)
        stderr.print(f"[bold red]error[/]: {_escaped(error.what)}", soft_wrap=True)
        if error.fix:
            stderr.print(f"[bold]next step[/]: {_escaped(error.fix)}", soft_wrap=True)
        sys.exit(error.exit_code)
    sys.exit(0)
