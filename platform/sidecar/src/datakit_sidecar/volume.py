"""The folders to publish in: whether they are in memory, and whether a stranger could put something else there.

A reader trusts a path. Whoever may rename a folder on the way to a file, or owns one, can give readers a file of their
own, with all permissions of the file itself as they should be.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from datakit_sidecar.errors import UnsafeVolume

MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


def filesystem_of(path: Path) -> str | None:
    """Return the kind of file system that a folder is on, as /proc/self/mountinfo writes it; None if unknown."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((kind for number, _, kind in _mounts() if number == wanted), None)


def doubts_about(folder: Path) -> list[str]:
    """Return what is doubtful about a folder that can be published in."""
    who = _who_may_replace(folder.stat().st_mode)
    if who is None:
        return []
    words = f"{folder} is open to {who} (mode {_mode(folder.stat())}): any of them could replace a file"
    return [f"{words}; mount it read-only elsewhere, or name a folder below it, which is made as it should be"]


def refuse_unsafe(folder: Path, trusted: Collection[int]) -> None:
    """Make sure that only root and trusted users can replace a folder or what is in it.

    It looks at the folder and at those above it, up to the mount point, as far as they exist. A mount point may be open
    to a group or to everybody, as Kubernetes makes an ``emptyDir``: whoever mounts it says who else gets it.

    :param trusted: their uids.
    :raises UnsafeVolume: a link, a stranger's folder, or one in which others could rename what is not theirs.
    :raises OSError: it cannot be looked at.
    """
    mount_points = {path for _, path, _ in _mounts()}
    for each in (folder, *folder.parents):
        try:
            info = each.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        is_mount_point = os.path.realpath(each) in mount_points
        if stat.S_ISLNK(info.st_mode):
            raise UnsafeVolume(
                f"{each} is a link, which could lead elsewhere tomorrow",
                subject=str(folder),
                fix=f"name the folder itself: {os.path.realpath(folder)}",
            )
        if info.st_uid not in {0, *trusted}:
            raise UnsafeVolume(
                f"{each} belongs to uid {info.st_uid}, who could replace what is published",
                subject=str(folder),
                cause="somebody else made it first, or the volume was mounted for another user",
                fix=f"look at it: ls -ldn {each}; then remove it, or choose another folder",
            )
        who = _who_may_replace(info.st_mode)
        if who is not None and not is_mount_point:
            raise UnsafeVolume(
                f"{each} is open to {who} (mode {_mode(info)}), who could replace what is published",
                subject=str(folder),
                fix=f"chmod go-w {each}; or remove it: the sidecar makes it as it should be",
            )
        if is_mount_point:
            return


def _who_may_replace(mode: int) -> str | None:
    """Return who beside the owner may rename or remove what others put into a folder of that mode."""
    if mode & stat.S_ISVTX:
        return None
    if mode & stat.S_IWOTH:
        return "everybody"
    return "its group" if mode & stat.S_IWGRP else None


def _mode(info: os.stat_result) -> str:
    return f"{stat.S_IMODE(info.st_mode):04o}"


def _mounts() -> Iterator[tuple[str, str, str]]:
    """Yield each mount's device number, mount point and kind, as proc(5) describes mountinfo."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    for line in text.splitlines():
        mount, _, kind = line.partition(" - ")
        _, _, number, _, point, *_ = mount.split(" ")
        yield number, re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point), kind.split(" ")[0]
