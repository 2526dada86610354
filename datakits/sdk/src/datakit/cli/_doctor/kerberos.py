"""krb5.conf and its traps, and the tickets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from datakit.cli._doctor.finding import Finding, State, is_open_to_all
from datakit.credentials.tickets import cache_name, check_ticket, describe_ticket
from datakit.errors import DatakitError
from datakit.model.environment import Environment

_SOON_SECONDS: Final = 300  # Active Directory refuses tickets with less left than about 2 minutes
_FALSE: Final = frozenset({"false", "no", "n", "f", "nil", "0", "off"})  # as libkrb5's profile library reads booleans


def examine_configuration(*, needed: bool, realms: AbstractSet[str]) -> Iterator[Finding]:
    """Find krb5.conf and name the settings that break connections to SQL Server.

    :param realms: those of the principals that the environment names.
    """
    names = os.environ.get("KRB5_CONFIG") or "/etc/krb5.conf"
    files = [Path(name) for name in names.split(":") if name]
    found = [file for file in files if file.is_file()]
    worst = State.BAD if needed else State.UNNEEDED
    if not found:
        yield Finding(
            "krb5.conf",
            worst,
            f"there is none at {names}, which libkrb5 accepts in silence",
            "write one with your realm and its KDCs, or set KRB5_CONFIG to it",
        )
        return
    try:
        sections = _read(found)
    except OSError as error:
        yield Finding("krb5.conf", worst, f"{error.filename}: {error.strerror}", "let this user read it")
        return
    yield Finding("krb5.conf", State.GOOD, ", ".join(map(str, found)))
    defaults = sections.get("libdefaults", {})
    for setting in ("rdns", "dns_canonicalize_hostnames"):
        if defaults.get(setting, "true").lower() not in _FALSE:
            yield Finding(
                f"krb5.conf: {setting}",
                State.DOUBTFUL,
                "DNS may turn a server's name into another one, whose service principal does not exist",
                f"set {setting} = false under [libdefaults]",
            )
    cache = defaults.get("default_ccache_name", "")
    if not os.environ.get("KRB5CCNAME") and cache.upper().startswith(("KEYRING:", "KCM:", "API:")):
        yield Finding(
            "krb5.conf: default_ccache_name",
            State.DOUBTFUL,
            f"{cache} does not reach into containers",
            "set default_ccache_name = FILE:/tmp/krb5cc_%{uid}, or KRB5CCNAME=FILE:PATH",
        )
    by_dns = defaults.get("dns_lookup_kdc", "true").lower() not in _FALSE
    for realm in sorted(realms):
        if realm not in sections.get("realms", {}) and not by_dns:
            yield Finding(
                f"realm {realm}",
                worst,
                "krb5.conf names no KDC for it, and dns_lookup_kdc is off",
                "add it under [realms]",
            )


def takes_tickets(environment: Environment) -> bool:
    """Whether something in the environment is reached by Kerberos."""
    return any(_places(environment))


def examine_tickets(environment: Environment | None, *, needed: bool) -> Iterator[Finding]:
    """Describe the credential caches, and say for each place that takes a ticket whether there is one."""
    if os.environ.get("KRB5_CLIENT_KTNAME"):
        yield Finding(
            "tickets", State.GOOD, "a client keytab (KRB5_CLIENT_KTNAME) fills the cache at the first connection"
        )
        return
    places = list(_places(environment)) if environment else []
    described: set[str] = set()
    for name in dict.fromkeys(cache_name(place.principal) for place in places) or [cache_name(None)]:
        finding, found = _describe(name, needed=needed)
        yield finding
        described |= {name} if found else set()
    for place in places:
        if cache_name(place.principal) in described:
            yield _for_place(place)


@dataclass(frozen=True, slots=True)
class _Place:
    """A connection by ticket."""

    name: str
    principal: str | None
    service: str


def _places(environment: Environment) -> Iterator[_Place]:
    for name, system in environment.sources.items():
        if system.user is None:
            service = system.server_spn or f"MSSQLSvc/{system.host}:{system.port}"
            yield _Place(name, system.principal, service.rpartition("@")[0] or service)
    for name, section in environment.warehouses.items():
        if section.get("gssapi") is True:
            service = f"{section.get('krbsrvname', 'postgres')}/{section.get('host')}"
            yield _Place(name, section.get("principal"), service)


def _describe(name: str, *, needed: bool) -> tuple[Finding, bool]:
    """Return what is to say about a cache, and whether it was looked into."""
    subject = f"tickets ({name})"
    try:
        cache = describe_ticket(name)
    except DatakitError as error:
        return Finding.of(subject, error, State.BAD if needed else State.UNNEEDED), False
    if cache is None:
        fix = "klist shows it; containers need a file: KRB5CCNAME=FILE:PATH"
        detail = "the cache is of a kind that only libkrb5 can look into"
        return Finding(subject, State.DOUBTFUL, detail, fix), False
    now = datetime.now(UTC)
    held = ", ".join(
        f"{ticket.name} ({max(0, int((ticket.ends - now).total_seconds()))} s)" for ticket in cache.tickets
    )
    left = cache.seconds_left(now)
    detail = f"{cache.principal} in {cache.path}: {held or 'no ticket'}"
    if left <= 0:
        return Finding(subject, State.BAD, detail, "look at the sidecar's log, or run kinit"), True
    if is_open_to_all(Path(cache.path)):
        fix = f"whoever reads it is {cache.principal}: let the sidecar publish with mode 0600 or 0640"
        return Finding(subject, State.DOUBTFUL, f"{detail}; everybody on this machine may read it", fix), True
    if left < _SOON_SECONDS:
        fix = "see that the sidecar renews them"
        return Finding(subject, State.DOUBTFUL, f"{detail}; {int(left)} s left", fix), True
    return Finding(subject, State.GOOD, detail), True


def _for_place(place: _Place) -> Finding:
    subject = f"ticket for {place.name}"
    try:
        check_ticket(place.principal, [place.service])
    except DatakitError as error:
        return Finding.of(subject, error)
    return Finding(subject, State.GOOD, place.service)


def _read(files: list[Path]) -> dict[str, dict[str, str]]:
    """Read the sections of krb5.conf with their settings; of a setting with braces, only the name.

    The first file, and the first value of a setting, wins, as in libkrb5.
    """
    sections: dict[str, dict[str, str]] = {}
    section, depth = "", 0
    for line in _lines(files, set()):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        if depth == 0 and (match := re.fullmatch(r"\[(\w+)\]\*?", text)):
            section = match[1]
        elif text.startswith("}"):
            depth = max(0, depth - 1)
        else:
            name, _, value = (part.strip() for part in text.partition("="))
            if depth == 0:
                sections.setdefault(section, {}).setdefault(name.rstrip("*"), value)
            depth += value.startswith("{") and not value.endswith("}")
    return sections


def _lines(files: list[Path], seen: set[Path]) -> Iterator[str]:
    for file in files:
        if file in seen:
            continue
        seen.add(file)
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            match = re.fullmatch(r"(include|includedir)\s+(\S+)", line.strip())
            if match is None:
                yield line
            elif match[1] == "include":
                yield from _lines([Path(match[2])], seen)
            elif Path(match[2]).is_dir():
                # libkrb5 takes names of letters, digits, - and _, or those that end in .conf
                names = sorted(Path(match[2]).iterdir())
                fit = [path for path in names if re.fullmatch(r"[\w-]+|[^.].*\.conf", path.name)]
                yield from _lines([path for path in fit if path.is_file()], seen)
