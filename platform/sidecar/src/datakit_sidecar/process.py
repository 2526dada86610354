"""What the sidecar does to its own process, so that what it holds does not leak by core dumps, ptrace or swap."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_M_ARENA_MAX: Final = -8
"""From linux/prctl.h, sys/mman.h and malloc.h."""


def harden() -> list[str]:
    """Forbid core dumps, ptrace by the same user, new privileges and, where allowed, swapping; set umask 077.

    Call it before a secret is read and before a thread is started.

    :returns: what could not be had, in words for a log.
    """
    os.umask(0o077)
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    missing = []
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        missing.append(f"processes of the same user may look into this one ({_reason()})")
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        missing.append(f"programs could still gain privileges ({_reason()})")
    if not _lock_memory(libc):
        missing.append("memory may be swapped out: raise the limit of locked memory (ulimit -l) or switch swap off")
    if hasattr(libc, "mallopt"):  # glibc gives every thread a heap of its own, and a worker needs none
        libc.mallopt(_M_ARENA_MAX, 1)
    return missing


def _lock_memory(libc: ctypes.CDLL) -> bool:
    """Lock what is touched from now on, if there is no limit; under a limit an allocation could fail later."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        return False
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def _reason() -> str:
    return os.strerror(ctypes.get_errno())
