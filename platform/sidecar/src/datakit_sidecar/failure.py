"""Whatever can go wrong with a ticket or a secret.

It is a module of its own so that probes, which run every few seconds, need not import the vault's client.
"""

from __future__ import annotations

from datakit_vault.errors import VaultError

from datakit_sidecar.errors import SidecarError

Failure = SidecarError | VaultError
"""Both have ``what``, ``subject``, ``cause``, ``fix``, ``retryable`` and ``exit_code``."""


def one_line(error: Failure) -> str:
    """Return an error as one line of a log."""
    return "; ".join(str(error).splitlines())
