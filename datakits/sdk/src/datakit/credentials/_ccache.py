"""The file of a Kerberos credential cache, read by hand.

Not by libkrb5, because a datakit must start where no Kerberos development files were ever installed, and because "the
third entry expired at 10:00 UTC, and you are uid 50000 while the file belongs to 1001" is what libkrb5 does not say.
Keys and tickets in the file are skipped, never kept.

The format is MIT's, "Credential cache file format", versions 3 and 4:
https://web.mit.edu/kerberos/krb5-latest/doc/formats/ccache_file_format.html
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from datakit.credentials._waiting import NotYetError, is_there
from datakit.errors import TicketCorrupt, TicketMissing, TicketUnreadable

_CONFIG_REALM: Final = "X-CACHECONF:"
_CONTAINER_MARKS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"), Path("/var/run/secrets/kubernetes.io"))
_SHOWN_NEIGHBOURS: Final = 5


@dataclass(frozen=True, slots=True)
class Ticket:
    """One ticket, without its key.

    :ivar service: the server principal, ``krbtgt/REALM@REALM`` for the ticket-granting ticket.
    """

    service: str
    starts: datetime
    ends: datetime
    renewable_until: datetime | None

    @property
    def is_granting(self) -> bool:
        """Whether other tickets can be had with this one."""
        return self.service.startswith("krbtgt/")

    @property
    def name(self) -> str:
        """The service without its realm."""
        return self.service.rpartition("@")[0]


@dataclass(frozen=True, slots=True)
class TicketCache:
    """What a credential cache holds.

    :ivar path: the file.
    :ivar principal: the client, ``user@REALM``.
    """

    path: str
    principal: str
    tickets: tuple[Ticket, ...]

    def seconds_left(self, now: datetime | None = None) -> float:
        """Return how long the longest-lived ticket lives still, in seconds; 0 if none does."""
        now = now or datetime.now(UTC)
        return max((max(0.0, (ticket.ends - now).total_seconds()) for ticket in self.tickets), default=0.0)


def read_cache(path: Path) -> TicketCache:
    """Read a credential cache.

    :raises NotYetError: there is none, or it is empty or cut off, as while somebody writes it.
    :raises TicketUnreadable: this process may not read it; names uid, owner and mode.
    :raises TicketCorrupt: it is something else.
    """
    data = _read(path)
    if not data:
        raise NotYetError(
            TicketCorrupt(
                "the credential cache is empty",
                subject=str(path),
                cause="whoever writes it truncates the file before it has a ticket, or the disk is full",
                fix="let the writer publish with a temporary file and a rename; make a new one with kinit",
            )
        )
    try:
        principal, tickets = _parse(data)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError, OverflowError) as error:
        corrupt = TicketCorrupt(
            f"the file is not a whole credential cache ({len(data)} bytes): {error}",
            subject=str(path),
            cause="it was cut off while it was written or copied, or KRB5CCNAME names another kind of file",
            fix=f"look at it with: klist -c FILE:{path}",
        )
        if isinstance(error, _CutOffError):
            raise NotYetError(corrupt) from None
        raise corrupt from None
    return TicketCache(str(path), principal, tickets)


def default_name() -> str:
    """Return libkrb5's default cache: ``default_ccache_name`` of krb5.conf, else a file in /tmp."""
    for file in os.environ.get("KRB5_CONFIG", "/etc/krb5.conf").split(":"):
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # libkrb5 accepts a missing file, too
        if match := re.search(r"^\s*default_ccache_name\s*=\s*(\S+)", text, re.MULTILINE):
            return re.sub(r"%\{(uid|euid|USERID)\}", str(os.geteuid()), match[1])
    return f"FILE:/tmp/krb5cc_{os.geteuid()}"


def locate(name: str) -> Path | None:
    """Return the file that a name such as ``FILE:path`` or ``DIR:path`` stands for; None if only libkrb5 can look.

    :raises TicketMissing: a cache of this kind cannot be here.
    """
    kind, colon, rest = name.partition(":")
    if not colon or name.startswith("/"):
        return Path(name)
    match kind.upper():
        case "FILE" | "WRFILE":
            return Path(rest)
        case "DIR":
            if rest.startswith(":"):
                return Path(rest[1:])
            primary = Path(rest, "primary")
            return (
                Path(rest, _read(primary).decode(errors="replace").strip()) if is_there(primary) else Path(rest, "tkt")
            )
        case "KEYRING" | "KCM" | "API":
            if any(is_there(mark) for mark in _CONTAINER_MARKS):
                raise TicketMissing(
                    f"a {kind} credential cache cannot be reached from a container",
                    subject=f"KRB5CCNAME={name}",
                    cause="it lives in the host's kernel or in a daemon there, which a container does not see",
                    fix="share a file: KRB5CCNAME=FILE:/run/datakit/tickets/PRINCIPAL",
                )
            return None
        case "MEMORY":
            raise TicketMissing(
                "a MEMORY credential cache begins empty in every process",
                subject=f"KRB5CCNAME={name}",
                cause="KRB5CCNAME was copied from a process that fills its own cache, such as the sidecar",
                fix="share a file: KRB5CCNAME=FILE:/run/datakit/tickets/PRINCIPAL",
            )
    raise TicketMissing(
        f"{kind!r} is no kind of credential cache that is known here",
        subject=f"KRB5CCNAME={name}",
        fix="write FILE:/path/of/the/cache",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotYetError(
            TicketMissing(
                "there is no Kerberos credential cache",
                subject=str(path),
                cause=f"nobody has put one there yet, or it is looked for in the wrong place: {_neighbours(path)}; "
                f"KRB5CCNAME is {os.environ.get('KRB5CCNAME') or 'not set'}",
                fix="start the sidecar, or run kinit and set KRB5CCNAME=FILE:PATH for this process",
            )
        ) from None
    except IsADirectoryError:
        raise TicketCorrupt(
            "the credential cache is a folder",
            subject=str(path),
            cause="a mount made the folder because its source did not exist",
            fix="name the file inside it: KRB5CCNAME=FILE:PATH",
        ) from None
    except OSError as error:
        raise TicketUnreadable(
            f"this process (uid {os.geteuid()}, groups {_groups()}) may not read the credential cache: "
            f"{error.strerror}; {_owner(path)}",
            subject=str(path),
            cause="the tickets are published for another user or group",
            fix="run as the owner, or let the sidecar publish with a group that both have",
        ) from None


def _neighbours(path: Path) -> str:
    """Say what is in the folder where the file is not."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return f"there is no folder {path.parent}"
    except OSError as error:
        return f"{path.parent} cannot be listed ({error.strerror})"
    if not names:
        return f"{path.parent} is empty"
    more = f" and {len(names) - _SHOWN_NEIGHBOURS} more" if len(names) > _SHOWN_NEIGHBOURS else ""
    return f"{path.parent} holds {', '.join(names[:_SHOWN_NEIGHBOURS])}{more}"


def _groups() -> str:
    return ",".join(str(group) for group in sorted({os.getegid(), *os.getgroups()}))


def _owner(path: Path) -> str:
    """Say who owns the file, or the first folder above it that cannot be entered."""
    for place in (path, *path.parents):
        try:
            info = place.stat()
        except OSError:
            continue
        mode = stat.filemode(info.st_mode)
        return f"{place} belongs to uid {info.st_uid}, gid {info.st_gid}, mode {info.st_mode & 0o7777:04o} ({mode})"
    return "its owner cannot be seen"


class _CutOffError(ValueError):
    """The data ends too early."""


class _Cursor:
    """Reads big-endian fields, and notices the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    @property
    def is_at_end(self) -> bool:
        return self.offset >= len(self._data)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def take(self, size: int) -> bytes:
        if self.offset + size > len(self._data):
            raise _CutOffError(f"it ends in the middle of a field, at byte {len(self._data)}")
        self.offset += size
        return self._data[self.offset - size : self.offset]

    def text(self) -> str:
        return self.take(self.number(4)).decode()

    def skip(self) -> None:
        self.take(self.number(4))

    def principal(self) -> tuple[str, str]:
        """Return name and realm."""
        self.take(4)  # name type
        count = self.number(4)
        realm = self.text()
        return "/".join(self.text() for _ in range(count)), realm


def _parse(data: bytes) -> tuple[str, tuple[Ticket, ...]]:
    if data[:2] not in {b"\x05\x03", b"\x05\x04"}:
        raise ValueError(f"it begins with {data[:2].hex(' ')}, not with 05 04")
    cursor = _Cursor(data)
    version = cursor.number(2)
    if version == 0x0504:
        cursor.take(cursor.number(2))
    name, realm = cursor.principal()
    return f"{name}@{realm}", tuple(_tickets(cursor, version))


def _tickets(cursor: _Cursor, version: int) -> Iterator[Ticket]:
    while not cursor.is_at_end:
        cursor.principal()
        service, realm = cursor.principal()
        cursor.take(2 if version == 0x0504 else 4)  # key type, twice in version 3
        cursor.skip()  # the key
        _authenticated, starts, ends, renew_till = (cursor.number(4) for _ in range(4))
        cursor.take(5)  # is_skey, flags
        for _ in range(2):  # addresses, authorization data
            for _ in range(cursor.number(4)):
                cursor.take(2)
                cursor.skip()
        cursor.skip()  # the ticket
        cursor.skip()  # the second ticket
        # A removed entry stays in the file with an end of 0, and settings of the cache are entries of their own realm.
        if realm == _CONFIG_REALM or ends == 0:
            continue
        yield Ticket(
            f"{service}@{realm}",
            datetime.fromtimestamp(starts or _authenticated, UTC),
            datetime.fromtimestamp(ends, UTC),
            datetime.fromtimestamp(renew_till, UTC) if renew_till else None,
        )
