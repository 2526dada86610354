"""krb5.conf and its traps. One that the sidecar makes has none of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from datakit_sidecar.doctor.finding import Finding, State
from datakit_sidecar.settings import KerberosSettings

_FALSE: Final = frozenset({"false", "no", "n", "f", "nil", "0", "off"})  # as libkrb5's profile library reads booleans
_DEEPEST: Final = 5


def examine_configuration(settings: KerberosSettings) -> Iterator[Finding]:
    """Name the settings of an existing krb5.conf that break tickets for SQL Server or hide what is wrong."""
    if settings.realm != settings.realm.upper():
        yield Finding(
            "realm", State.DOUBTFUL, f"{settings.realm} is not upper case", "Active Directory's realms are upper case"
        )
    if settings.krb5_conf is None:
        yield Finding("krb5.conf", State.GOOD, "made by the sidecar")
        return
    try:
        defaults = dict(reversed(list(_settings(settings.krb5_conf, "libdefaults", 0))))
    except OSError as error:
        yield Finding("krb5.conf", State.BAD, f"{settings.krb5_conf}: {error.strerror}", "correct kerberos.krb5_conf")
        return
    traps = list(_traps(defaults, settings))
    yield from traps or [Finding("krb5.conf", State.GOOD, str(settings.krb5_conf))]


def _traps(defaults: dict[str, str], settings: KerberosSettings) -> Iterator[Finding]:
    for name in ("rdns", "dns_canonicalize_hostnames"):
        if defaults.get(name, "true").lower() not in _FALSE:
            yield _trap(
                name,
                "DNS may turn a server's name into another one, whose service principal does not exist",
                f"set {name} = false under [libdefaults]",
            )
    if defaults.get("kdc_timesync", "1").lower() not in _FALSE:
        yield _trap(
            "kdc_timesync",
            "a wrong clock of this machine is corrected in silence here, and breaks the readers of the tickets",
            "set kdc_timesync = 0 under [libdefaults]",
        )
    cache = defaults.get("default_ccache_name", "")
    if cache.upper().startswith(("KEYRING:", "KCM:", "API:")):
        yield _trap(
            "default_ccache_name",
            f"{cache} does not reach into containers; readers need KRB5CCNAME=FILE:PATH",
            "remove it, or set FILE:/tmp/krb5cc_%{uid}",
        )
    realm = defaults.get("default_realm")
    if realm is not None and realm != settings.realm:
        yield _trap("default_realm", f"it is {realm}, and kerberos.realm is {settings.realm}", "make them the same")
    for name in ("permitted_enctypes", "default_tkt_enctypes", "default_tgs_enctypes"):
        if name in defaults and "aes" not in defaults[name].lower() and "default" not in defaults[name].lower():
            yield _trap(name, f"there is no AES in it: {defaults[name]}", "remove it")


def _trap(name: str, detail: str, fix: str) -> Finding:
    return Finding(f"krb5.conf: {name}", State.DOUBTFUL, detail, fix)


def _settings(file: Path, wanted: str, depth: int) -> Iterator[tuple[str, str]]:
    """Yield the settings of a section, also of included files. Of a setting with braces only the name."""
    section, braces = "", 0
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        include = re.fullmatch(r"(include|includedir)\s+(\S+)", text)
        if include and depth < _DEEPEST:
            for each in _included(include[1], Path(include[2])):
                yield from _settings(each, wanted, depth + 1)
        elif braces == 0 and (match := re.fullmatch(r"\[(\w+)\]\*?", text)):
            section = match[1]
        elif text.startswith("}"):
            braces = max(0, braces - 1)
        else:
            name, _, value = (part.strip() for part in text.partition("="))
            if braces == 0 and section == wanted:
                yield name.rstrip("*").strip(), value
            braces += value.startswith("{") and not value.endswith("}")


def _included(kind: str, path: Path) -> list[Path]:
    if kind == "include":
        return [path]
    # libkrb5 takes names of letters, digits, - and _, or those that end in .conf
    names = sorted(path.iterdir()) if path.is_dir() else []
    return [each for each in names if re.fullmatch(r"[\w-]+|[^.].*\.conf", each.name) and each.is_file()]
