"""A pod's own loopback, with this machine's servers on it.

The lab listens on loopback only, so a pod in a network of its own could reach none of it. Here each port on which
somebody listens on this machine when the pod begins is one on the pod's loopback too, and every connection to it is
passed on. What the pod itself listens on stays its own: two pods may use one port. Joining the pod's network takes
root, and an engine on this machine's kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from datakit_lab.network import LOOPBACK

_T = TypeVar("_T")

_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET of <sched.h>
_LISTENS: Final = "0A"
_HERE: Final = {"0100007F", "00000000", "0" * 32, "00000000000000000000000001000000"}
_PIECE: Final = 256 * 1024


class Loopback:
    """The loopback of a pod, seen from this machine.

    :param pid: a process in the pod's network.
    """

    def __init__(self, pid: int) -> None:
        self._network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._listeners = self._within(lambda: [_listener(port) for port in sorted(listening_ports())])
        except BaseException:
            os.close(self._network)
            raise
        self._open = True
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._accept, name="pod-loopback", daemon=True)
        self._thread.start()

    def connect(self, host: str, port: int, seconds: float) -> socket.socket:
        """Connect to a server in the pod.

        :raises OSError: nobody answers.
        """
        return self._within(lambda: socket.create_connection((host, port), timeout=seconds))

    def close(self) -> None:
        """Pass no further connection on; those that are open end with their ends."""
        if not self._open:
            return
        self._open = False
        os.write(self._wake, b"x")
        self._thread.join()
        for listener in self._listeners:
            listener.close()
        for descriptor in (self._woken, self._wake, self._network):
            os.close(descriptor)

    def _within(self, act: Callable[[], _T]) -> _T:
        """Do something in the pod's network: in a thread that joins it, and ends. Sockets stay where they were made."""

        def joined() -> _T:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(self._network, _NEW_NETWORK):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            return act()

        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(joined).result()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._woken, selectors.EVENT_READ)
            for listener in self._listeners:
                waiting.register(listener, selectors.EVENT_READ)
            while self._open:
                for key, _ in waiting.select():
                    if isinstance(key.fileobj, socket.socket):
                        _pass_on(key.fileobj)


def may_join() -> bool:
    """Whether this process may join a pod's network."""
    return os.geteuid() == 0


def listening_ports() -> set[int]:
    """Return the TCP ports on which somebody listens on this machine's loopback.

    The form of the tables: https://www.kernel.org/doc/Documentation/networking/proc_net_tcp.txt
    """
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                address, _, port = local.partition(":")
                if state == _LISTENS and address in _HERE:
                    found.add(int(port, 16))
    return found


def _listener(port: int) -> socket.socket:
    return socket.create_server((LOOPBACK, port), backlog=128)


def _pass_on(listener: socket.socket) -> None:
    """Take a connection of the pod's and join it to this machine's server; if that is gone, the pod sees it closed."""
    with contextlib.suppress(OSError):
        inside, _ = listener.accept()
        try:
            outside = socket.create_connection((LOOPBACK, listener.getsockname()[1]), timeout=10)
        except OSError:
            inside.close()
            return
        outside.settimeout(None)
        for source, target in ((inside, outside), (outside, inside)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes one way until their end, and say so to the other side."""
    buffer = bytearray(_PIECE)
    view = memoryview(buffer)
    try:
        while size := source.recv_into(buffer):
            target.sendall(view[:size])
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one side is gone, so the other is told
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
