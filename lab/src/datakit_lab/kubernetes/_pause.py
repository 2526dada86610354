"""The container that holds a pod's volumes while the others come and go, as ``pause`` does on a real node.

A tmpfs volume of Docker is empty again when the last container that mounts it stops. So one container of each pod
mounts them all, and sleeps. Its image holds nothing but the smallest program that can do so, made here from its machine
code, because no image can be pulled and no compiler be presumed.
"""

from __future__ import annotations

import io
import struct
import tarfile
from typing import Final

from datakit_lab.docker import Engine
from datakit_lab.errors import LabError

PAUSE_IMAGE: Final = "datakit-lab/pause:1"

_BASE: Final = 0x400000
_HEADERS: Final = 64 + 56
_LOAD: Final = 1
_READ_EXECUTE: Final = 5
_MACHINES: Final = {
    # again: mov eax, 34 (pause); syscall; jmp again
    "x86_64": (62, bytes.fromhex("b822000000 0f05 ebf7")),
    # again: mov x0..x3, 0; mov x8, 73 (ppoll); svc 0; b again
    "aarch64": (183, struct.pack("<7I", *range(0xD2800000, 0xD2800004), 0xD2800928, 0xD4000001, 0x17FFFFFA)),
}


def ensure_pause_image(engine: Engine) -> None:
    """Give the engine the image :data:`PAUSE_IMAGE` if it has none.

    :raises LabError: the engine's machine is neither x86-64 nor arm64.
    """
    if engine.image(PAUSE_IMAGE) is not None:
        return
    machine = engine.json("GET", "/info")["Architecture"]
    if machine not in _MACHINES:
        raise LabError(
            f"the Kubernetes double knows no pause program for {machine}", fix="use an x86-64 or arm64 engine"
        )
    query = {"fromSrc": "-", "repo": PAUSE_IMAGE.partition(":")[0], "tag": "1", "changes": 'ENTRYPOINT ["/pause"]'}
    headers = {"Content-Type": "application/x-tar"}
    with engine.stream("POST", "/images/create", _archive(machine), query=query, headers=headers) as response:
        response.read()


def _archive(machine: str) -> bytes:
    program = _program(*_MACHINES[machine])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("pause")
        entry.mode = 0o555
        entry.size = len(program)
        archive.addfile(entry, io.BytesIO(program))
    return packed.getvalue()


def _program(machine: int, code: bytes) -> bytes:
    """Return a static ELF program of one segment: https://refspecs.linuxfoundation.org/elf/elf.pdf."""
    size = _HEADERS + len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian, version 1
    header = struct.pack("<16sHHIQQQIHHHHHH", identity, 2, machine, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", _LOAD, _READ_EXECUTE, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code
