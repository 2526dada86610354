"""The ``datakit`` command: one module per group of commands, each of which imports what it needs when it is called.

``datakit --help`` and shell completion must be quick, so nothing here imports pydantic, pyarrow or a driver.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from datakit.cli import (
    airflow,
    audit,
    build,
    check,
    contract,
    doctor,
    insight,
    locks,
    new,
    preview,
    release,
    releases,
    run,
    schema,
)
from datakit.cli._output import show_error, show_unexpected, use_json
from datakit.errors import ConfigurationError, DatakitError, Interrupted

__all__ = ["app", "main"]

# Typer carries its own copy of click since 0.26 and uses the installed one before; this is the right class in both.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="datakit",
    help="Define the extraction of a source system once, land it in every warehouse.",
    epilog="Exit codes: 0 done · 75 temporary, retry · 77 denied · 78 configuration or contract · 99 nothing to do",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_DEFINE, _RUN, _RELEASE, _DEPLOY, _LOOK = (
    "Define a source, a warehouse",
    "Run here",
    "Release",
    "Pin what each environment runs, and deploy it",
    "What runs where, and why",
)
app.command("new", rich_help_panel=_DEFINE)(new.new)
app.add_typer(contract.app, name="contract", rich_help_panel=_DEFINE)
app.command("check", rich_help_panel=_DEFINE)(check.check)
app.command("schema", rich_help_panel=_DEFINE)(schema.schema)
app.command("preview", rich_help_panel=_RUN)(preview.preview)
app.command("run", rich_help_panel=_RUN)(run.run)
app.command("doctor", rich_help_panel=_RUN)(doctor.doctor)
app.command("build", rich_help_panel=_RELEASE)(build.build)
app.command("release", rich_help_panel=_RELEASE)(release.release)
app.command("releases", rich_help_panel=_RELEASE)(releases.releases)
app.command("show", rich_help_panel=_RELEASE)(releases.show)
app.command("verify", rich_help_panel=_RELEASE)(releases.verify)
app.command("lock", rich_help_panel=_DEPLOY)(locks.lock)
app.command("promote", rich_help_panel=_DEPLOY)(locks.promote)
app.command("rollback", rich_help_panel=_DEPLOY)(locks.rollback)
app.add_typer(airflow.app, name="airflow", rich_help_panel=_DEPLOY)
app.command("status", rich_help_panel=_LOOK)(insight.status)
app.command("history", rich_help_panel=_LOOK)(insight.history)
app.command("diff", rich_help_panel=_LOOK)(locks.diff)
app.command("drift", rich_help_panel=_LOOK)(insight.drift)
app.command("audit", rich_help_panel=_LOOK)(audit.audit)


def _show_version(wanted: bool) -> None:
    if wanted:
        from datakit import __version__

        typer.echo(f"datakit {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _datakit(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  # its callback acts
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of :mod:`datakit.errors`; 70 is a bug of ours.

    :param arguments: those after the program's name; None takes the process's own.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    use_json("--json" in arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    sys.exit(_call(arguments))


def _call(arguments: list[str]) -> int:
    try:
        code = app(arguments, prog_name="datakit", standalone_mode=False)
        sys.stdout.flush()
    except DatakitError as error:
        show_error(error)
        return error.exit_code
    except _UsageError as error:
        usage = _explain_usage(error)
        show_error(usage)
        if arguments[:1] == ["run"]:
            _leave_report(usage)
        return usage.exit_code
    except (BrokenPipeError, SystemExit) as error:
        # Typer turns a broken pipe into exit code 1, but a reader that has seen enough, such as head, is no failure.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        sys.stdout = None  # or Python complains once more when it flushes at exit
        return 0
    except Exception as error:  # noqa: BLE001  # the last line of defence: a bug is said in one line, not in a traceback
        show_unexpected(error)
        return DatakitError.exit_code
    return code if isinstance(code, int) else 0


def _leave_report(usage: ConfigurationError) -> None:
    """Leave a run report also where the arguments of the run are no good; where it goes, only the environment says."""
    from datakit.ingest.report import default_report_path

    try:
        run.leave_report(usage, default_report_path())
    except ConfigurationError as error:
        show_error(error)


def _explain_usage(error: Exception) -> ConfigurationError:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "datakit")
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return ConfigurationError(message.rstrip("."), subject=path, fix=f"see {path} --help")


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}", fix="run it again when it suits")
