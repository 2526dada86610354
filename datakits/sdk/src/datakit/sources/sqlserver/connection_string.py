"""Connection strings for Microsoft's ODBC driver, and the service principal name that it will ask a ticket for."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from datakit.errors import ConfigurationError
from datakit.model.environment import SourceSystem

PACKET_SIZE: Final = 32767
"""Bytes; the largest that the driver takes. Larger packets mean fewer reads for the same rows."""

ENCRYPTED_PACKET_SIZE: Final = 16000
"""Bytes. Over TLS SQL Server grants 16,383 at most ("Configure the network packet size", Microsoft Learn), and a packet
must fit one TLS record of the driver's: above 16,352 it was seen to refuse a long statement, and above 16,383 to wait
for ever in the middle of a long value."""

_ENCRYPT: Final = {"yes": "Yes", "no": "No", "strict": "Strict"}


def service_name(system: SourceSystem) -> str:
    """Return the service principal name, without realm, that the driver asks a ticket for."""
    if system.server_spn is not None:
        return system.server_spn.partition("@")[0]
    return f"MSSQLSvc/{system.host}:{system.port}"


def accepted_services(system: SourceSystem) -> list[str]:
    """Return every service name that the driver may end up asking for.

    Without ``server_spn`` it makes the host canonical first: an alias becomes the name that DNS gives for it, and
    ``localhost`` the name of this machine.
    """
    names = [service_name(system)]
    if system.server_spn is None:
        canonical = {socket.getfqdn(system.host)}
        with contextlib.suppress(OSError):  # the driver will say that the name cannot be resolved
            found = socket.getaddrinfo(system.host, system.port, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
            canonical |= {name for *_, name, _ in found if name}
            if any(str(address[0]).startswith("127.") or address[0] == "::1" for *_, address in found):
                canonical |= {socket.gethostname(), socket.getfqdn()}
        names += sorted(f"MSSQLSvc/{name}:{system.port}" for name in canonical - {system.host})
    return names


def connection_string(system: SourceSystem, *, password: str | None = None) -> str:
    """Build the connection string; only a SQL login has a password in it, so never log it.

    :raises ConfigurationError: a value cannot be written into a connection string.
    """
    words: dict[str, str] = {
        "Server": f"tcp:{system.host},{system.port}",
        "Database": system.database,
        "Encrypt": _ENCRYPT[system.encrypt],
        "TrustServerCertificate": "Yes" if system.trust_server_certificate else "No",
        "PacketSize": str(PACKET_SIZE if system.encrypt == "no" else ENCRYPTED_PACKET_SIZE),
        # A connection that the driver quietly opens again would go on in another session, with another snapshot.
        "ConnectRetryCount": "0",
    }
    if system.user is None:
        words["Trusted_Connection"] = "Yes"
    else:
        words["UID"] = system.user
        words["PWD"] = password or ""
    if system.server_spn is not None:
        words["ServerSPN"] = system.server_spn
    if system.host_name_in_certificate is not None:
        words["HostnameInCertificate"] = system.host_name_in_certificate
    if system.read_only_intent:
        words["ApplicationIntent"] = "ReadOnly"
    return ";".join(f"{word}={_braced(word, value)}" for word, value in words.items()) + ";"


def _braced(word: str, value: str) -> str:
    if "\0" in value:
        raise ConfigurationError(f"{word} holds a NUL character", fix="correct it in the environment or in the secret")
    plain = value.replace(",", "").replace(":", "").replace(".", "").replace("-", "").replace("/", "").replace("_", "")
    return value if plain.isalnum() and plain.isascii() else "{" + value.replace("}", "}}") + "}"
