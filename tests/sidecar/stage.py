"""A realm, a vault and a volume around one sidecar, with keys and secrets that the stage chose itself.

Because every key comes from a password that is known here, it can be given to the realm first or to the vault first.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import krb5
import yaml
from datakit_lab.kdc import Kdc
from datakit_lab.network import LOOPBACK, port_is_free
from datakit_sidecar.testing import SidecarProcess
from datakit_vault.testing import FakeVault

ROOT: Final = Path(__file__).parents[2]
REALM: Final = "LAB.TEST"
SERVICES: Final = ("MSSQLSvc/sql01.lab.test:1433", "postgres/db01.lab.test")
LOCK_AFTER: Final = 3
_AES: Final = ("aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha1-96")


@dataclass(slots=True)
class Account:
    """An account whose key is in the realm and in the vault, the same or not.

    :ivar field: of its secret: ``keytab``, or ``password``.
    :ivar password: what its key in the realm is derived from.
    :ivar kvno: version of that key.
    """

    name: str
    field: str
    share: str
    password: str
    kvno: int = 1

    @property
    def principal(self) -> str:
        return f"{self.name}@{REALM}"

    @property
    def secret(self) -> str:
        return f"/Kerberos/{self.name}"

    def value(self, password: str, kvno: int) -> str | bytes:
        """Return what the vault holds for a key."""
        return password if self.field == "password" else keytab_of_password(self.principal, password, kvno)


@dataclass(slots=True)
class Stage:
    """Everything around the sidecar, running from :meth:`__enter__` on.

    :ivar told: every secret value that ever was in the vault or the realm, by what it is.
    """

    ticket_life: timedelta
    renewable_life: timedelta
    folder: Path
    clock_skew: timedelta = timedelta(seconds=1)
    configuration: dict[str, Any] = field(default_factory=dict)
    volume: Path = field(init=False)
    kdc: Kdc = field(init=False)
    vault: FakeVault = field(init=False)
    accounts: list[Account] = field(default_factory=list)
    database_password: str = ""
    told: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.volume = Path(tempfile.mkdtemp(prefix="datakit-stage-", dir="/dev/shm"))
        self.kdc = Kdc(
            self.folder / "kdc",
            realm=REALM,
            port=fixed_port(),
            ticket_life=self.ticket_life,
            renewable_life=self.renewable_life,
            clock_skew=self.clock_skew,
        )
        bootstrap = secrets.token_urlsafe(18)
        self.vault = FakeVault(port=fixed_port(), password=bootstrap)
        self.told["the bootstrap password"] = bootstrap.encode()
        self.kdc.start()
        self.vault.start()
        for service in SERVICES:
            self.kdc.add_principal(service)
        for name, kind, share in (("svc-keytab", "keytab", "service-tickets"), ("svc-password", "password", "tgt")):
            account = Account(name, kind, share, secrets.token_urlsafe(12))
            self.accounts.append(account)
            self.kdc.add_principal(name, account.password)
            self.kdc.lock_after(name, LOCK_AFTER)
            self.vault.add_secret(account.secret, {kind: self._key(account, account.password, 1)})
        self.database_password = secret_text(1)
        self.vault.add_secret("/Databases/finance-db", {"password": self.database_password})
        self.told["database password 1"] = self.database_password.encode()
        self._configure()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vault.stop()
        self.kdc.close()
        shutil.rmtree(self.volume)

    def sidecar(self, **options: Any) -> SidecarProcess:
        """Return the sidecar, not started, with the configuration as it is now."""
        path = self.folder / "sidecar.yaml"
        path.write_text(yaml.safe_dump(self.configuration), encoding="utf-8")
        return SidecarProcess(path, folder=self.folder, **options)

    @property
    def audit_file(self) -> Path:
        return self.folder / "audit.jsonl"

    def cache(self, account: Account) -> Path:
        """Return the published credential cache of an account."""
        return self.volume / "tickets" / account.name

    @property
    def secret_file(self) -> Path:
        """The published password of the database."""
        return self.volume / "secrets/finance-db/password"

    def new_key(self, account: Account) -> tuple[str, int, str | bytes]:
        """Invent the account's next key: its password, its version, and what the vault would hold."""
        password, kvno = secrets.token_urlsafe(12), account.kvno + 1
        return password, kvno, self._key(account, password, kvno)

    def change_key(self, account: Account, password: str, kvno: int) -> None:
        """Let the realm take a key."""
        self.kdc.rotate(account.name, password)
        account.password, account.kvno = password, kvno

    def rotate_secret(self, number: int) -> None:
        """Give the database another password, in the vault."""
        self.database_password = secret_text(number)
        self.told[f"database password {number}"] = self.database_password.encode()
        self.vault.rotate("/Databases/finance-db", "password", self.database_password)

    def failed_tries(self, account: Account) -> int:
        """Return how many wrong keys in a row the realm has counted for an account."""
        lines = self.kdc._kadmin("getprinc", account.name).splitlines()
        return int(next(line for line in lines if line.startswith("Failed password attempts")).rpartition(" ")[2])

    def _key(self, account: Account, password: str, kvno: int) -> str | bytes:
        value = account.value(password, kvno)
        what = f"{account.field} {kvno} of {account.name}"
        self.told[what] = value if isinstance(value, bytes) else value.encode()
        for enctype in _AES:
            self.told[f"{enctype} key of {what}"] = derived_key(account.principal, password, enctype).data
        return value

    def _configure(self) -> None:
        self.configuration |= {
            "vault": {
                "kind": "secret-server",
                "url": self.vault.url,
                "credentials": str(self.vault.credentials_folder(self.folder / "bootstrap")),
                "allow_http": True,
                "every": "1s",
                "timeout": "2s",
            },
            "kerberos": {"realm": REALM, "kdcs": [f"{LOOPBACK}:{self.kdc.port}"], "timeout": "1s"},
            "principals": [
                {
                    "name": account.principal,
                    account.field: {"secret": account.secret},
                    "services": list(SERVICES),
                    "share": account.share,
                }
                for account in self.accounts
            ],
            "secrets": [{"secret": "/Databases/finance-db", "as": "finance-db"}],
            "publish": {
                "tickets": str(self.volume / "tickets"),
                "secrets": str(self.volume / "secrets"),
                "mode": "0400",
            },
            "health": {"port": fixed_port(), "minimum_life": "500ms"},
            "audit": {"file": str(self.audit_file), "rotate_at": "256K", "keep": 0},
        }


def keytab_of_password(principal: str, password: str, kvno: int) -> bytes:
    """Return the keytab that a password makes, before any realm knows it."""
    context = krb5.init_context()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keytab"
        keytab = krb5.kt_resolve(context, f"FILE:{path}".encode())
        owner = krb5.parse_name_flags(context, principal.encode())
        for enctype in _AES:
            krb5.kt_add_entry(context, keytab, owner, kvno, 0, derived_key(principal, password, enctype))
        return path.read_bytes()


def derived_key(principal: str, password: str, enctype: str) -> krb5.KeyBlock:
    """Return the key that a password makes with the default salt of RFC 4120."""
    context = krb5.init_context()
    name, _, realm = principal.rpartition("@")
    number = krb5.string_to_enctype(context, enctype)
    return krb5.c_string_to_key(context, number, password.encode(), (realm + name).encode(), None)


def secret_text(number: int) -> str:
    """Return a password from which a reader can tell its number, and that it is whole."""
    text = f"{number:06d}-{secrets.token_hex(8)}"
    return f"{text}-{sum(text.encode()):05d}"


def number_of_secret(text: str) -> int:
    """Return the number of a whole password.

    :raises ValueError: it is not whole.
    """
    body, _, total = text.rpartition("-")
    if sum(body.encode()) != int(total):
        raise ValueError(f"{text!r} is not whole")
    return int(body.partition("-")[0])


def fixed_port() -> int:
    """Return a free loopback port for TCP and UDP that the system gives to nobody while its server is away."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    while True:
        port = 10_000 + secrets.randbelow(lowest - 10_000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            try:
                datagrams.bind((LOOPBACK, port))
            except OSError:
                continue
        if port_is_free(port):
            return port
