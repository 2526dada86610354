"""Where the vault is and who asks it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from datakit_vault.errors import InvalidSettings

Kind = Literal["secret-server", "platform"]

_KINDS: tuple[Kind, ...] = ("secret-server", "platform")


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSettings:
    """Where the vault is and who asks it; nothing here is secret.

    :ivar kind: ``secret-server`` logs in with a user's name and password, ``platform`` with a client's id and secret.
        It is configured and never probed: a probe would send the credential to whoever answers.
    :ivar url: of Secret Server with its base path (``https://vault.corp.example/SecretServer``), or of the Platform
        tenant (``https://corp.delinea.app``).
    :ivar credentials: a folder as Kubernetes mounts a Secret: the files ``username`` and ``password``
        (secret-server) or ``client_id`` and ``client_secret`` (platform). Read at each login, never kept.
    :ivar domain: the Active Directory domain of the user, secret-server only; None for a local user.
    :ivar ca_file: PEM file of the authorities to trust; None trusts the system's.
    :ivar proxy: ``http://host:port`` or ``https://host:port``. The environment's proxies are not used.
    :ivar timeout: seconds for one request, from its first byte to the answer's last; a slow answer cannot stretch it.
    :ivar allow_http: permit ``http://``. Everything, the credential too, is then readable on the way.
    :ivar max_bytes: an answer that is longer is refused without being read.
    :ivar comment: the reason to give for secrets that want one.
    :ivar checkout: whether a secret may be checked out to read it. It is checked in again after the read.
    :ivar login_pause: seconds after which a refused credential is tried again if its files have not changed. Vaults and
        directories lock an account after a few wrong tries.
    """

    kind: Kind
    url: str
    credentials: Path
    domain: str | None = None
    ca_file: Path | None = None
    proxy: str | None = None
    timeout: float = 10.0
    allow_http: bool = False
    max_bytes: int = 4 * 2**20
    comment: str | None = None
    checkout: bool = False
    login_pause: float = 900.0

    def __post_init__(self) -> None:
        """Check what can be checked without the network.

        :raises InvalidSettings: a setting cannot be used.
        """
        if self.kind not in _KINDS:
            raise InvalidSettings(
                f"{self.kind!r} is no kind of vault", subject="kind", fix=f"choose one of: {', '.join(_KINDS)}"
            )
        check_url(self.url, allow_http=self.allow_http)
        if self.proxy is not None:
            check_url(self.proxy, allow_http=True, setting="proxy")
        if self.domain is not None and self.kind == "platform":
            raise InvalidSettings(
                "the Platform has no domains", subject="domain", fix="remove it, or set kind: secret-server"
            )
        for name in ("timeout", "max_bytes", "login_pause"):
            if not getattr(self, name) > 0:
                raise InvalidSettings(f"{name} must be more than 0", subject=name)

    @property
    def base(self) -> str:
        """The URL without a slash at its end."""
        return self.url.rstrip("/")

    @property
    def host(self) -> str:
        """The URL's host and, if it is written, port: for messages."""
        return urlsplit(self.url).netloc


def check_url(url: str, *, allow_http: bool, setting: str = "url") -> None:
    """Refuse a URL that cannot be one, holds a credential, or would send one in the clear.

    :raises InvalidSettings: says why; a URL with a credential in it is not shown.
    """
    try:
        parts = urlsplit(str(url))
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InvalidSettings(
            f"the {setting} is no URL", subject=setting, fix="write https://host[:port][/path]"
        ) from None
    if "@" in parts.netloc:
        raise InvalidSettings(
            f"the {setting} holds a user's name or password",
            subject=setting,
            fix="write it without; URLs end up in logs",
        )
    if parts.scheme not in ("https", "http") or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidSettings(
            f"{url!r} cannot be used", subject=setting, fix="write https://host[:port][/path], in ASCII"
        )
    if parts.query or parts.fragment:
        raise InvalidSettings(
            f"{url!r} has a query or a fragment", subject=setting, fix="write only scheme, host and path"
        )
    if parts.scheme == "http" and not allow_http:
        raise InvalidSettings(
            f"{url!r} is not encrypted: anybody on the way could read the credential and every secret",
            subject=setting,
            fix="write https://, or allow it for a test with allow_http",
        )
