"""Airflow's connections and variables from Delinea, for the identifiers that begin with a prefix, and for no other.

Airflow asks its secrets backends for every connection and every variable before it asks its own database. So whatever
does not begin with the prefix is answered without a request, and what does begin with it is the vault's alone: where
the vault fails, or holds what Airflow can make no connection of, the lookup fails. To say "not here" instead, or to
raise any other exception, would let Airflow take a connection of the same name from its database, which other people
may write.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from datakit_vault import Reference, Secret, Vault, VaultSettings
from datakit_vault.errors import ConfigurationError, FieldEmpty, VaultError

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
_CAUSES: Final = {
    "JSON": "it is not quite JSON, or has a key or a kind of value that Airflow's connections do not have",
    "URI": "a port that is no number, a character of the password, such as / # ? @, that is not percent-encoded, "
    "or an __extra__ that is no JSON object",
}
"""How a field ``uri`` is written → what is wrong where Airflow cannot read it."""
_PORTS: Final = range(65536)


class VaultLookupFailed(AirflowSecretsBackendAccessDenied):
    """The vault did not give what was asked for; of all exceptions, the one after which Airflow asks nobody else."""


class DelineaSecretsBackend(BaseSecretsBackend):
    """A secrets backend for Delinea Secret Server and Delinea Platform, for several threads and forked workers.

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
        # No lock guards these two: one that is held while the vault is asked lets everybody wait for its answer, and a
        # process that is forked meanwhile for ever. Reading and setting one key is safe without.
        self._known: dict[tuple[str, str], tuple[float, Secret[str] | VaultLookupFailed]] = {}
        self._vaults: dict[int, Vault] = {}

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:  # noqa: ARG002  # Airflow's
        """Return a connection as JSON or URI; None if the identifier is not the vault's.

        :raises VaultLookupFailed: it is the vault's, and the vault did not give it, or gave what is no connection.
        """
        return self._look_up("connection", conn_id, lambda vault, secret: self._read_connection(conn_id, vault, secret))

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:  # noqa: ARG002  # Airflow's
        """Return a variable's text; None if the key is not the vault's.

        :raises VaultLookupFailed: it is the vault's, and the vault did not give it.
        """
        return self._look_up("variable", key, lambda vault, secret: _text(vault, secret, "value"))

    def _look_up(self, kind: str, name: str, read: Callable[[Vault, Reference], str]) -> str | None:
        if not name.startswith(self._prefix):
            return None
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
            return Secret(read(self._connected(), Reference.parse(path)))
        except VaultError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, Airflow would ask the next backend after it
            problem = str(_unexpected(error))
        return VaultLookupFailed(f"Airflow's {kind} {name!r} is the secret {path}: {problem}")

    def _read_connection(self, conn_id: str, vault: Vault, secret: Reference) -> str:
        there = {field.slug for field in vault.record(secret).fields if not field.is_file}
        if "uri" in there:
            text = _text(vault, secret, "uri")
            self._prove(
                conn_id,
                text,
                what="its field uri",
                cause=_CAUSES["JSON" if text.lstrip().startswith("{") else "URI"],
                fix=f"correct it in the vault, or use the fields {', '.join(_FIELDS)}, which need no encoding",
            )
            return text
        parts: dict[str, str] = {}
        for slug in _FIELDS.keys() & there:
            try:
                parts[_FIELDS[slug]] = vault.read_text(secret, slug).reveal()
            except FieldEmpty:  # as Delinea says that a field of the template is left out
                continue
        if "conn_type" not in parts:
            raise ConfigurationError(
                "the secret is no connection: it has neither a field uri nor a field conn-type",
                cause="it is of another template",
                fix=f"use a template with the fields {', '.join(_FIELDS)}",
            )
        text = json.dumps({**parts, **({"port": _port(parts["port"])} if "port" in parts else {})})
        if "extra" in parts and not _is_object(parts["extra"]):
            raise ConfigurationError(
                "its field extra is no JSON object",
                cause="it is written as name=value, or with single quotes",
                fix='write it in the vault as {"sslmode": "require"}, or leave the field empty',
            )
        self._prove(
            conn_id,
            text,
            what=f"its fields {', '.join(slug for slug, part in _FIELDS.items() if part in parts)}",
            cause="Airflow's own settings, such as fernet_key, rather than the secret",
            fix="look whether Airflow can use any connection with a password here",
        )
        return text

    def _prove(self, conn_id: str, text: str, *, what: str, cause: str, fix: str) -> None:
        """Do with the text what Airflow does where it still asks the next backend if that goes wrong."""
        try:
            connection = self.deserialize_connection(conn_id, text)
            understood = not connection.extra or _is_object(connection.extra)
            if understood:
                connection.get_uri()  # the last thing that Airflow does before it takes the connection
            problem = None if understood else "its extra is no JSON object"
        except Exception as error:  # noqa: BLE001  # it says what it likes, and quotes the connection
            problem = type(error).__name__
        if problem is not None:
            raise ConfigurationError(f"Airflow can make no connection of {what} ({problem})", cause=cause, fix=fix)

    def _connected(self) -> Vault:
        """Return a client of this process's own: workers are forked, and two must not share a connection."""
        pid = os.getpid()
        # two threads that come first may both make one, which asks nobody yet; setdefault lets both use the same
        return self._vaults.get(pid) or self._vaults.setdefault(pid, Vault(self._settings))


def _text(vault: Vault, secret: Reference, slug: str) -> str:
    text = vault.read_text(secret, slug).reveal()
    if not text.strip():  # of a connection, Airflow takes the first character without looking
        raise ConfigurationError(
            f"its field {slug} is blank", cause="it was created and never filled", fix="fill it in the vault"
        )
    return text


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if port not in _PORTS:
        raise ConfigurationError(
            f"its field port is no number from 0 to {_PORTS[-1]}",
            cause="a word in its place, or the host's name with the port",
            fix="write the number alone in the vault, or leave the field empty",
        )
    return port


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _unexpected(error: Exception) -> VaultError:
    """Say where it came from, and none of its words, which may be the secret's."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return VaultError(
        f"the lookup ended with {type(error).__name__}, from {frame.f_globals.get('__name__')}, line {line}",
        cause="an answer of the vault or a value in the secret that nobody thought of",
        fix="look at the secret in the vault; if nothing is wrong with it, report this message",
    )
