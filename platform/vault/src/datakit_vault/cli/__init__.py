"""The ``datakit-vault`` command, for people: is the vault there, what may this account read, has a secret changed.

It comes with the extra ``cli``; a process that only uses the client pays nothing for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from datakit_vault.errors import ConfigurationError


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of :mod:`datakit_vault.errors`; 70 is a bug of ours.

    :param arguments: those after the program's name; None takes the process's own.
    """
    try:
        from datakit_vault.cli._app import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write(f"error {error.name} is not installed\n  next:  pip install 'datakit-vault[cli]'\n")
        sys.exit(ConfigurationError.exit_code)
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))
