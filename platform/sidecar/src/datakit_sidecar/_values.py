"""How a text of the configuration becomes a value. Each converter says what it wants when it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from datakit_sidecar._document import Wrong

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZE: Final = re.compile(r"(\d+)(B|K|M|G)")
_LONGEST_SECONDS: Final = 366 * 86400.0
_MODES: Final = {"0400": 0o400, "0440": 0o440, "0600": 0o600, "0640": 0o640}
_HOST: Final = re.compile(r"(?=.{1,253}(?::|$))[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_REALM: Final = re.compile(r"[A-Za-z0-9_.-]+")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._@-]{0,199}")
_SERVICE: Final = re.compile(r"[^\s/@:\\]+/[^\s/@\\]+(?:/[^\s@\\]+)?(?:@[A-Za-z0-9_.-]+)?")
_PRINCIPAL: Final = re.compile(r"[^\s@\\]+(?:@[A-Za-z0-9_.-]+)?")


def seconds(text: str) -> float:
    """Read a duration: ``30s``, ``5m``, ``10h``, ``7d``, ``1h30m``; more than nothing, at most a year."""
    if not _DURATION.fullmatch(text):
        unit = " (the unit is missing)" if re.fullmatch(r"\d+(?:\.\d+)?", text) else ""
        raise Wrong(f"{_shown(text)} is no duration{unit}", "write 30s, 5m, 10h or 7d")
    value = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if not 0 < value <= _LONGEST_SECONDS:
        raise Wrong(f"{_shown(text)} is out of range", "choose more than 0 and at most 366d")
    return value


def flag(text: str) -> bool:
    """Read ``true`` or ``false``."""
    if text.lower() not in ("true", "false"):
        raise Wrong(f"{_shown(text)} is neither true nor false")
    return text.lower() == "true"


def number(text: str) -> int:
    """Read a whole number that is not negative."""
    if not re.fullmatch(r"\d{1,10}", text):
        raise Wrong(f"{_shown(text)} is no whole number", "names are not looked up: write the number")
    return int(text)


def port(text: str) -> int:
    """Read a TCP port; 0 lets the system choose."""
    value = number(text)
    if value > 65535:
        raise Wrong(f"{_shown(text)} is no port", "choose 1 to 65535, or 0 for a free one")
    return value


def fraction(text: str) -> float:
    """Read a part of a ticket's life."""
    if not re.fullmatch(r"0?\.\d+", text) or not 0.1 <= float(text) <= 0.9:
        raise Wrong(f"{_shown(text)} is no fraction from 0.1 to 0.9")
    return float(text)


def size(text: str) -> int:
    """Read a size in bytes: ``64K``, ``10M``."""
    match = _SIZE.fullmatch(text)
    if match is None or not int(match[1]):
        raise Wrong(f"{_shown(text)} is no size", "write 64K, 10M or 1G")
    return int(match[1]) << {"B": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def mode(text: str) -> int:
    """Read a file mode that nobody else may read with."""
    if text.removeprefix("0o") not in _MODES and f"0{text}" not in _MODES:
        raise Wrong(
            f"{_shown(text)} is no mode for a ticket or a secret",
            f"choose one of: {', '.join(_MODES)}",
            "others could read it, or readers could write to it",
        )
    return int(text.removeprefix("0o"), 8)


def path(text: str) -> Path:
    """Read an absolute path."""
    if not text.startswith("/") or "\0" in text or ".." in Path(text).parts:
        raise Wrong(f"{_shown(text)} is no absolute path", "begin with / and use no ..")
    return Path(text)


def realm(text: str) -> str:
    """Read a realm's name."""
    if not _REALM.fullmatch(text):
        raise Wrong(f"{_shown(text)} is no realm", "write it as Active Directory does: CORP.EXAMPLE")
    return text


def host_and_port(text: str) -> str:
    """Read ``host`` or ``host:port``."""
    host, colon, digits = text.rpartition(":") if ":" in text else (text, "", "")
    if not _HOST.fullmatch(host) or (colon and not (digits.isdecimal() and 0 < int(digits) < 65536)):
        raise Wrong(f"{_shown(text)} is no host", "write dc1.corp.example or dc1.corp.example:88")
    return text


def host(text: str) -> str:
    """Read a host's name or an address to listen on."""
    if not _HOST.fullmatch(text):
        raise Wrong(f"{_shown(text)} is no host or IPv4 address", "write 127.0.0.1, or 0.0.0.0 for every interface")
    return text


def domain(text: str) -> str:
    """Read a host's name, or a domain with a dot before it."""
    if not _HOST.fullmatch(text.removeprefix(".")):
        raise Wrong(f"{_shown(text)} is no host or domain", "write sql01.corp.example, or .corp.example for all below")
    return text.lower()


def enctype(text: str) -> str:
    """Read the name of an encryption type as krb5.conf takes it."""
    known = (
        "aes256-cts-hmac-sha1-96",
        "aes128-cts-hmac-sha1-96",
        "aes256-cts-hmac-sha384-192",
        "aes128-cts-hmac-sha256-128",
        "arcfour-hmac",
    )
    if text not in known:
        near = get_close_matches(text, known, n=1, cutoff=0.3)
        raise Wrong(
            f"{_shown(text)} is no encryption type that is known here",
            f"choose one of: {', '.join(known)}",
            f"did you mean {near[0]!r}?" if near else None,
        )
    return text


def principal(text: str) -> str:
    """Read a principal, with or without its realm."""
    if not _PRINCIPAL.fullmatch(text) or text.startswith("/") or "//" in text or not text.isprintable():
        raise Wrong(f"{_shown(text)} is no principal", "write svc-datakit@CORP.EXAMPLE, not DOMAIN\\name")
    return text


def service(text: str) -> str:
    """Read a service principal name."""
    if not _SERVICE.fullmatch(text) or not text.isprintable():
        raise Wrong(
            f"{_shown(text)} is no service principal name",
            "write it as setspn -L prints it: MSSQLSvc/sql01.corp.example:1433",
        )
    if text.startswith("krbtgt/"):
        raise Wrong("a ticket-granting ticket is not shared as a service", "set share: tgt if readers must have it")
    return text


def file_name(text: str) -> str:
    """Read the name of a file or folder to publish."""
    if not _FILE_NAME.fullmatch(text):
        raise Wrong(
            f"{_shown(text)} cannot be a file's name here", "use letters, digits, '.', '_', '-', and no dot first"
        )
    return text


def word(text: str) -> str:
    """Read a text of one line."""
    if not text or not text.isprintable():
        raise Wrong("the text is empty or has a control character")
    return text


def choice(*names: str) -> Callable[[str], str]:
    """Return a converter that takes one of these names."""

    def convert(text: str) -> str:
        if text not in names:
            near = get_close_matches(text, names, n=1, cutoff=0.4)
            raise Wrong(
                f"{_shown(text)} is not known here",
                f"choose one of: {', '.join(names)}",
                f"did you mean {near[0]!r}?" if near else None,
            )
        return text

    return convert


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
