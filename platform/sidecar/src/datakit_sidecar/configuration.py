"""Reads the sidecar's configuration: one YAML file, or environment variables for the simple case.

Everything is checked before anything is touched, and every problem is reported at once, with file, line and column.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from datakit_vault import Reference, VaultSettings
from datakit_vault.errors import VaultError

from datakit_sidecar import _environment
from datakit_sidecar import _values as values
from datakit_sidecar._document import Node, Problems, Section, Wrong, read_file
from datakit_sidecar._document import parse as parse_yaml
from datakit_sidecar.errors import InvalidSettings
from datakit_sidecar.settings import (
    DEFAULT_ENCTYPES,
    AuditSettings,
    HealthSettings,
    KerberosSettings,
    KeySource,
    PrincipalSettings,
    PublishSettings,
    SecretSettings,
    Settings,
)

DEFAULT_FILE: Final = Path("/etc/datakit/sidecar.yaml")
_VAULT_HINTS: Final = dict.fromkeys(
    ("password", "username", "client_id", "client_secret", "token", "secret"), _environment.NEVER
) | {"certificate": "ca_file is the file of the authorities to trust"}


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the configuration.

    :param path: the file; None takes ``DATAKIT_SIDECAR_CONFIG``, else the other ``DATAKIT_SIDECAR_…`` variables if
        there are any, else ``/etc/datakit/sidecar.yaml``.
    :raises InvalidSettings: with every problem.
    """
    environment = os.environ if environment is None else environment
    named = environment.get(f"{_environment.PREFIX}CONFIG")
    variables = _environment.variables(environment)
    problems = Problems()
    if path is None and named:
        path = Path(named)
    if path is not None and variables:
        raise InvalidSettings(
            f"there is a file ({path}), and {_environment.PREFIX}{min(variables)} too",
            subject="the environment",
            cause="a configuration comes from one place, so that nobody has to guess which one wins",
            fix=f"move it into the file, or unset every {_environment.PREFIX}… but {_environment.PREFIX}CONFIG",
        )
    if path is None and variables:
        root = _environment.read(variables, problems)
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
        "max_bytes": section.take("max_bytes", values.size, 4 << 20),
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
    enctypes = section.texts("enctypes", values.enctype, DEFAULT_ENCTYPES)
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
        _key(section.section(kind, dict.fromkeys(("value", "text", "file", "path"), _environment.NEVER)), kind)
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
