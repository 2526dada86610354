"""Secrets are looked for wherever a process could have put one.

A secret is looked for as it is and as programs write it down: in hexadecimal, in base64 (at each of its three
alignments), quoted for a URL, in JSON, and in UTF-16.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote_from_bytes, quote_plus

import psutil

_LARGEST_BYTES: Final = 32 << 20
_LOOK_SECONDS: Final = 0.002
_SHORTEST: Final = 8
"""Bytes; something shorter is found by chance."""


@dataclass(frozen=True, slots=True)
class Found:
    """A secret where none should be.

    :ivar what: which secret.
    :ivar where: file, process or page.
    """

    what: str
    where: str
    how: str


def spellings(secret: bytes) -> dict[str, bytes]:
    """Return a secret as programs write it down, by the name of the way.

    :raises ValueError: it is too short to be looked for.
    """
    if len(secret) < _SHORTEST:
        raise ValueError(f"{len(secret)} bytes are found by chance")
    found = {"as it is": secret, "hexadecimal": secret.hex().encode(), "HEXADECIMAL": secret.hex().upper().encode()}
    found["hexadecimal with spaces"] = secret.hex(" ").encode()
    for name, encode in (("base64", base64.b64encode), ("base64 for URLs", base64.urlsafe_b64encode)):
        for shift in range(3):
            # without the first and last characters, which depend on what stands beside it
            encoded = encode(bytes(shift) + secret)
            found[f"{name} at {shift}"] = encoded[4 if shift else 0 : len(encoded) // 4 * 4 - 4]
    found["quoted"] = quote_from_bytes(secret, safe="").encode()
    found["python"] = repr(secret)[2:-1].encode()
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return found
    found["JSON"] = json.dumps(text)[1:-1].encode()
    found["form"] = quote_plus(text).encode()
    found["UTF-16"] = text.encode("utf-16-le")
    return found


@dataclass(slots=True)
class Places:
    """Where a process could have put something, with what was seen there.

    :ivar seen: name of the place → every content it had.
    """

    seen: dict[str, set[bytes]] = field(default_factory=dict)

    def note(self, where: str, content: bytes) -> None:
        """Remember what a place holds now."""
        self.seen.setdefault(where, set()).add(content)

    def note_files(self, folder: Path) -> None:
        """Remember every file below a folder, and every file's name."""
        for path in _files(folder):
            self.note(f"name of {path}", str(path).encode())
            try:
                if path.stat().st_size < _LARGEST_BYTES:
                    self.note(str(path), path.read_bytes())
            except OSError:  # it was there a moment ago
                continue

    def note_process(self, pid: int) -> None:
        """Remember what anybody may see of a process and its children: environment, command line, open files."""
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            folder = Path(f"/proc/{process.pid}")
            for name in ("environ", "cmdline", "comm", "status"):
                self.note(f"{folder / name}", (folder / name).read_bytes())
            for task in (folder / "task").iterdir():
                self.note(f"{task}/comm", (task / "comm").read_bytes())
            for descriptor in (folder / "fd").iterdir():
                self._note_descriptor(descriptor)

    def _note_descriptor(self, descriptor: Path) -> None:
        try:
            target = str(descriptor.readlink())
            # a file in memory has no other name; those on disk are among the files
            if target.startswith("/memfd:"):
                self.note(f"{descriptor} → {target}", descriptor.read_bytes())
        except OSError:  # closed meanwhile
            return

    def search(self, secrets: dict[str, bytes], *, allowed: Iterable[tuple[str, str]] = ()) -> list[Found]:
        """Return every secret that was seen anywhere.

        :param secrets: what it is → its bytes.
        :param allowed: pairs of a secret's name and the place where it belongs.
        """
        permitted = set(allowed)
        return [
            Found(what, where, how)
            for what, secret in secrets.items()
            for how, spelling in spellings(secret).items()
            for where, contents in self.seen.items()
            if (what, where) not in permitted and any(spelling in content for content in contents)
        ]


class Watcher:
    """Looks at folders all the time, so that what is there for a moment is seen, too.

    :param more: is called with each look.
    """

    def __init__(self, places: Places, folders: Iterable[Path], more: Callable[[Places], None]) -> None:
        self._places = places
        self._folders = tuple(folders)
        self._more = more
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self.looks = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            for folder in self._folders:
                self._places.note_files(folder)
            self._more(self._places)
            self.looks += 1


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if path.is_file() and not path.is_symlink():
                yield path
