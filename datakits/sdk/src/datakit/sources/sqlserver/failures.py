"""What the driver and the server complain about, said in the words of :mod:`datakit.errors`.

The driver gives text and a SQLSTATE but no error number, and the server writes its text in the language of the login.
So the SQLSTATE decides the class of an error where it can, and the text only makes it more precise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datakit.errors import (
    AccessDenied,
    ConfigurationError,
    ContractMismatch,
    DatakitError,
    LoginRefused,
    SourceUnavailable,
    TicketExpired,
    TicketMissing,
)
from datakit.model.environment import SourceSystem
from datakit.sources.sqlserver.connection_string import service_name


@dataclass(frozen=True, slots=True)
class Place:
    """Where it happened, and what the messages can say about it.

    :ivar subject: a dataset's table, or ``host:port``.
    """

    system: SourceSystem
    subject: str

    @property
    def server(self) -> str:
        """``host:port``."""
        return f"{self.system.host}:{self.system.port}"

    @property
    def realm(self) -> str | None:
        """The realm of the principal."""
        return self.system.principal.rpartition("@")[2] if self.system.principal else None


Build = Callable[[str, Place], DatakitError]


def translate(error: BaseException, place: Place) -> DatakitError:
    """Return the error of our tree for one that the driver raised. It never holds the password."""
    message = _message(error)
    for pattern, build in _RULES:
        if re.search(pattern, message, re.IGNORECASE):
            return build(_short(message), place)
    state = str(getattr(error, "driver_error", ""))
    for words, build in _STATES.items():
        if words in state:
            return build(_short(message), place)
    return ConfigurationError(
        f"the server refused the statement: {_short(message)}",
        subject=place.subject,
        fix="run the statement by hand; if the server is right, correct the datakit",
    )


def _message(error: BaseException) -> str:
    driver = str(getattr(error, "driver_error", "") or "")
    return f"{getattr(error, 'ddbc_error', '') or error} ({driver})" if driver else str(error)


def _short(message: str) -> str:
    """Return the message without the names of the layers that it came through."""
    text = re.sub(r"\[(Microsoft|ODBC Driver \d+ for SQL Server|SQL Server)\]", "", message)
    return " ".join(text.split())[:600]


def _kdcs(realm: str | None) -> str:
    """Say which KDCs krb5.conf names for a realm."""
    if realm is None:
        return "the KDC of the default realm in krb5.conf"
    found: list[str] = []
    for file in os.environ.get("KRB5_CONFIG", "/etc/krb5.conf").split(":"):
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # libkrb5 accepts a missing file, too
        for section in re.findall(rf"^\s*{re.escape(realm)}\s*=\s*\{{(.*?)\}}", text, re.MULTILINE | re.DOTALL):
            found += re.findall(r"^\s*kdc\s*=\s*(\S+)", section, re.MULTILINE)
    return f"KDC {', '.join(found)}" if found else f"the KDCs that DNS names: _kerberos._udp.{realm}"


def _login_refused(message: str, place: Place) -> DatakitError:
    who = place.system.user or place.system.principal or "this principal"
    return LoginRefused(
        f"the server refused the login of {who}: {message}",
        subject=place.server,
        cause="there is no such login on the server, it is disabled, or its password is wrong"
        if place.system.user
        else "the Windows account has no login on the server, nor a group that has one",
        fix="ask the administrator for a login: CREATE LOGIN [DOMAIN\\account] FROM WINDOWS; the server's log has the "
        "reason as State",
    )


def _ticket_not_understood(message: str, place: Place) -> DatakitError:
    if place.system.user:
        return _login_refused(message, place)
    return LoginRefused(
        f"the server does not accept the ticket: {message}",
        subject=place.server,
        cause="the server's own account was given a new key after the ticket was issued, its SPN belongs to another "
        "account, or it does not trust the principal's domain",
        fix="get a new ticket (kill -USR1 the sidecar, or kinit); if that does not help: setspn -Q MSSQLSvc/HOST:PORT",
    )


def _database_refused(message: str, place: Place) -> DatakitError:
    return LoginRefused(
        f"the database {place.system.database!r} cannot be opened: {message}",
        subject=place.server,
        cause="it does not exist, its name is misspelled, or the login has no user in it",
        fix=f"check the name in the environment, or ask for: USE [{place.system.database}]; CREATE USER … FOR LOGIN …",
    )


def _permission_denied(message: str, place: Place) -> DatakitError:
    return LoginRefused(
        f"the principal may not read the object: {message}",
        subject=place.subject,
        cause="SELECT was not granted",
        fix="ask for: GRANT SELECT ON the object, or the role db_datareader",
    )


def _object_missing(message: str, place: Place) -> DatakitError:
    return LoginRefused(
        f"the object does not exist, or this principal may not see it: {message}",
        subject=place.subject,
        cause="it was renamed or dropped, or the environment names another database",
        fix="compare the name with: SELECT name FROM sys.objects",
    )


def _column_missing(message: str, place: Place) -> DatakitError:
    return ContractMismatch(
        f"a column of the contract is not there: {message}",
        subject=place.subject,
        cause="it was renamed or dropped after the contract was written",
        fix="see what drifted: datakit contract check",
    )


def _unknown_service(message: str, place: Place) -> DatakitError:
    service = service_name(place.system)
    return AccessDenied(
        f"the KDC knows no service {service}: {message}",
        subject=place.server,
        cause="the SPN is not registered, or host or port are not the registered ones (an alias, a named instance, a "
        f"listener); asked was {_kdcs(place.realm)}",
        fix=f"check: kvno {service}; on Windows: setspn -Q {service}; if it is registered under another name, set "
        "server_spn",
    )


def _no_ticket(message: str, place: Place) -> DatakitError:
    return TicketMissing(
        f"there is no Kerberos ticket for {service_name(place.system)}: {message}",
        subject=f"KRB5CCNAME={os.environ.get('KRB5CCNAME', '')}",
        cause="the credential cache holds neither this ticket nor a ticket-granting ticket",
        fix=f"look: klist; then kinit, or add {service_name(place.system)} to the sidecar's services",
    )


def _ticket_expired(message: str, place: Place) -> DatakitError:
    return TicketExpired(
        f"the ticket for {service_name(place.system)} has expired: {message}",
        subject=f"KRB5CCNAME={os.environ.get('KRB5CCNAME', '')}",
        cause="nobody renews it, or the clocks of this machine and of the KDC differ",
        fix="look: klist; date -u; then kinit, or look at the sidecar's log",
    )


def _clock_skew(message: str, place: Place) -> DatakitError:
    return AccessDenied(
        f"the clocks differ too much for Kerberos: {message}",
        subject=place.server,
        cause=f"this machine, {_kdcs(place.realm)} and the server must agree within 5 minutes",
        fix="compare: date -u here and there; start the time service",
    )


def _kdc_away(message: str, place: Place) -> DatakitError:
    return SourceUnavailable(
        f"no KDC answered: {message}",
        subject=place.server,
        cause=f"asked was {_kdcs(place.realm)}; it is down, a firewall closes port 88, or krb5.conf names others",
        fix=f"check: kvno {service_name(place.system)}; krb5.conf of this machine: "
        f"{os.environ.get('KRB5_CONFIG', '/etc/krb5.conf')}",
    )


def _realm_unknown(message: str, place: Place) -> DatakitError:
    return ConfigurationError(
        f"Kerberos cannot find the realm: {message}",
        subject=place.server,
        cause=f"krb5.conf ({os.environ.get('KRB5_CONFIG', '/etc/krb5.conf')}) maps {place.system.host} to no realm "
        "that it has a KDC for",
        fix="add the realm's kdc to [realms] and the domain to [domain_realm]",
    )


def _kerberos_failed(message: str, place: Place) -> DatakitError:
    service = service_name(place.system)
    return AccessDenied(
        f"Kerberos to {service} failed: {message}",
        subject=place.server,
        cause=f"the SPN, its key or an encryption type is wrong; asked was {_kdcs(place.realm)}",
        fix=f"check: kvno {service}; KRB5_TRACE=/dev/stderr shows every step; on Windows: setspn -Q {service}",
    )


def _certificate_refused(message: str, place: Place) -> DatakitError:
    return ConfigurationError(
        f"the server's TLS certificate was refused: {message}",
        subject=place.server,
        cause="it is self-signed or from the company's own CA, or made for another name than "
        f"{place.system.host_name_in_certificate or place.system.host}",
        fix="install the CA where this process runs (update-ca-certificates), or set host_name_in_certificate; "
        "trust_server_certificate is for laboratories",
    )


def _encryption_differs(message: str, place: Place) -> DatakitError:
    return ConfigurationError(
        f"client and server do not agree on encryption: {message}",
        subject=place.server,
        cause="the server offers no TLS, or no version that this machine allows",
        fix="enable TLS 1.2 or newer on the server; its log says what it was offered",
    )


def _unreachable(message: str, place: Place) -> DatakitError:
    return SourceUnavailable(
        f"the server cannot be reached: {message}",
        subject=place.server,
        cause="it is down, does not listen on this port, or a firewall is between",
        fix=f"check from where this process runs: nc -vz {place.system.host} {place.system.port}",
    )


def _host_unknown(message: str, place: Place) -> DatakitError:
    return SourceUnavailable(
        f"the name {place.system.host} cannot be resolved: {message}",
        subject=place.server,
        cause="the host is misspelled in the environment, or the name server does not know it from here",
        fix=f"check: getent hosts {place.system.host}",
    )


def _dropped(message: str, place: Place) -> DatakitError:
    return SourceUnavailable(
        f"the connection dropped: {message}",
        subject=place.subject,
        cause="the server restarted, failed over or ended the session, or the network closed it",
        fix="run again; if it happens at the same place every time, look at the server's log",
    )


def _busy(message: str, place: Place) -> DatakitError:
    return SourceUnavailable(
        f"the server cannot serve this now: {message}",
        subject=place.subject,
        cause="too many sessions, a failover, a start or a deadlock with a writer",
        fix="run again; lower --parallel if it says that a limit is reached",
    )


def _login_broken_off(message: str, place: Place) -> DatakitError:
    return SourceUnavailable(
        f"the server broke the login off, and the driver hides its reason: {message}",
        subject=place.server,
        cause="it is at its limit of sessions (error 10928), starting up or failing over",
        fix="run again; the server's log has the reason",
    )


def _snapshot_refused(message: str, place: Place) -> DatakitError:
    return ConfigurationError(
        f"the database does not allow snapshot isolation: {message}",
        subject=place.server,
        cause="isolation: snapshot is asked for",
        fix=f"ALTER DATABASE [{place.system.database}] SET ALLOW_SNAPSHOT_ISOLATION ON, or isolation: auto",
    )


def _needs_read_only(message: str, place: Place) -> DatakitError:
    return ConfigurationError(
        f"this replica answers only readers: {message}",
        subject=place.server,
        fix="set read_only_intent: true in the environment",
    )


# The first that matches decides. Numbers are SQL Server's, from sys.messages.
# The first rule that fits counts. Messages that quote names of the user's come before those that look for common
# words, and what passes by itself before what does not: both sides may say "Login failed" or "SSL Provider".
_RULES: Final[tuple[tuple[str, Build], ...]] = (
    (r"Invalid object name", _object_missing),  # 208
    (r"Invalid column name", _column_missing),  # 207
    (r"script upgrade|in recovery|being recovered|is being (restored|started)|is starting", _busy),  # 18401, 922 …
    (r"Resource ID|deadlock|service is currently busy|not currently available", _busy),  # 10928, 10929, 1205, 40501
    (r"modified by a DDL statement|metadata is not versioned", _busy),  # 3961
    (r"due to data movement|insufficient system memory|Lock request time out", _busy),  # 601, 701, 1222
    (r"Could not allocate (a new page|space for)|transaction log for database", _busy),  # 1101, 1105, 9002
    (r"application intent is set to read only", _needs_read_only),  # 978
    (r"SHUTDOWN is in progress|has been paused|availability (group|database)", _busy),
    (r"Communication link failure|error code 0x(68|20|2746|2745)\b|session is in the kill", _dropped),
    (r"not found in Kerberos database|Server not found", _unknown_service),
    (r"Clock skew", _clock_skew),
    (r"Ticket expired|credentials? ha(s|ve) expired", _ticket_expired),
    (r"No Kerberos credentials|No credentials cache|Matching credential not found", _no_ticket),
    (r"Cannot contact any KDC|KDC reply did not|Cannot resolve network address for KDC", _kdc_away),
    (r"Cannot find KDC|Cannot determine realm", _realm_unknown),
    (r"SSPI Provider|Cannot generate SSPI context|GSSAPI|Kerberos", _kerberos_failed),
    (r"certificate verify failed|certificate chain|subject name|hostname mismatch|self.signed", _certificate_refused),
    (r"SSL Provider|encryption not supported|TLS", _encryption_differs),
    (r"Packet size change not supported", _login_broken_off),  # the driver shows only the first of its messages
    (r"Cannot open database|not able to access the database", _database_refused),  # 4060, 916
    (r"untrusted domain", _ticket_not_understood),  # 18452
    (r"Login failed", _login_refused),  # 18456
    (r"permission was denied", _permission_denied),  # 229, 230
    (r"snapshot isolation is not allowed", _snapshot_refused),  # 3952
    (r"Name or service not known|Temporary failure in name resolution|0x2AF9|No address associated", _host_unknown),
    (r"Login timeout expired|error code 0x(6F|71|6E|274C|274D|73)\b|refused|network-related", _unreachable),
    (r"Client unable to establish connection", _unreachable),
    (r"TCP Provider", _dropped),
    (r"connection.*(closed|broken|dead|terminated)|Protocol error in TDS", _dropped),
)

# The driver's own words for a SQLSTATE, for servers that do not speak English.
_STATES: Final[dict[str, Build]] = {
    "Invalid authorization specification": _login_refused,  # 28000
    "Client unable to establish connection": _unreachable,  # 08001
    "Server rejected the connection": _unreachable,  # 08004
    "Connection not open": _dropped,  # 08003
    "Communication link failure": _dropped,  # 08S01
    "Connection failure during transaction": _dropped,  # 08007
    "Serialization failure": _busy,  # 40001
    "Timeout expired": _unreachable,  # HYT00
    "Base table or view not found": _object_missing,  # 42S02
    "Column not found": _column_missing,  # 42S22
}
