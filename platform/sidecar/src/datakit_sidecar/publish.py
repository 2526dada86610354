"""Publication: a temporary file and a rename in the same folder, so that readers racing an update never fail.

A failed update leaves the old file as it was. Nothing is written over: what stands at a path and belongs to somebody
else is refused, and so is a folder on a disk unless the configuration allows it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from datakit_vault import Secret

from datakit_sidecar.errors import OwnerRefused, PathTaken, PublishFailed, SidecarError, UnsafeVolume
from datakit_sidecar.settings import PublishSettings
from datakit_sidecar.volume import MEMORY_FILESYSTEMS, doubts_about, filesystem_of, refuse_unsafe

_TEMPORARY: Final = ".datakit-new-"
_LOCK: Final = ".datakit-sidecar.lock"


class _Published(NamedTuple):
    """What was published at a path; ``digest`` is of a secret only."""

    identity: tuple[int, int, int]
    digest: bytes


class Publisher:
    """Writes tickets and secrets for readers, and takes them away again.

    :param settings: where, and who may read.
    """

    def __init__(self, settings: PublishSettings) -> None:
        self._settings = settings
        self._uid = os.geteuid() if settings.uid is None else settings.uid
        self._lock = threading.Lock()
        self._closed = False
        self._published: dict[Path, _Published] = {}
        self._digest_key = secrets.token_bytes(32)
        self._folders: list[Path] = []
        self._held: dict[Path, int] = {}
        """Each prepared folder and its lock's descriptor."""

    def prepare(self, *folders: Path) -> list[str]:
        """Make the folders, and find out now whether publishing in them will work.

        :returns: what is doubtful, in words for a log.
        :raises UnsafeVolume: a folder is on a disk, or a stranger could replace what is in it.
        :raises PathTaken: another sidecar publishes there, or something that is no folder stands there.
        :raises OwnerRefused: files may not be given to the configured owner or group.
        :raises PublishFailed: it cannot be written to.
        """
        doubts = []
        for folder in folders:
            self._claim(folder)
            with self._failures(folder):
                for left in folder.rglob(f"{_TEMPORARY}*"):  # of a process that was killed
                    left.unlink(missing_ok=True)
                scratch = _scratch(folder)
                scratch.touch(mode=0o600)
                try:
                    self._hand_over(scratch, self._settings.mode)
                finally:
                    scratch.unlink()
            doubts += doubts_about(folder)
        return doubts

    def publish(self, path: Path, write: Callable[[Path], None], *, mode: int | None = None) -> bool:
        """Publish a file; the folder is made, and taken again if it was removed since it was prepared.

        :param write: creates the file at the path that it gets.
        :param mode: another than the configured one.
        :returns: False if the publisher was closed meanwhile; nothing was published then.
        :raises PathTaken: what stands there is somebody else's.
        :raises UnsafeVolume: the folder that is there now may not be published in.
        :raises PublishFailed: it could not be written; what was there is as it was.
        """
        return self._publish(path, write, mode=self._settings.mode if mode is None else mode)

    def _publish(self, path: Path, write: Callable[[Path], None], *, mode: int, digest: bytes = b"") -> bool:
        with self._lock, self._failures(path):
            if self._closed:
                return False
            for folder in self._held:
                if folder in path.parents and not self._holds(folder):
                    self._claim(folder)  # it was removed, or the volume was mounted anew
            self.make_folder(path.parent)
            self.refuse_foreign(path)
            scratch = _scratch(path.parent)
            try:
                write(scratch)
                self._hand_over(scratch, mode)
                scratch.replace(path)
            finally:
                scratch.unlink(missing_ok=True)
            self._published[path] = _Published(_identity(path), digest)
            return True

    def publish_secret(self, folder: Path, name: str, value: Secret[bytes]) -> bool:
        """Publish a secret's bytes, exactly, as ``folder/name``.

        :raises PathTaken, UnsafeVolume, PublishFailed: as :meth:`publish`.
        """

        def write(path: Path) -> None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with value.exposed() as view:
                    written = 0
                    while written < len(view):
                        written += os.write(descriptor, view[written:])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

        return self._publish(folder / name, write, mode=self._settings.mode, digest=self._digest(value))

    def has_secret(self, path: Path, value: Secret[bytes]) -> bool:
        """Whether this process published exactly this value at ``path``, and nobody touched it since.

        The file itself is not read: it may be another user's, whom alone its mode lets read.
        """
        with self._lock:
            published = self._published.get(path)
        try:
            untouched = published is not None and published.identity == _identity(path)
        except OSError:
            return False  # gone: it is published again
        return untouched and published is not None and hmac.compare_digest(published.digest, self._digest(value))

    def _digest(self, value: Secret[bytes]) -> bytes:
        """Return what tells values apart in this process, and means nothing to anybody else."""
        with value.exposed() as view:
            return hashlib.blake2b(view, key=self._digest_key, digest_size=32).digest()

    def publish_text(self, path: Path, text: str) -> bool:
        """Publish a file that is no secret, for everybody to read.

        :raises PathTaken, UnsafeVolume, PublishFailed: as :meth:`publish`.
        """
        return self.publish(path, lambda scratch: _write_text(scratch, text), mode=0o644)

    def close(self, *, destroy: bool) -> int:
        """Publish nothing from here on and, if told, remove everything published; return how many files were."""
        with self._lock:
            self._closed = True
            removed = 0
            if destroy:
                for path in sorted(self._published):
                    with contextlib.suppress(OSError):  # gone already, or the volume is: there is nothing to destroy
                        path.unlink()
                        removed += 1
                for folder in filter(self._holds, self._held):
                    with contextlib.suppress(OSError):
                        (folder / _LOCK).unlink()
                for folder in reversed(self._folders):
                    with contextlib.suppress(OSError):  # somebody else's files are in it
                        folder.rmdir()
            for descriptor in self._held.values():
                os.close(descriptor)
            self._held.clear()
            return removed

    def make_folder(self, folder: Path) -> None:
        """Make a folder, with those above it, that only readers may enter; one that exists is left as it is.

        :raises UnsafeVolume: a stranger could replace it.
        :raises PublishFailed, PathTaken, OwnerRefused: it cannot be made.
        """
        self.refuse_unsafe(folder)
        with self._failures(folder):
            missing = [each for each in (folder, *folder.parents) if not each.exists()]
            for each in reversed(missing):
                each.mkdir(mode=0o700)
                if each not in self._folders:
                    self._folders.append(each)
                self._hand_over(each, self._folder_mode(), owner=False)
            if not folder.is_dir():
                raise PathTaken("this is no folder", subject=str(folder), fix="remove it, or choose another folder")

    def _folder_mode(self) -> int:
        """Let those enter who may read the files; only another owner's needs a folder that everybody may enter."""
        if self._settings.uid not in (None, os.geteuid()):
            return 0o711
        return 0o750 if self._settings.mode & 0o040 else 0o700

    def _check_volume(self, folder: Path) -> None:
        kind = filesystem_of(folder)
        if kind not in MEMORY_FILESYSTEMS and not self._settings.allow_disk:
            raise UnsafeVolume(
                f"the folder is on {kind or 'an unknown file system'}, which is not memory",
                subject=str(folder),
                cause="the volume is an emptyDir without medium: Memory, a host path, or the container's own layer",
                fix="mount a tmpfs (emptyDir: {medium: Memory}); publish.allow_disk: true accepts a disk",
            )

    def _claim(self, folder: Path) -> None:
        self.make_folder(folder)
        self._check_volume(folder)
        self._take(folder)

    def _take(self, folder: Path) -> None:
        """Lock the folder for this process; two that publish in one would remove each other's files."""
        with self._failures(folder):
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # a folder that could not be looked at a moment ago may hold this process's own lock
                ours = folder in self._held and os.path.samestat(os.fstat(descriptor), os.fstat(self._held[folder]))
                os.close(descriptor)
                if ours:
                    return
                raise PathTaken(
                    "another datakit-sidecar publishes here",
                    subject=str(folder),
                    fix=f"see who it is: fuser -v {folder / _LOCK}; stop it, or choose another folder",
                ) from None
            if folder in self._held:
                os.close(self._held[folder])
            self._held[folder] = descriptor

    def _holds(self, folder: Path) -> bool:
        """Whether the lock that stands in a prepared folder is still this process's."""
        try:
            return os.path.samestat((folder / _LOCK).lstat(), os.fstat(self._held[folder]))
        except OSError:
            return False

    def refuse_unsafe(self, folder: Path) -> None:
        """Make sure that no stranger can replace a folder, whether it exists or is still to be made.

        :raises UnsafeVolume: a stranger can.
        :raises PublishFailed: it cannot be looked at.
        """
        with self._failures(folder):
            refuse_unsafe(folder, {os.geteuid(), self._uid})

    def refuse_foreign(self, path: Path) -> None:
        """Make sure that a file may be published at ``path``.

        :raises PathTaken: what stands there is somebody else's, or no file.
        """
        try:
            info = path.lstat()
        except (FileNotFoundError, PermissionError):  # publishing says what is wrong with the folder
            return
        if not stat.S_ISREG(info.st_mode):
            kind = "a link" if stat.S_ISLNK(info.st_mode) else "a folder or device"
            raise PathTaken(f"there is {kind} where a file goes", subject=str(path), fix="remove it")
        if info.st_uid not in (os.geteuid(), self._uid):
            raise PathTaken(
                f"the file belongs to uid {info.st_uid}, and this is uid {os.geteuid()}",
                subject=str(path),
                cause="somebody else publishes here, or the sidecar ran as another user before",
                fix=f"look at it: ls -ln {path}; then remove it, or choose another folder",
            )

    def hand_over(self, path: Path) -> None:
        """Give a file the configured owner, group and mode.

        :raises OwnerRefused: this process may not.
        """
        self._hand_over(path, self._settings.mode)

    def _hand_over(self, path: Path, mode: int, *, owner: bool = True) -> None:
        uid = self._settings.uid if owner and self._settings.uid is not None else -1
        gid = self._settings.gid if self._settings.gid is not None else -1
        try:
            # the mode after the group, so that no other group reads it; the owner last, who alone may change the mode
            if gid != -1:
                os.chown(path, -1, gid, follow_symlinks=False)
            path.chmod(mode)
            if uid != -1:
                os.chown(path, uid, -1, follow_symlinks=False)
        except PermissionError:
            raise OwnerRefused(
                f"this process (uid {os.geteuid()}, groups {_groups()}) may not give files to "
                f"uid {uid}, gid {gid} (-1: unchanged)",
                subject=str(path.parent),
                cause="a file may only be given to a group that the process is in; another owner needs CAP_CHOWN",
                fix="run the sidecar with that group (supplementalGroups, group_add), or change publish.gid",
            ) from None

    @contextlib.contextmanager
    def _failures(self, path: Path) -> Iterator[None]:
        try:
            yield
        except SidecarError:
            raise
        except OSError as error:
            raise PublishFailed(
                f"it cannot be published: {error.strerror}",
                subject=str(path),
                cause="the volume is full, read-only, or belongs to another user",
                fix=f"look at it: df {path.parent}; ls -ldn {path.parent}",
            ) from None


def _identity(path: Path) -> tuple[int, int, int]:
    """Return what differs as soon as anybody writes to a file, replaces it, or changes its owner or mode."""
    info = path.lstat()
    return info.st_dev, info.st_ino, info.st_ctime_ns


def _scratch(folder: Path) -> Path:
    return folder / f"{_TEMPORARY}{secrets.token_hex(8)}"


def _write_text(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)


def _groups() -> str:
    return ",".join(str(group) for group in sorted({os.getegid(), *os.getgroups()}))
