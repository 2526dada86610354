"""The sidecar's configuration: one YAML file, or environment variables for the simple case. Never a secret.

Everything is checked before anything is touched, and every problem is reported at once, with file, line and column.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from datakit_vault import Reference, VaultSettings
from datakit_vault.errors import VaultError

from datakit_sidecar import _values as values
from datakit_sidecar._document import Node, Problems, Section, Wrong, read_file
from datakit_sidecar._document import parse as parse_yaml
from datakit_sidecar.errors import InvalidSettings

DEFAULT_FILE: Final = Path("/etc/datakit/sidecar.yaml")
PREFIX: Final = "DATAKIT_SIDECAR_"
_ENCTYPES: Final = ("aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha1-96")
_NEVER: Final = (
    "a secret never stands in the configuration: put it into a file in the folder that vault.credentials names"
)
_VAULT_HINTS: Final = dict.fromkeys(
    ("password", "username", "client_id", "client_secret", "token", "secret"), _NEVER
) | {"certificate": "ca_file is the file of the authorities to trust"}


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
    enctypes: tuple[str, ...] = _ENCTYPES
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
    """Whether each line is on the disk before the sidecar goes on. There are a few lines an hour."""
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


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the configuration.

    :param path: the file; None takes ``DATAKIT_SIDECAR_CONFIG``, else the other ``DATAKIT_SIDECAR_…`` variables if
        there are any, else ``/etc/datakit/sidecar.yaml``.
    :raises InvalidSettings: with every problem.
    """
    environment = os.environ if environment is None else environment
    named = environment.get(f"{PREFIX}CONFIG")
    variables = _own_variables(environment)
    problems = Problems()
    if path is None and named:
        path = Path(named)
    if path is not None and variables:
        raise InvalidSettings(
            f"there is a file ({path}), and {PREFIX}{min(variables)} too",
            subject="the environment",
            cause="a configuration comes from one place, so that nobody has to guess which one wins",
            fix=f"move it into the file, or unset every {PREFIX}… but {PREFIX}CONFIG",
        )
    if path is None and variables:
        root = _from_environment(variables, problems)
        return _settings(root, "the environment", problems)
    path = path or DEFAULT_FILE
    return _settings(read_file(path, problems), str(path), problems)


def parse(text: str, name: str = "sidecar.yaml") -> Settings:
    """Read a configuration from a text; ``name`` is the file's name in messages.

    :raises InvalidSettings: with every problem.
    """
    problems = Problems()
    return _settings(parse_yaml(text, name, problems), name, problems)


def _settings(root: Node, source: str, problems: Problems) -> Settings:
    top = Section(root, "", problems)
    vault_section = top.section("vault", _VAULT_HINTS)
    vault, every = _vault(vault_section)
    kerberos_section = top.section("kerberos", {"keytab": "a keytab comes from the vault: principals[].keytab"})
    principal_sections = top.sections("principals", {"spns": "the key is services"})
    realm = _default_realm(kerberos_section, principal_sections)
    principals = _principals(principal_sections, realm, problems)
    secrets = _secrets(top.sections("secrets", {"name": "the folder's name is: as"}), problems)
    publish = _publish(top.section("publish"))
    health = _health(top.section("health"))
    audit = _audit(top.section("audit"))
    kerberos = None
    if principals or principal_sections or top.has("kerberos"):
        kerberos = _kerberos(kerberos_section, realm, top, has_principals=bool(principal_sections))
    if top.is_usable and not principal_sections and not secrets and not top.has("principals"):
        top.problem("principals", "there is neither a principal nor a secret: nothing to do", fix="add principals")
    top.finish()
    problems.raise_all()
    assert vault is not None  # noqa: S101 - otherwise a problem was raised
    return Settings(
        vault=vault,
        vault_every=every,
        kerberos=kerberos,
        principals=principals,
        secrets=secrets,
        publish=publish,
        health=health,
        audit=audit,
        source=source,
    )


def _vault(section: Section) -> tuple[VaultSettings | None, float]:
    kind = section.required("kind", values.choice("secret-server", "platform"), "write secret-server or platform")
    url = section.required("url", values.word, "write https://vault.corp.example/SecretServer")
    credentials = section.required(
        "credentials",
        values.path,
        "name the folder where the bootstrap credential is mounted: its files are "
        "username and password (secret-server), or client_id and client_secret (platform)",
    )
    every = section.take("every", values.seconds, 300.0)
    options = {
        "domain": section.optional("domain", values.word),
        "ca_file": section.optional("ca_file", values.path),
        "proxy": section.optional("proxy", values.word),
        "timeout": section.take("timeout", values.seconds, 10.0),
        "allow_http": section.take("allow_http", values.flag, False),
        "comment": section.optional("comment", values.word),
        "checkout": section.take("checkout", values.flag, False),
    }
    section.finish()
    if kind is None or url is None or credentials is None:
        return None, every
    try:
        return VaultSettings(kind=kind, url=url, credentials=credentials, **options), every  # type: ignore[arg-type]
    except VaultError as error:
        key = error.subject if error.subject in (*options, "url", "kind") else "url"
        section.problem(key or "url", f"{section.path}.{key}: {error.what}", cause=error.cause, fix=error.fix)
        return None, every


def _default_realm(kerberos: Section, principals: list[Section]) -> str | None:
    """Return ``kerberos.realm``, or the only realm that the principals name."""
    realm = kerberos.optional("realm", values.realm)
    if realm is not None:
        return realm
    named = set()
    for section in principals:
        node = section.node.value.get("name") if isinstance(section.node.value, dict) else None
        if node is not None and isinstance(node.value, str) and "@" in node.value:
            named.add(node.value.rpartition("@")[2])
    return named.pop() if len(named) == 1 else None


def _kerberos(section: Section, realm: str | None, top: Section, *, has_principals: bool) -> KerberosSettings | None:
    own = section.texts("kdcs", values.host_and_port)
    domains = {}
    for name, node in section.pairs("domains").items():
        try:
            domains[values.domain(name)] = values.realm(str(node.value))
        except Wrong as wrong:
            section.problem("domains", f"{section.name('domains')}: {wrong.what}", fix=wrong.fix)
    kdcs = {realm: own} if realm is not None else {}
    for name, node in section.pairs("realms").items():
        items = node.value if isinstance(node.value, list) else [node]
        try:
            kdcs[values.realm(name)] = tuple(values.host_and_port(str(item.value)) for item in items)
        except Wrong as wrong:
            section.problem("realms", f"{section.name('realms')}: {wrong.what}", fix=wrong.fix)
    enctypes = section.texts("enctypes", values.enctype, _ENCTYPES)
    existing = section.optional("krb5_conf", values.path)
    if existing is not None:
        for key in ("kdcs", "domains", "realms", "enctypes"):
            if section.has(key):
                section.problem(
                    key,
                    f"{section.name(key)} has no effect beside krb5_conf",
                    fix=f"write it into {existing}, or remove krb5_conf and let the sidecar make one",
                )
    settings = {
        "timeout": section.take("timeout", values.seconds, 10.0),
        "ticket_life": section.take("ticket_life", values.seconds, 36000.0),
        "renewable_life": section.take("renewable_life", values.seconds, 604800.0),
        "renew_at": section.take("renew_at", values.fraction, 0.5),
    }
    section.finish()
    if realm is None:
        if has_principals and not section.has("realm"):
            where = section if section.has("realm") or top.has("kerberos") else top
            where.problem(
                "realm" if where is section else "kerberos",
                "there is no realm",
                cause="kerberos.realm is missing, and the principals name none, or several",
                fix="add kerberos.realm: CORP.EXAMPLE (upper case, as Active Directory writes it)",
            )
        return None
    return KerberosSettings(realm=realm, kdcs=kdcs, domains=domains, enctypes=enctypes, krb5_conf=existing, **settings)


def _principals(sections: list[Section], realm: str | None, problems: Problems) -> tuple[PrincipalSettings, ...]:
    found: list[PrincipalSettings] = []
    taken: dict[str, str] = {}
    for section in sections:
        principal = _principal(section, realm)
        if principal is None:
            continue
        for kind, text in (("the principal", principal.name), ("the file name", principal.file_name)):
            if text in taken:
                problems.add(
                    section.where("name"),
                    f"{kind} {text!r} is there twice",
                    cause=f"the first one is at {taken[text]}",
                    fix="each principal has one credential cache: merge the two, or remove one",
                )
                break
            taken[text] = section.where("name")
        found.append(principal)
    return tuple(found)


def _principal(section: Section, realm: str | None) -> PrincipalSettings | None:
    name = section.required("name", values.principal, "write svc-datakit@CORP.EXAMPLE")
    services = section.texts("services", values.service)
    share = section.take("share", values.choice("service-tickets", "tgt"), "service-tickets")
    keys = [
        _key(section.section(kind, dict.fromkeys(("value", "text", "file", "path"), _NEVER)), kind)
        for kind in ("keytab", "password")
        if section.has(kind)
    ]
    for kind in ("keytab", "password"):
        section.optional(kind, values.word) if not section.has(kind) else None  # known, for the nearest name
    section.finish()
    if section.is_usable and len(keys) != 1:
        what = "both a keytab and a password" if keys else "neither a keytab nor a password"
        section.problem(
            "keytab", f"{section.path} has {what}", fix="add one: keytab: {secret: /Folder/Name, field: keytab}"
        )
    if not services and share == "service-tickets" and section.is_usable and not section.has("services"):
        section.problem(
            "services",
            f"{section.path} names no service, so there is no ticket to share",
            fix="add services: [MSSQLSvc/sql01.corp.example:1433], or share: tgt",
        )
    if len(set(services)) != len(services):
        section.problem("services", f"{section.path} names a service twice", fix="remove one of the two")
    if name is not None and "@" not in name and realm is not None:
        name = f"{name}@{realm}"
    if name is None or "@" not in name or len(keys) != 1 or keys[0] is None:
        return None
    principal = PrincipalSettings(name=name, key=keys[0], services=services, share=share)
    try:
        values.file_name(principal.file_name)
    except Wrong as wrong:
        section.problem("name", f"{section.name('name')}: {wrong.what}", fix=wrong.fix)
        return None
    return principal


def _key(section: Section, kind: str) -> KeySource | None:
    secret = section.required("secret", _reference, "write the secret's id, or its full path: /Kerberos/svc-datakit")
    field = section.take("field", values.word, kind)
    section.finish()
    return None if secret is None else KeySource(secret=secret, field=field, kind=kind)


def _secrets(sections: list[Section], problems: Problems) -> tuple[SecretSettings, ...]:
    found: list[SecretSettings] = []
    taken: dict[str, str] = {}
    for section in sections:
        secret = section.required(
            "secret", _reference, "write the secret's id, or its full path: /Databases/finance-db"
        )
        folder = section.required("as", values.file_name, "name the folder to publish it in: as: finance-db")
        fields = section.texts("fields", values.file_name, ("password",))
        section.finish()
        if len(set(fields)) != len(fields):
            section.problem("fields", f"{section.path} names a field twice", fix="remove one of the two")
        if folder is None or secret is None:
            continue
        if folder in taken:
            problems.add(
                section.where("as"),
                f"the folder {folder!r} is there twice",
                cause=f"the first one is at {taken[folder]}",
                fix="give each secret a folder of its own",
            )
        taken[folder] = section.where("as")
        found.append(SecretSettings(secret=secret, folder=folder, fields=fields))
    return tuple(found)


def _publish(section: Section) -> PublishSettings:
    default = PublishSettings()
    publish = PublishSettings(
        tickets=section.take("tickets", values.path, default.tickets),
        secrets=section.take("secrets", values.path, default.secrets),
        mode=section.take("mode", values.mode, default.mode),
        uid=section.optional("uid", values.number),
        gid=section.optional("gid", values.number),
        allow_disk=section.take("allow_disk", values.flag, default.allow_disk),
        leave=section.take("leave", values.flag, default.leave),
    )
    section.finish()
    if publish.tickets == publish.secrets:
        section.problem("secrets", "tickets and secrets need a folder each", fix="choose two folders")
    return publish


def _health(section: Section) -> HealthSettings:
    default = HealthSettings()
    health = HealthSettings(
        address=section.take("address", values.host, default.address),
        port=section.take("port", values.port, default.port),
        minimum_life=section.take("minimum_life", values.seconds, default.minimum_life),
    )
    section.finish()
    return health


def _audit(section: Section) -> AuditSettings:
    default = AuditSettings()
    audit = AuditSettings(
        file=section.optional("file", values.path),
        rotate_at=section.take("rotate_at", values.size, default.rotate_at),
        keep=section.take("keep", values.number, default.keep),
        sync=section.take("sync", values.flag, default.sync),
        stdout=section.take("stdout", values.flag, default.stdout),
    )
    section.finish()
    return audit


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except VaultError as error:
        raise Wrong(error.what, error.fix, error.cause) from None


# Environment variable, without the prefix → the key it stands for.
_VARIABLES: Final = {
    "VAULT_KIND": "vault.kind",
    "VAULT_URL": "vault.url",
    "VAULT_CREDENTIALS": "vault.credentials",
    "VAULT_DOMAIN": "vault.domain",
    "VAULT_CA_FILE": "vault.ca_file",
    "VAULT_PROXY": "vault.proxy",
    "VAULT_TIMEOUT": "vault.timeout",
    "VAULT_EVERY": "vault.every",
    "VAULT_ALLOW_HTTP": "vault.allow_http",
    "REALM": "kerberos.realm",
    "KDCS": "kerberos.kdcs",
    "KRB5_CONF": "kerberos.krb5_conf",
    "PRINCIPAL": "principals.0.name",
    "KEYTAB_SECRET": "principals.0.keytab.secret",
    "KEYTAB_FIELD": "principals.0.keytab.field",
    "PASSWORD_SECRET": "principals.0.password.secret",
    "PASSWORD_FIELD": "principals.0.password.field",
    "SERVICES": "principals.0.services",
    "SHARE": "principals.0.share",
    "TICKETS": "publish.tickets",
    "MODE": "publish.mode",
    "UID": "publish.uid",
    "GID": "publish.gid",
    "ADDRESS": "health.address",
    "LISTEN": "health.port",
    "MINIMUM_LIFE": "health.minimum_life",
    "AUDIT_FILE": "audit.file",
}
_LISTS: Final = frozenset({"KDCS", "SERVICES"})
_KUBERNETES: Final = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""What Kubernetes sets in every container if a Service is named ``datakit-sidecar``."""


def _own_variables(environment: Mapping[str, str]) -> dict[str, str]:
    names = (name.removeprefix(PREFIX) for name in environment if name.startswith(PREFIX))
    return {name: environment[PREFIX + name] for name in names if name != "CONFIG" and not _KUBERNETES.fullmatch(name)}


def _from_environment(variables: Mapping[str, str], problems: Problems) -> Node:
    root: dict[str, Node] = {}
    for name, text in variables.items():
        where = PREFIX + name
        if name not in _VARIABLES:
            near = get_close_matches(name, _VARIABLES, n=1, cutoff=0.6)
            problems.add(
                where,
                "there is no such variable",
                cause=f"did you mean {PREFIX}{near[0]}?" if near else None,
                fix=_NEVER
                if re.search(r"PASSWORD$|SECRET$|TOKEN|KEY$", name)
                else f"choose one of: {', '.join(PREFIX + known for known in sorted(_VARIABLES))}",
            )
            continue
        items = [Node(item, where) for item in text.split(",") if item] if name in _LISTS else None
        _place(root, _VARIABLES[name].split("."), Node(items if items is not None else text, where), where)
    principal = root.pop("principals", None)
    if principal is not None and isinstance(principal.value, dict):
        root["principals"] = Node([principal.value["0"]], principal.where)
    return Node(root, "the environment")


def _place(root: dict[str, Node], keys: list[str], leaf: Node, where: str) -> None:
    for key in keys[:-1]:
        below = root.setdefault(key, Node({}, "the environment", {})).value
        assert isinstance(below, dict)  # noqa: S101 - only leaves are anything else
        root = below
    root[keys[-1]] = Node(leaf.value, where)
