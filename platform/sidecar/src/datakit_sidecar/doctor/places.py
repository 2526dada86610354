"""The process, the folders to publish in, and the audit file."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from datakit_sidecar import audit, process
from datakit_sidecar.doctor.finding import Finding, State
from datakit_sidecar.errors import SidecarError
from datakit_sidecar.publish import Publisher
from datakit_sidecar.settings import Settings
from datakit_sidecar.volume import MEMORY_FILESYSTEMS, doubts_about, filesystem_of


def examine_process() -> Iterator[Finding]:
    """Say what the kernel does not grant. The doctor's own process is hardened by it, as the sidecar's would be."""
    missing = process.harden()
    if not missing:
        yield Finding("process", State.GOOD, "no core dumps, no ptrace, no new privileges, memory is locked")
    for each in missing:
        yield Finding("process", State.DOUBTFUL, each)


def examine_folders(settings: Settings) -> Iterator[Finding]:
    """Look at the folders as the sidecar would, without taking them from one that runs."""
    publisher = Publisher(settings.publish)
    targets = [(settings.publish.tickets, [each.file_name for each in settings.principals], "tickets")]
    targets += [(settings.publish.secrets / each.folder, list(each.fields), "secrets") for each in settings.secrets]
    for folder, names, what in targets:
        if not names:
            continue
        subject = f"{what}: {folder}"
        existing = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110 - no error
        yield from _examine_volume(subject, existing, allow_disk=settings.publish.allow_disk)
        try:
            publisher.refuse_unsafe(folder)
        except SidecarError as error:
            yield Finding.of(subject, error)
        yield from _examine_access(subject, folder, existing, publisher)
        for name in names:
            try:
                publisher.refuse_foreign(folder / name)
            except SidecarError as error:
                yield Finding.of(f"{what}: {folder / name}", error)


def _examine_volume(subject: str, existing: Path, *, allow_disk: bool) -> Iterator[Finding]:
    kind = filesystem_of(existing) or "an unknown file system"
    if kind in MEMORY_FILESYSTEMS:
        yield Finding(subject, State.GOOD, f"in memory ({kind}), {_owner(existing)}")
    elif allow_disk:
        yield Finding(subject, State.DOUBTFUL, f"on {kind}, as publish.allow_disk permits", "mount a tmpfs")
    else:
        yield Finding(
            subject,
            State.BAD,
            f"on {kind}, which is not memory",
            "mount a tmpfs (emptyDir: {medium: Memory}), or set publish.allow_disk: true",
        )


def _examine_access(subject: str, folder: Path, existing: Path, publisher: Publisher) -> Iterator[Finding]:
    if not os.access(existing, os.W_OK | os.X_OK):
        uid = os.geteuid()
        yield Finding(subject, State.BAD, f"this user (uid {uid}) may not write there; {_owner(existing)}", "chown it")
        return
    for doubt in doubts_about(existing) if existing == folder else ():
        yield Finding(subject, State.DOUBTFUL, doubt)
    scratch = existing / f".datakit-doctor-{secrets.token_hex(6)}"
    try:
        scratch.touch(mode=0o600, exist_ok=False)
        publisher.hand_over(scratch)
    except (SidecarError, OSError) as error:
        what = error if isinstance(error, SidecarError) else SidecarError(error.strerror or "it cannot be written to")
        yield Finding.of(subject, what)
    finally:
        scratch.unlink(missing_ok=True)


def _owner(path: Path) -> str:
    info = path.stat()
    return f"{path} belongs to uid {info.st_uid}, gid {info.st_gid}, mode {stat.S_IMODE(info.st_mode):04o}"


def examine_audit(settings: Settings) -> Iterator[Finding]:
    """Look at the audit file, and check its chain if there is one."""
    file = settings.audit.file
    if file is None:
        detail = "on standard output only" if settings.audit.stdout else "nowhere: neither stdout nor a file is set"
        yield Finding(
            "audit", State.GOOD if settings.audit.stdout else State.BAD, detail, "set audit.file or audit.stdout"
        )
        return
    if not file.exists():
        writable = os.access(file.parent, os.W_OK | os.X_OK)
        detail = (
            f"{file} will be made" if writable else f"this user (uid {os.geteuid()}) may not write to {file.parent}"
        )
        yield Finding("audit", State.GOOD if writable else State.BAD, detail, "correct audit.file")
        return
    try:
        found = audit.verify(file)
    except SidecarError as error:
        yield Finding.of("audit", error)
        return
    if found.problems:
        first = found.problems[0]
        yield Finding(
            "audit", State.BAD, first, f"see all: datakit-sidecar verify-audit {file}; tell your security team"
        )
    elif not os.access(file, os.W_OK):
        yield Finding("audit", State.BAD, f"this user (uid {os.geteuid()}) may not write to {file}", "chown it")
    else:
        yield Finding("audit", State.GOOD, f"{file}: {found.lines} lines, the chain is whole")
