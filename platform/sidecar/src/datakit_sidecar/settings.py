"""The sidecar's configuration: one YAML file, or environment variables for the simple case. Never a secret.

:mod:`datakit_sidecar.configuration` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datakit_vault import Reference, VaultSettings

DEFAULT_ENCTYPES: Final = ("aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha1-96")


@dataclass(frozen=True, slots=True, kw_only=True)
class KerberosSettings:
    """How the realm is found and asked."""

    realm: str
    """The default realm."""
    kdcs: Mapping[str, tuple[str, ...]]
    """Realm → its KDCs as ``host`` or ``host:port``, in the order they are tried. A realm without any is looked up in
    DNS (SRV records), as Active Directory publishes them."""
    domains: Mapping[str, str]
    """Host, or domain with a dot before it → realm: whose realm a service's host belongs to."""
    enctypes: tuple[str, ...] = DEFAULT_ENCTYPES
    """Encryption types, best first. RC4 is left out because Active Directory is about to stop accepting it."""
    timeout: float = 10.0
    """Seconds for each call to a KDC. libkrb5's own limit cannot be set; it is 27 s for one silent KDC."""
    ticket_life: float = 36000.0
    """Life to ask for, seconds; the KDC may give less. 10 h is Active Directory's own limit."""
    renewable_life: float = 604800.0
    """How long to ask that a ticket be renewable, seconds; 7 days is Active Directory's own limit."""
    renew_at: float = 0.5
    """The part of a ticket's life after which it is renewed. Half leaves as much again for an outage."""
    krb5_conf: Path | None = None
    """An existing file instead of a generated one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where in the vault a principal's key is."""

    secret: Reference
    field: str
    kind: str
    """``keytab``, or ``password``, from which the key is derived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalSettings:
    """Whose tickets are got, and for which services."""

    name: str
    """With the realm."""
    key: KeySource
    services: tuple[str, ...]
    """Service principal names to get tickets for, with or without realm."""
    share: str = "service-tickets"
    """``service-tickets``, or ``tgt`` to publish the ticket-granting ticket too, which opens everything the
    principal may open."""

    @property
    def file_name(self) -> str:
        """The name of its credential cache in the folder of tickets."""
        return self.name.rpartition("@")[0].replace("/", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSettings:
    """A secret to publish as files."""

    secret: Reference
    folder: str
    """The folder's name, ``as`` in the file."""
    fields: tuple[str, ...] = ("password",)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSettings:
    """Where tickets and secrets go, and who may read them."""

    tickets: Path = Path("/run/datakit/tickets")
    secrets: Path = Path("/run/datakit/secrets")
    mode: int = 0o600
    """0600 for readers of the same user, 0640 for those of a group."""
    uid: int | None = None
    """Owner of what is published; None is the sidecar's own user. Another one needs the right to give files away."""
    gid: int | None = None
    """Group of what is published; one that the sidecar's user is in, or it needs the right to give files away."""
    allow_disk: bool = False
    """Accept a folder that is not memory-backed. Tickets and secrets may then outlive the machine's power."""
    leave: bool = False
    """Leave everything published when the sidecar stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """Where probes and metrics are answered, and what ready means."""

    address: str = "127.0.0.1"
    port: int = 8089
    minimum_life: float = 300.0
    """Seconds that every ticket must have left. Active Directory refuses tickets with less than about 2 minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """Where the audit log goes, beside standard output."""

    file: Path | None = None
    rotate_at: int = 10 << 20
    """Bytes after which a new file is begun; the chain goes on in it."""
    keep: int = 10
    """Older files to keep; 0 keeps all."""
    sync: bool = True
    """Whether each line is confirmed to be on the disk before the next is written. There are a few lines an hour."""
    stdout: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the sidecar is told."""

    vault: VaultSettings
    vault_every: float
    """Seconds between two looks at the vault for changes."""
    kerberos: KerberosSettings | None
    principals: tuple[PrincipalSettings, ...]
    secrets: tuple[SecretSettings, ...]
    publish: PublishSettings
    health: HealthSettings
    audit: AuditSettings
    source: str
    """The file, or ``the environment``."""
