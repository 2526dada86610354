"""What Git says about a datakit's folder: its last commit, its files, and what is not committed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from datakit.errors import ConfigurationError

_SCP: Final = re.compile(r"(?:[^@/]+@)?([^:/]+):(?!//)(.+)")
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Commit:
    """The last commit that changed a folder.

    :ivar revision: its hash, in full; empty if nothing of the folder was ever committed, or there is no Git.
    :ivar time: of the commit.
    :ivar source: where the repository is, ``https://HOST/PATH``, without any login; empty if it has no remote.
    :ivar uncommitted: files of the whole tree that differ from the commit, as Git prints them.
    :ivar is_shallow: whether history was cut off, so that ``revision`` may be wrong.
    """

    revision: str
    time: datetime
    source: str
    uncommitted: tuple[str, ...]
    is_shallow: bool = False


def read_commit(folder: Path, only: Sequence[str] = ()) -> Commit:
    """Ask Git about a folder; without Git, or outside of a repository, the revision is empty.

    The commit is the last one that changed this folder, so that others do not make another image of it.

    :param only: Git's patterns of what counts in it; then nothing else of the tree counts as uncommitted.
    """
    if _git(folder, "rev-parse", "--is-inside-work-tree") is None:
        return Commit("", _EPOCH, "", ())
    logged = _git(folder, "log", "-1", "--format=%H%n%cI", "--", *(only or (".",))) or ""
    revision, _, time = logged.strip().partition("\n")
    untracked = ("--untracked-files=all", "--no-renames")
    status = _git(folder, "status", "--porcelain=v1", "-z", *untracked, "--", *(only or (":/",))) or ""
    return Commit(
        revision=revision,
        time=datetime.fromisoformat(time).astimezone(UTC) if time else _EPOCH,
        source=_public(_git(folder, "remote", "get-url", "origin") or ""),
        uncommitted=tuple(line[3:] for line in status.split("\0") if line),
        is_shallow=(_git(folder, "rev-parse", "--is-shallow-repository") or "").strip() == "true",
    )


def listed(folder: Path, *patterns: str) -> list[Path] | None:
    """Return the files that Git knows or would add, relative to the folder; None where there is no Git.

    :param patterns: Git's; all of the folder if none.
    """
    said = _git(folder, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *(patterns or (".",)))
    if said is None:
        return None
    return sorted(Path(name) for name in set(said.split("\0")) if name and os.path.lexists(folder / name))


def files_of(folder: Path) -> tuple[Path, ...]:
    """Return what belongs into an image, relative to the folder and sorted: no tests, nothing hidden, nothing ignored.

    :raises ConfigurationError: one of the files is a symbolic link, or there is none.
    """
    found = listed(folder)
    if found is None:
        found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    taken = sorted((path for path in found if _belongs(path)), key=lambda path: path.as_posix().encode())
    for path in taken:
        if (folder / path).is_symlink():
            raise ConfigurationError(
                "a symbolic link is not taken into an image",
                subject=str(folder / path),
                fix="put the file itself there",
            )
    if Path("datakit.yaml") not in taken:
        raise ConfigurationError(
            "there is no datakit.yaml to take into the image",
            subject=str(folder),
            cause="Git ignores it" if (folder / "datakit.yaml").is_file() else None,
            fix="see what ignores it: git check-ignore -v datakit.yaml",
        )
    return tuple(taken)


def _belongs(path: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return not hidden and path.parts[0] != "tests"


def _public(url: str) -> str:
    """Return a remote without the login that people put into it, and the same for SSH and HTTPS."""
    url = url.strip()
    if "://" in url:
        parts = urlsplit(url)
        if parts.scheme == "file" or not parts.hostname:
            return ""
        host, path = parts.hostname, parts.path
    elif match := _SCP.fullmatch(url):
        host, path = match[1], match[2]
    else:
        return ""  # a folder on this machine
    return f"https://{host}/{path.strip('/').removesuffix('.git')}"


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what Git prints; None if it is not installed or says no.

    :raises ConfigurationError: it does not trust the repository, because somebody else owns it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, env=environment, check=False)
    except FileNotFoundError:
        return None
    if b"dubious ownership" in done.stderr:  # as in a CI whose checkout belongs to another account than its steps
        raise ConfigurationError(
            "Git does not trust this repository, because another account owns it",
            subject=str(folder),
            fix="git config --global --add safe.directory followed by the repository's folder",
        )
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None
