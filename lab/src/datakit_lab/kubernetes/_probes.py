"""Probes: whether a container has started, is ready, is alive."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datakit_lab.docker import Engine, EngineRefused
from datakit_lab.errors import LabUnavailable
from datakit_lab.kubernetes._exec import run_in
from datakit_lab.kubernetes._fields import ADDRESS

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prober:
    """Runs probes of one pod's containers.

    :ivar connect: connects to a host and port in the pod's network, in so many seconds.
    """

    engine: Engine
    connect: Callable[[str, int, float], socket.socket]

    def once(self, container_id: str, container: Json, probe: Json) -> str | None:
        """Return None if the probe succeeds, else what the event says of it."""
        seconds = float(probe["timeoutSeconds"])
        if "exec" in probe:
            return self._by_command(container_id, probe["exec"]["command"], seconds)
        if "httpGet" in probe:
            return self._by_http(container, probe["httpGet"], seconds)
        where = probe["tcpSocket"]
        host, port = where.get("host") or ADDRESS, _port(container, where["port"])
        try:
            self.connect(host, port, seconds).close()
        except OSError as error:
            return f"dial tcp {host}:{port}: {error.strerror or error}"
        return None

    def _by_command(self, container_id: str, command: list[str], seconds: float) -> str | None:
        try:
            code, output = run_in(self.engine, container_id, command, seconds)
        except TimeoutError:
            return f"command timed out: {command} timed out after {seconds:g}s"
        except (EngineRefused, LabUnavailable) as error:
            return str(error.what)
        return None if code == 0 else output.decode(errors="replace").strip() or f"exit code {code}"

    def _by_http(self, container: Json, asked: Json, seconds: float) -> str | None:
        host, port = asked.get("host") or ADDRESS, _port(container, asked["port"])
        scheme, path = asked.get("scheme", "HTTP").lower(), asked.get("path") or "/"
        headers = {each["name"]: each["value"] for each in asked.get("httpHeaders") or []}
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
        try:
            connection.sock = self.connect(host, port, seconds)
            if scheme == "https":
                unverified = ssl._create_unverified_context()  # noqa: S323 - a kubelet does not verify either
                connection.sock = unverified.wrap_socket(connection.sock, server_hostname=host)
            connection.request("GET", path, headers={"User-Agent": "kube-probe/double", **headers})
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f'Get "{scheme}://{host}:{port}{path}": {error}'
        finally:
            connection.close()
        good = http.client.OK <= status < http.client.BAD_REQUEST
        return None if good else f"HTTP probe failed with statuscode: {status}"


def watch(
    probe: Json,
    once: Callable[[], str | None],
    going: Callable[[float], bool],
    told: Callable[[bool, str], bool],
) -> None:
    """Run a probe until the container ends or nobody wants to know more.

    :param once: runs it once.
    :param going: waits the given seconds; False if the container ended meanwhile.
    :param told: is told of each change (success after successThreshold, failure after failureThreshold in a row, with
        the last message), and returns whether to go on.
    """
    good = bad = 0
    if not going(float(probe.get("initialDelaySeconds", 0))):
        return
    while True:
        began = time.monotonic()
        failure = once()
        good, bad = (good + 1, 0) if failure is None else (0, bad + 1)
        decided = good >= probe["successThreshold"] or bad >= probe["failureThreshold"]
        if decided and not told(failure is None, failure or ""):
            return
        if not going(max(0.0, probe["periodSeconds"] - (time.monotonic() - began))):
            return


def _port(container: Json, port: int | str) -> int:
    if isinstance(port, int):
        return port
    named = {each.get("name"): each["containerPort"] for each in container.get("ports") or []}
    return int(named[port]) if port in named else int(port)
