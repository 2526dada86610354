"""Airflow's connections and variables from Delinea, for the identifiers that begin with a prefix, and for no other.

Airflow asks its secrets backends for every connection and every variable before it asks its own database. So whatever
does not begin with the prefix is answered without a request, and what does begin with it is the vault's alone: where
the vault fails, the lookup fails. To say "not here" instead would let Airflow take a connection of the same name from
its database, which other people may write.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from datakit_vault import Reference, Secret, Vault, VaultSettings
from datakit_vault.errors import FieldEmpty, VaultError

try:
    from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied
except ImportError:  # Airflow before 3.2.2 has none, and asks the next backend whatever is raised

    class AirflowSecretsBackendAccessDenied(PermissionError):  # type: ignore[no-redef]
        """Stands in where Airflow does not know it."""


from airflow.secrets.base_secrets import BaseSecretsBackend

_FIELDS: Final = {
    "conn-type": "conn_type",
    "host": "host",
    "username": "login",
    "password": "password",
    "port": "port",
    "database": "schema",
    "extra": "extra",
}
"""Field of the secret (its slug) → part of Airflow's connection."""


class VaultLookupFailed(AirflowSecretsBackendAccessDenied):
    """The vault did not give what was asked for; of all exceptions, the one after which Airflow asks nobody else."""


class DelineaSecretsBackend(BaseSecretsBackend):
    """A secrets backend for Delinea Secret Server and Delinea Platform.

    :param url: the vault's address.
    :param kind: ``secret-server`` or ``platform``.
    :param credentials: the folder with the credential's files: username and password, or client_id and client_secret.
    :param prefix: what identifiers of the vault begin with; with it, they are the names of secrets.
    :param connections: the vault's folder of connections. A secret in it has a field ``uri`` with a connection as
        Airflow writes it, or ``conn-type`` and some of ``host``, ``username``, ``password``, ``port``, ``database``
        and ``extra``.
    :param variables: the vault's folder of variables, each a secret with a field ``value``.
    :param ttl: seconds that a value is kept in memory.
    :param negative_ttl: seconds that a failure is kept, so that a secret that is missing is not asked for all the time.
    :param settings: further settings of :class:`datakit_vault.VaultSettings`, such as ``ca_file`` and ``domain``.
    """

    def __init__(
        self,
        *,
        url: str,
        credentials: str,
        kind: Literal["secret-server", "platform"] = "secret-server",
        prefix: str = "delinea_",
        connections: str = "/Airflow/Connections",
        variables: str = "/Airflow/Variables",
        ttl: float = 300,
        negative_ttl: float = 30,
        clock: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not prefix:
            raise ValueError("prefix is empty: every connection and variable of Airflow would be asked of the vault")
        if ca_file := settings.pop("ca_file", None):
            settings["ca_file"] = Path(ca_file)
        self._settings = VaultSettings(kind=kind, url=url, credentials=Path(credentials), **settings)
        self._prefix = prefix
        self._folders = {"connection": connections.rstrip("/"), "variable": variables.rstrip("/")}
        self._lives = (ttl, negative_ttl)
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, Secret[str] | VaultLookupFailed]] = {}
        self._vault: tuple[int, Vault] | None = None

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:  # noqa: ARG002  # Airflow's
        """Return a connection as JSON or URI; None if the identifier is not the vault's.

        :raises VaultLookupFailed: it is the vault's, and the vault did not give it.
        """
        return self._look_up("connection", conn_id, self._read_connection)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:  # noqa: ARG002  # Airflow's
        """Return a variable's text; None if the key is not the vault's.

        :raises VaultLookupFailed: it is the vault's, and the vault did not give it.
        """
        return self._look_up("variable", key, lambda vault, secret: vault.read_text(secret, "value").reveal())

    def _look_up(self, kind: str, name: str, read: Callable[[Vault, Reference], str]) -> str | None:
        if not name.startswith(self._prefix):
            return None
        with self._lock:
            expires, known = self._known.get((kind, name), (0.0, None))
            if known is None or expires <= self._clock():
                known = self._ask(kind, name, read)
                life = self._lives[isinstance(known, VaultLookupFailed)]
                self._known[kind, name] = (self._clock() + life, known)
        if isinstance(known, VaultLookupFailed):
            raise VaultLookupFailed(*known.args)
        return known.reveal()

    def _ask(self, kind: str, name: str, read: Callable[[Vault, Reference], str]) -> Secret[str] | VaultLookupFailed:
        path = f"{self._folders[kind]}/{name.removeprefix(self._prefix)}"
        try:
            value = read(self._connected(), Reference.parse(path))
        except VaultError as error:
            return VaultLookupFailed(f"Airflow's {kind} {name!r} is the secret {path}: {error}")
        if not value.strip():  # Airflow takes the first character without looking
            return VaultLookupFailed(f"Airflow's {kind} {name!r} is the secret {path}, which is blank")
        return Secret(value)

    def _read_connection(self, vault: Vault, secret: Reference) -> str:
        there = {field.slug for field in vault.record(secret).fields if not field.is_file}
        if "uri" in there:
            return vault.read_text(secret, "uri").reveal()
        parts: dict[str, str] = {}
        for slug in _FIELDS.keys() & there:
            try:
                parts[_FIELDS[slug]] = vault.read_text(secret, slug).reveal()
            except FieldEmpty:  # as Delinea says that a field of the template is left out
                continue
        if "conn_type" not in parts:
            raise VaultError(
                "the secret is no connection: it has neither a field uri nor a field conn-type",
                subject=f"secret {secret}",
                fix=f"use a template with the fields {', '.join(_FIELDS)}",
            )
        return json.dumps({**parts, **({"port": int(parts["port"])} if "port" in parts else {})})

    def _connected(self) -> Vault:
        """Return a client of this process's own: workers are forked, and two must not share a connection."""
        if self._vault is None or self._vault[0] != os.getpid():
            self._vault = (os.getpid(), Vault(self._settings))
        return self._vault[1]
