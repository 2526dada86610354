"""A real MIT Kerberos KDC in a private directory, as the current user.

For tests and laptops: it listens on loopback only, starts in a fraction of a second, dies with the process that
started it, and can be stopped, paused and started again to play an outage.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from datakit_lab.errors import LabError, LabUnavailable, ProgramMissing
from datakit_lab.network import LOOPBACK, free_port, own_names
from datakit_lab.processes import ChildProcess, Server

if TYPE_CHECKING:
    import krb5

_PACKAGES: Final = "krb5-kdc krb5-admin-server"
_ENCRYPTION_TYPES: Final = "aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal"
_START_ATTEMPTS: Final = 5
_LISTENS: Final = b"commencing operation"  # its log, once UDP and TCP are bound; a port that answers may be another's
_environment_lock = threading.RLock()

# rdns and dns_canonicalize_hostnames: the name asked for is the name used, whatever this machine's resolver says.
# FILE caches: KEYRING and KCM do not work in containers. No DNS look-ups: the lab has no DNS.
_KRB5_CONF: Final = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostnames = false
    rdns = false
    default_ccache_name = FILE:{directory}/ccache_%{{uid}}
    ticket_lifetime = {ticket_life}s
    renew_lifetime = {renewable_life}s
    clockskew = {clock_skew}
    forwardable = false
    permitted_enctypes = aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha1-96

[realms]
    {realm} = {{
        kdc = {address}:{port}
    }}

[domain_realm]
{domain_realm}
"""

_KDC_CONF: Final = """\
[kdcdefaults]
    kdc_listen = {address}:{port}
    kdc_tcp_listen = {address}:{port}

[realms]
    {realm} = {{
        database_name = {directory}/principal
        key_stash_file = {directory}/stash
        acl_file = {directory}/kadm5.acl
        max_life = {ticket_life}s
        max_renewable_life = {renewable_life}s
        default_principal_flags = +renewable, +forwardable, +preauth
        master_key_type = aes256-cts-hmac-sha1-96
        supported_enctypes = {encryption_types}
    }}

[libdefaults]
    clockskew = {clock_skew}

[logging]
    kdc = STDERR
"""


class Kdc(Server):
    """A realm with its own database, keys and port.

    Everything but :meth:`kinit` and :meth:`service_tickets` works on the database and also while the KDC is stopped.

    :param directory: where its files live; a new private one, removed by :meth:`close`, if None.
    :param realm: name of the realm, upper case.
    :param port: loopback port for UDP and TCP; 0 chooses a free one.
    :param ticket_life: life of a ticket; whole seconds.
    :param renewable_life: how long a ticket can be renewed; whole seconds.
    :param clock_skew: difference of clocks that is forgiven. MIT's KDC renews a ticket that expired within it, so
        tests of expiry want one second.
    :param hosts: more host names that belong to the realm, beside this machine's own.
    :param log: one line for each request; ``kdc.log`` in ``directory`` if None.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        realm: str = "LAB.TEST",
        port: int = 0,
        ticket_life: timedelta = timedelta(hours=10),
        renewable_life: timedelta = timedelta(days=7),
        clock_skew: timedelta = timedelta(minutes=5),
        hosts: tuple[str, ...] = (),
        log: Path | None = None,
    ) -> None:
        self.realm = realm
        self.ticket_life = ticket_life
        self.renewable_life = renewable_life
        self.clock_skew = clock_skew
        self._hosts = hosts
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="datakit-lab-kdc-")) if directory is None else directory.resolve()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = log or self.directory / "kdc.log"
        self._fixed_port = bool(port)
        self.port = port

    @property
    def krb5_conf(self) -> Path:
        """The configuration file for clients and services: the value of ``KRB5_CONFIG``."""
        return self.directory / "krb5.conf"

    def start(self) -> None:
        """Start it, creating the realm the first time; after :meth:`stop`, with the same port and database.

        :raises ProgramMissing: MIT's KDC is not installed.
        :raises LabUnavailable: it does not start, or somebody has the port.
        """
        if self.running:
            return
        program = _program("krb5kdc")
        for attempt in range(1, _START_ATTEMPTS + 1):
            if not self.port:
                self.port = free_port(udp=True)
            self._write_configuration()
            if not (self.directory / "principal").exists():
                self._create_database()
            offset = self.log.stat().st_size if self.log.exists() else 0
            self._process = ChildProcess(
                "the KDC", [program, "-n", "-r", self.realm], log=self.log, env=self._environment()
            )
            try:
                self._process.wait_until(lambda: _LISTENS in self.log.read_bytes()[offset:])  # noqa: B023 - called now
            except LabUnavailable:
                self._process.kill()
                self._process = None
                if self._fixed_port or attempt == _START_ATTEMPTS:
                    raise
                self.port = 0  # somebody took it between the choice and the bind
            else:
                self._fixed_port = True
                return

    def stop(self) -> None:
        """Stop it; tickets that were issued stay valid. :meth:`start` brings it back."""
        if self._process is not None:
            self._process.send(signal.SIGCONT)  # a paused process would not hear the SIGTERM
            self._process.stop()
            self._process = None

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Within, the KDC's port is open and nobody answers: the outage that costs clients their whole timeout."""
        if self._process is None:
            raise LabError("the KDC is stopped; only a running one can fall silent", fix="call start() first")
        self._process.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send(signal.SIGCONT)

    def close(self) -> None:
        """Stop it for good and, if its directory is its own, remove that."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.directory)

    def add_principal(self, name: str, password: str | None = None) -> str:
        """Create a user or service; return its full name.

        :param name: ``svc-datakit`` or ``MSSQLSvc/host:1433``, with or without the realm.
        :param password: None gives it random keys, for use with a keytab.
        :raises LabError: it exists.
        """
        principal = self.full_name(name)
        if password is None:
            self._kadmin("add_principal", "-randkey", principal)
        else:
            self._kadmin("add_principal", principal, stdin=f"{password}\n{password}\n")
        return principal

    def has_principal(self, name: str) -> bool:
        """Whether the realm knows this user or service."""
        return self.full_name(name) in self._kadmin("list_principals").split()

    def remove_principal(self, name: str) -> None:
        """Delete a user or service; tickets that were issued stay valid until they expire."""
        self._kadmin("delete_principal", "-force", self.full_name(name))

    def keytab(self, path: Path, *names: str) -> Path:
        """Write the present keys of ``names`` to ``path``, replacing what is there at once; mode 0600."""
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            self._kadmin("ktadd", "-norandkey", "-k", str(scratch), *map(self.full_name, names))
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        return path

    def rotate(self, name: str, password: str | None = None) -> None:
        """Give new keys (random, or from ``password``); keytabs written before stop working, as on Active Directory."""
        if password is None:
            self._kadmin("change_password", "-randkey", self.full_name(name))
        else:
            self._kadmin("change_password", self.full_name(name), stdin=f"{password}\n{password}\n")

    def lock(self, name: str) -> None:
        """Refuse tickets to and for ``name``: clients see "credentials have been revoked"."""
        self._kadmin("modify_principal", "-allow_tix", self.full_name(name))

    def unlock(self, name: str) -> None:
        """Undo :meth:`lock`, also a lock that came from wrong tries."""
        self._kadmin("modify_principal", "-unlock", "+allow_tix", self.full_name(name))

    def lock_after(self, name: str, failures: int) -> None:
        """Lock ``name`` for ever after so many wrong tries, as a company's password policy does."""
        policy = f"lock-after-{failures}"
        if policy not in self._kadmin("list_policies").split():
            self._kadmin("add_policy", "-maxfailure", str(failures), policy)
        self._kadmin("modify_principal", "-policy", policy, self.full_name(name))

    def expire(self, name: str, when: datetime) -> None:
        """End the account ``name`` at ``when`` (with a time zone)."""
        utc = when.astimezone(UTC)
        self._kadmin("modify_principal", "-expire", f"{utc:%Y-%m-%d %H:%M:%S} UTC", self.full_name(name))

    def kinit(
        self, name: str, keytab: Path, ccache: Path, *, life: timedelta | None = None, renewable: bool = True
    ) -> datetime:
        """Get a ticket-granting ticket and publish it at ``ccache``, so that readers never see a half-written file.

        :param life: a shorter life than the realm's.
        :returns: when it expires.
        :raises krb5.Krb5Error: the KDC refuses, or does not answer.
        """
        return self._publish(name, keytab, ccache, [None], life=life, renewable=renewable)

    def service_tickets(
        self, name: str, keytab: Path, ccache: Path, *services: str, life: timedelta | None = None
    ) -> datetime:
        """Publish a cache with tickets for ``services`` only: it opens those and nothing else, and cannot be renewed.

        :returns: when they expire.
        :raises krb5.Krb5Error: the KDC refuses, does not know a service, or does not answer.
        """
        if not services:
            raise LabError("a cache for no service is of no use", fix="name at least one service")
        return self._publish(name, keytab, ccache, list(services), life=life, renewable=False)

    def full_name(self, name: str) -> str:
        """Return ``name`` with the realm."""
        return name if "@" in name else f"{name}@{self.realm}"

    @contextlib.contextmanager
    def configured(self, ccache: Path | None = None) -> Iterator[None]:
        """Within, this process's ``KRB5_CONFIG`` (and, if given, ``KRB5CCNAME``) are those of this realm.

        The environment belongs to the whole process: another thread that enters this waits.
        """
        wanted = self.client_environment(ccache)
        with _environment_lock:
            before = {key: os.environ.get(key) for key in wanted}
            os.environ.update(wanted)
            try:
                yield
            finally:
                for key, value in before.items():
                    if value is None:
                        os.environ.pop(key, None)
                    else:
                        os.environ[key] = value

    def client_environment(self, ccache: Path | None = None) -> dict[str, str]:
        """Return the variables that a client of this realm needs."""
        environment = {"KRB5_CONFIG": str(self.krb5_conf)}
        if ccache is not None:
            environment["KRB5CCNAME"] = f"FILE:{ccache}"
        return environment

    def _publish(
        self,
        name: str,
        keytab: Path,
        ccache: Path,
        services: list[str] | list[None],
        *,
        life: timedelta | None,
        renewable: bool,
    ) -> datetime:
        import krb5

        with self.configured():
            context = krb5.init_context()
        client = krb5.parse_name_flags(context, self.full_name(name).encode())
        keys = krb5.kt_resolve(context, f"FILE:{keytab}".encode())
        options = krb5.get_init_creds_opt_alloc(context)
        if life is not None:
            krb5.get_init_creds_opt_set_tkt_life(options, int(life.total_seconds()))
        renewable_life = int(self.renewable_life.total_seconds()) if renewable else 0
        krb5.get_init_creds_opt_set_renew_life(options, renewable_life)
        # asking the authentication service for the service itself saves the ticket-granting ticket
        tickets = [
            krb5.get_init_creds_keytab(
                context, client, options, keytab=keys, in_tkt_service=None if service is None else service.encode()
            )
            for service in services
        ]
        _write_ccache(context, client, tickets, ccache)
        return datetime.fromtimestamp(min(ticket.times.endtime for ticket in tickets), UTC)

    def _write_configuration(self) -> None:
        domains = [*dict.fromkeys([*own_names(), *self._hosts, f".{self.realm.lower()}", self.realm.lower()])]
        values = {
            "realm": self.realm,
            "directory": self.directory,
            "address": LOOPBACK,
            "port": self.port,
            "ticket_life": int(self.ticket_life.total_seconds()),
            "renewable_life": int(self.renewable_life.total_seconds()),
            "clock_skew": int(self.clock_skew.total_seconds()),
            "encryption_types": _ENCRYPTION_TYPES,
            "domain_realm": "\n".join(f"    {domain} = {self.realm}" for domain in domains),
        }
        self.krb5_conf.write_text(_KRB5_CONF.format_map(values), encoding="utf-8")
        (self.directory / "kdc.conf").write_text(_KDC_CONF.format_map(values), encoding="utf-8")
        (self.directory / "kadm5.acl").touch()

    def _create_database(self) -> None:
        master = secrets.token_urlsafe(24)
        _run(
            [_program("kdb5_util"), "-r", self.realm, "create", "-s"],
            env=self._environment(),
            stdin=f"{master}\n{master}\n",
        )

    def _kadmin(self, *arguments: str, stdin: str = "") -> str:
        if not self.krb5_conf.exists():
            raise LabError("the realm does not exist yet", fix="call start() first")
        return _run(
            [_program("kadmin.local"), "-r", self.realm, *arguments],
            env=self._environment(),
            stdin=stdin,
        )

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "KRB5_CONFIG": str(self.krb5_conf),
            "KRB5_KDC_PROFILE": str(self.directory / "kdc.conf"),
            "LC_ALL": "C",
            "TZ": "UTC",
        }


def _write_ccache(context: krb5.Context, client: krb5.Principal, tickets: list[krb5.Creds], path: Path) -> None:
    import krb5

    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    cache = krb5.cc_resolve(context, f"FILE:{scratch}".encode())
    try:
        krb5.cc_initialize(context, cache, client)
        for ticket in tickets:
            krb5.cc_store_cred(context, cache, ticket)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ProgramMissing.of(name, _PACKAGES)
    return found


def _run(command: list[str], *, env: Mapping[str, str], stdin: str) -> str:
    """Run an administration tool; passwords go through ``stdin``, which no other process can read."""
    done = subprocess.run(command, env=dict(env), input=stdin, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise LabError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
