"""Become a datakit: tie this process's life to the worker's, limit it, then turn into the command.

A program of its own instead of ``preexec_fn``, which may deadlock where the parent has threads. Run as
``python -I -S _launch.py PARENT MEMORY COMMAND…``; imports next to nothing, because it stands before every run.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Limit this process and exec the command."""
    parent, memory, *command = sys.argv[1:]
    # The kernel ends this process when the worker's dies, however that ends: a load survives being killed, and nobody
    # would be left to look after one that goes on.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != int(parent):  # it died before the line above
        os._exit(128 + signal.SIGKILL)
    # What the process allocates, not its address space: files that are mapped, and Arrow's reserve, cost no memory.
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold secrets
    os.umask(0o077)
    os.execv(command[0], command)  # noqa: S606  # no shell is the point


if __name__ == "__main__":
    main()
