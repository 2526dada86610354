"""A real Active Directory, as Samba implements it: what a company's domain controller answers to a service account.

For tests of what MIT's KDC does not have: service names on accounts, key versions, lock-out, disabled and expired
accounts, and the error codes that go with them. Only its KDC listens, on loopback; the accounts are changed in its
database, so neither LDAP nor the fixed ports of a domain controller are needed. Debian's own Samba services, its
configuration and its database stay untouched.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from datakit_lab.active_directory._administration import Administration
from datakit_lab.active_directory._configuration import krb5_conf, smb_conf
from datakit_lab.errors import LabError, LabUnavailable, ProgramMissing
from datakit_lab.kdc import Kdc
from datakit_lab.network import free_port
from datakit_lab.processes import ChildProcess, Server

PACKAGES: Final = "samba samba-ad-provision samba-dsdb-modules samba-vfs-modules python3-samba"
"""What Debian calls the programs that this needs. Its services may stay disabled: none of them is used."""
_START_ATTEMPTS: Final = 5
_CREATE_SECONDS: Final = 300
_HOUR: Final = timedelta(hours=1)


class ActiveDirectory(Server):
    """A domain with one controller.

    Everything but :meth:`kinit` and :meth:`service_tickets` works on the database and also while the KDC is stopped.
    A change is in force with the next request.

    :param directory: where its files live (32 MB); a new private one, removed by :meth:`close`, if None.
    :param realm: name of the realm, upper case; its first label is the domain's short name.
    :param ticket_life: life of a ticket; whole hours, as Samba counts. Ask for shorter ones with ``life``.
    :param renewable_life: how long a ticket can be renewed; whole hours.
    :param hosts: more host names that belong to the realm, beside this machine's own.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        realm: str = "AD.LAB.TEST",
        ticket_life: timedelta = timedelta(hours=10),
        renewable_life: timedelta = timedelta(days=7),
        hosts: tuple[str, ...] = (),
    ) -> None:
        for name, span in (("ticket_life", ticket_life), ("renewable_life", renewable_life)):
            if span < _HOUR or span % _HOUR:
                raise LabError(f"{name} is {span}, and Samba counts whole hours", fix="ask for short tickets: life=…")
        self.realm = realm
        self.ticket_life = ticket_life
        self.renewable_life = renewable_life
        self._hosts = hosts
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="datakit-lab-ad-")) if directory is None else directory.resolve()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = self.directory / "samba.log"
        self.port = 0
        self._made = self.directory / "made"  # written last: a creation that was interrupted starts over
        self._administration = Administration(self.directory)
        self._client = Kdc(self.directory, realm=realm, renewable_life=renewable_life)  # never started

    @property
    def krb5_conf(self) -> Path:
        """The configuration file for clients and services: the value of ``KRB5_CONFIG``."""
        return self._client.krb5_conf

    def start(self) -> None:
        """Start it, creating the domain the first time; after :meth:`stop`, with the same port and accounts.

        :raises ProgramMissing: Samba's domain controller is not installed.
        :raises LabUnavailable: it does not start.
        """
        if self.running:
            return
        program = shutil.which("samba", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise ProgramMissing.of("samba", PACKAGES)
        first = not self.port
        for attempt in range(1, _START_ATTEMPTS + 1):
            self.port = self.port or free_port(udp=True)
            self._write_configuration()
            if not self._made.exists():
                self._administration.call("create", within=_CREATE_SECONDS)
                self._made.touch()
            command = [program, "--foreground", "--no-process-group", "--model=single", "--debug-stdout"]
            self._process = ChildProcess(
                "the domain controller",
                [*command, f"--configfile={self._administration.smb_conf}"],
                log=self.log,
                env=self._administration.environment(),
            )
            try:
                self._process.wait_until(self._listens)
            except LabUnavailable:
                self._process.kill()
                self._process = None
                if not first or attempt == _START_ATTEMPTS:
                    raise
                self.port = 0  # somebody took it between the choice and the bind
            else:
                return

    def stop(self) -> None:
        """Stop the KDC; tickets that were issued stay valid. :meth:`start` brings it back."""
        if self._process is not None:
            self._process.send(signal.SIGCONT)  # a paused process would not hear the SIGTERM
            self._process.stop()
            self._process = None

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Within, the KDC's port is open and nobody answers: the outage that costs clients their whole timeout."""
        if self._process is None:
            raise LabError("the domain controller is stopped; only a running one can fall silent", fix="call start()")
        self._process.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send(signal.SIGCONT)

    def close(self) -> None:
        """Stop it for good and, if its directory is its own, remove that."""
        self.stop()
        self._administration.close()
        if self._temporary:
            shutil.rmtree(self.directory)

    def add_service_account(self, name: str, *services: str, password: str | None = None) -> str:
        """Create a service account as administrators should: tickets for it are AES, its password does not age.

        :param services: service names that it runs, ``MSSQLSvc/host:1433``.
        :param password: a random one if None, for use with a keytab.
        :returns: its principal.
        :raises LabError: it exists, or another account has one of the services.
        """
        self._call("add", account=name, password=password or _random_password(), services=list(services))
        return self.full_name(name)

    def add_services(self, account: str, *services: str) -> None:
        """Register more service names on an account, as ``setspn -S`` does.

        :raises LabError: an account has one of them.
        """
        self._call("add_services", account=account, services=list(services))

    def keytab(self, path: Path, *accounts: str) -> Path:
        """Write the present keys of ``accounts`` to ``path``, replacing what is there at once; mode 0600."""
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            for account in accounts:
                self._call("export", account=account, path=str(scratch))
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        return path

    def rotate(self, account: str, password: str | None = None) -> int:
        """Give a new password; keytabs written before are refused from here on.

        :param password: a random one if None.
        :returns: the new key version.
        """
        self._call("set_password", account=account, password=password or _random_password())
        return self.key_version(account)

    def key_version(self, account: str) -> int:
        """Return the version of the account's present keys (kvno)."""
        return self._state(account)["msDS-KeyVersionNumber"]

    def set_lockout(self, threshold: int = 3, *, duration: timedelta = timedelta(minutes=30)) -> None:
        """Lock every account for ``duration`` after so many wrong tries, as a company's policy does; 0 for never."""
        self._call("set_lockout", threshold=threshold, seconds=int(duration.total_seconds()))

    def bad_password_count(self, account: str) -> int:
        """Return how many wrong tries count against the account, since the last good one."""
        return self._state(account)["badPwdCount"]

    def is_locked(self, account: str) -> bool:
        """Whether wrong tries have locked the account."""
        return self._state(account)["lockoutTime"] != 0

    def unlock(self, account: str) -> None:
        """Forget the wrong tries, and the lock."""
        self._call("unlock", account=account)

    def disable(self, account: str) -> None:
        """Disable an account; tickets that were issued stay valid until they expire."""
        self._call("set_enabled", account=account, enabled=False)

    def enable(self, account: str) -> None:
        """Undo :meth:`disable`."""
        self._call("set_enabled", account=account, enabled=True)

    def expire(self, account: str, when: datetime | None) -> None:
        """End an account at ``when`` (with a time zone); None for never."""
        seconds = None if when is None else when.timestamp()
        self._call("set_expiry", account=account, when=seconds)

    def expire_password(self, account: str) -> None:
        """Demand a new password before the next ticket; :meth:`rotate` gives one."""
        self._call("expire_password", account=account)

    def tries(self, account: str) -> list[str]:
        """Return how each try to get a ticket-granting ticket ended, oldest first, as the controller's audit has it.

        ``NT_STATUS_OK``, ``NT_STATUS_WRONG_PASSWORD``, ``NT_STATUS_ACCOUNT_LOCKED_OUT``, …
        """
        found = []
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            if '"type": "Authentication"' in line:
                event = json.loads(line[line.index("{") :])["Authentication"]
                if (event["clientAccount"] or "").partition("@")[0].lower() == account.lower():
                    found.append(event["status"])
        return found

    def kinit(
        self, name: str, keytab: Path, ccache: Path, *, life: timedelta | None = None, renewable: bool = True
    ) -> datetime:
        """Get a ticket-granting ticket and publish it at ``ccache``.

        :param life: a shorter life than the realm's; below two minutes Samba takes it for a password change's ticket.
        :returns: when it expires.
        :raises krb5.Krb5Error: the KDC refuses, or does not answer.
        """
        return self._client.kinit(name, keytab, ccache, life=life, renewable=renewable)

    def service_tickets(
        self, name: str, keytab: Path, ccache: Path, *services: str, life: timedelta | None = None
    ) -> datetime:
        """Publish a cache with tickets for ``services`` only: it opens those and nothing else, and cannot be renewed.

        :returns: when they expire.
        :raises krb5.Krb5Error: the KDC refuses, does not know a service, or does not answer.
        """
        return self._client.service_tickets(name, keytab, ccache, *services, life=life)

    def full_name(self, name: str) -> str:
        """Return ``name`` with the realm."""
        return self._client.full_name(name)

    def client_environment(self, ccache: Path | None = None) -> dict[str, str]:
        """Return the variables that a client of this realm needs."""
        return self._client.client_environment(ccache)

    @contextlib.contextmanager
    def configured(self, ccache: Path | None = None) -> Iterator[None]:
        """Within, this process's ``KRB5_CONFIG`` (and, if given, ``KRB5CCNAME``) are those of this realm."""
        with self._client.configured(ccache):
            yield

    def _listens(self) -> bool:
        """Whether the controller itself has the port; one that answers may be another's, and its log does not tell."""
        import psutil

        if self._process is None:
            return False
        with contextlib.suppress(psutil.Error):  # it has ended, which who waits will see
            sockets = psutil.Process(self._process.pid).net_connections("inet4")
            kinds = {connection.type for connection in sockets if getattr(connection.laddr, "port", None) == self.port}
            return kinds == {socket.SOCK_STREAM, socket.SOCK_DGRAM}
        return False

    def _call(self, name: str, **arguments: Any) -> Any:
        if not self._made.exists():
            raise LabError("the domain does not exist yet", fix="call start() first")
        return self._administration.call(name, **arguments)

    def _state(self, account: str) -> dict[str, int]:
        state: dict[str, int] = self._call("state", account=account)
        return state

    def _write_configuration(self) -> None:
        self.krb5_conf.write_text(
            krb5_conf(self.realm, self.port, self.directory, self.renewable_life, self._hosts), encoding="utf-8"
        )
        self._administration.smb_conf.write_text(
            smb_conf(self.realm, self.port, self.directory, self.ticket_life // _HOUR, self.renewable_life // _HOUR),
            encoding="utf-8",
        )


def _random_password() -> str:
    """Return a password that the default policy accepts, which wants three kinds of characters."""
    return f"{secrets.token_urlsafe(24)}-aA1"
