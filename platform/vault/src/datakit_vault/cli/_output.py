"""How the command speaks: results on stdout, everything else on stderr, once; JSON where a script asked for it."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from datakit_vault.errors import VaultError

if TYPE_CHECKING:
    from rich.console import Console

_json = False


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived. No :class:`Exception`, so that nothing takes it for an error of the vault."""


def use_json(wanted: bool) -> None:
    """Choose between JSON and text for the rest of the process."""
    global _json
    _json = wanted


def wants_json() -> bool:
    """Whether ``--json`` was given."""
    return _json


def out() -> Console:
    """Return a console on stdout. As wide as the text where it is no terminal, so that nothing is cut off in a pipe."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(data: Any, *, indent: int | None = 2) -> None:
    """Print the result as JSON on stdout."""
    sys.stdout.write(json.dumps(data, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def show_error(error: VaultError) -> None:
    """Print an error on stderr: what, cause, next step; or one line of JSON."""
    if _json:
        sys.stderr.write(json.dumps({"error": error.as_json()}, ensure_ascii=False) + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(
        Text.assemble(("error ", "bold red"), (f"{error.subject}: " if error.subject else "", "bold"), error.what)
    )
    if error.cause:
        console.print(Text.assemble(("  cause: ", "yellow"), error.cause))
    if error.fix:
        console.print(Text.assemble(("  next:  ", "green"), error.fix))
    if os.environ.get("DATAKIT_DEBUG"):
        sys.stderr.write("".join(traceback.format_exception(error)))


def show_unexpected(error: Exception) -> None:
    """Print a bug: one line, and how to see more. A foreign exception's message is kept back: it may hold a secret."""
    if os.environ.get("DATAKIT_DEBUG"):
        sys.stderr.write("".join(traceback.format_exception(error)))
    show_error(
        VaultError(
            f"unexpected {type(error).__name__}; this is a bug",
            fix="run it again with DATAKIT_DEBUG=1 to see the traceback, and report it",
        )
    )
