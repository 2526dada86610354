"""Start a program that dies with its parent, optionally as another user; run by path, with nothing but Python itself.

A script of its own, and not a ``preexec_fn``: code between fork and exec can deadlock in a process with threads.
Usage: ``_launch.py PARENT_PID UID GID PROGRAM [ARGUMENT…]``; UID and GID ``-1`` keep the current ones.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    """Become the program, or end with 127 and the reason on stderr."""
    parent, uid, gid = (int(argument) for argument in sys.argv[1:4])
    command = sys.argv[4:]
    libc = ctypes.CDLL(None)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        # after setuid, which clears it; the parent may have died before, so look afterwards
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the parent has ended")
    os.umask(0o077)
    try:
        os.execvp(command[0], command)  # noqa: S606 - starting it is what this script is for
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)


main()
