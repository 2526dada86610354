"""The commands put together, and what becomes of their errors."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from datakit_vault.cli import _check, _get, _watch
from datakit_vault.cli._output import Stopped, show_error, show_unexpected, use_json
from datakit_vault.errors import ConfigurationError, TemporaryError, VaultError

# Typer carries its own copy of click since 0.26 and uses the installed one before; this is the right class in both.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="datakit-vault",
    help="Look at the vault as the account of a bootstrap credential sees it. Values are never written anywhere.",
    epilog="Exit codes: 0 done · 75 temporary, retry · 77 denied · 78 configuration",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("get")(_get.get)
app.command("watch")(_watch.watch)
app.command("check")(_check.check)


def _show_version(wanted: bool) -> None:
    if wanted:
        from datakit_vault import __version__

        typer.echo(f"datakit-vault {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _datakit_vault(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  # its callback acts
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    use_json("--json" in arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        code = app(arguments, prog_name="datakit-vault", standalone_mode=False)
        sys.stdout.flush()
    except VaultError as error:
        show_error(error)
        return error.exit_code
    except _UsageError as error:
        usage = _explain_usage(error)
        show_error(usage)
        return usage.exit_code
    except Stopped as stopped:
        show_error(TemporaryError(f"stopped by {stopped}"))
        return TemporaryError.exit_code
    except BrokenPipeError:
        sys.stdout = None  # or Python complains once more when it flushes at exit
        return 0
    except Exception as error:  # noqa: BLE001  # the last line of defence: a bug is said in one line, not in a traceback
        show_unexpected(error)
        return VaultError.exit_code
    return code if isinstance(code, int) else 0


def _explain_usage(error: Exception) -> ConfigurationError:
    path = getattr(getattr(error, "ctx", None), "command_path", "datakit-vault")
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return ConfigurationError(message.rstrip("."), subject=path, fix=f"see {path} --help")


def _stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)
