"""What probes and Prometheus see."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from datakit_sidecar import health
from datakit_sidecar.errors import InvalidSettings, NotReady
from datakit_sidecar.health import HealthServer, Page, ask
from datakit_sidecar.settings import HealthSettings
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def server() -> Iterator[HealthServer]:
    made = HealthServer(HealthSettings(port=0), {"/readyz": lambda: Page.json(200, {"ready": True})})
    yield made
    made.close()


def raw(server: HealthServer, request: bytes) -> bytes:
    answer = b""
    with (
        contextlib.suppress(ConnectionError),  # as a dropped connection may end
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection,
    ):
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while block := connection.recv(65536):
            answer += block
    return answer


def test_a_page_is_answered(server: HealthServer) -> None:
    assert json.loads(ask("127.0.0.1", server.port, "/readyz?verbose").text) == {"ready": True}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /readyz HTTP/1.1\r\n\r\n", b"405"),
        (b"\x16\x03\x01 hello tls\r\n\r\n", b"400"),
        (b"GET /readyz\r\n\r\n", b"400"),
    ],
)
def test_other_requests_get_their_status(server: HealthServer, request_: bytes, status: bytes) -> None:
    assert raw(server, request_).split(b" ")[1] == status


def test_head_gets_no_body(server: HealthServer) -> None:
    assert raw(server, b"HEAD /readyz HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


def test_a_request_without_end_is_dropped(server: HealthServer) -> None:
    assert raw(server, b"GET /" + b"a" * 100_000) == b""


def test_clients_that_say_nothing_do_not_keep_others_waiting(server: HealthServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(10)]
    try:
        began = time.monotonic()
        assert ask("127.0.0.1", server.port, "/readyz").status == 200
        assert time.monotonic() - began < 2
    finally:
        for connection in silent:
            connection.close()


def test_more_silent_clients_than_it_takes_are_turned_away_and_forgotten(server: HealthServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    before = threading.active_count()
    for connection in silent:
        connection.close()

    deadline = time.monotonic() + 10
    while True:
        try:
            assert ask("127.0.0.1", server.port, "/readyz").status == 200
            break
        except NotReady:
            assert time.monotonic() < deadline
    assert before < 40


def test_a_client_that_dribbles_is_dropped_at_the_deadline(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as connection:
        began = time.monotonic()
        while time.monotonic() - began < 10:
            try:
                connection.sendall(b"x")
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it was not dropped")


def test_a_server_that_dribbles_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=dribble, args=(listener,), daemon=True).start()

        with pytest.raises(NotReady, match="no sidecar answers"):
            ask("127.0.0.1", listener.getsockname()[1], "/readyz", seconds=0.5)


def dribble(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.recv(2048)
        for byte in b"HTTP/1.1 200 OK\r\n\r\n":
            connection.sendall(bytes([byte]))
            time.sleep(0.1)


def test_probes_are_answered_again_after_a_moment_without_threads(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        for _ in range(20):  # more than it answers at once
            with pytest.raises(NotReady):
                ask("127.0.0.1", server.port, "/readyz", seconds=0.5)

    assert ask("127.0.0.1", server.port, "/readyz").status == 200


def test_a_port_that_is_taken_says_how_to_find_the_other(server: HealthServer) -> None:
    with pytest.raises(InvalidSettings, match=rf"sport = :{server.port}"):
        HealthServer(HealthSettings(port=server.port), {})


def test_nobody_listening_is_no_traceback() -> None:
    with pytest.raises(NotReady, match="no sidecar answers"):
        ask("127.0.0.1", 1, "/readyz")


def test_the_metrics_are_what_prometheus_reads(house: Any) -> None:
    house.vault.add_secret("/Databases/finance-db", {"password": "x"})
    house.configuration["secrets"] = [{"secret": "/Databases/finance-db", "as": "finance-db"}]
    sidecar = house.start()
    sidecar.wait_until_ready()

    families = {family.name: family for family in text_string_to_metric_families(sidecar.page("/metrics").text)}

    assert families["datakit_sidecar_ready"].samples[0].value == 1
    (left,) = families["datakit_sidecar_ticket_seconds_left"].samples
    assert left.labels == {"principal": "svc-datakit@LAB.TEST", "service": "MSSQLSvc/sql01.lab.test:1433"}
    assert 35_000 < left.value <= 36_000
    assert families["datakit_sidecar_vault_seconds"].type == "histogram"
    assert families["datakit_sidecar_secret_age_seconds"].samples[0].labels == {"secret": "finance-db"}
    assert families["datakit_sidecar_audit_lines"].samples[0].value == len(sidecar.audit())


def test_ready_wants_the_minimum_life_and_says_what_is_missing(hasty_house: Any) -> None:
    hasty_house.configuration["health"]["minimum_life"] = "1h"
    sidecar = hasty_house.start()
    sidecar.wait_until(hasty_house.cache.exists)
    sidecar.wait_until(lambda: "left, less than 3600 s" in sidecar.page("/readyz").text)

    assert sidecar.page("/readyz").status == 503


def test_healthcheck_is_a_probe_without_curl(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    port = str(sidecar.port)

    assert house.command("healthcheck", "--port", port).returncode == 0
    assert house.command("healthcheck", "--live", "--port", port).returncode == 0
    assert json.loads(house.command("healthcheck", "--json", "--port", port).stdout)["ready"] is True


def test_healthcheck_reads_the_port_from_the_configuration(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    house.configuration["health"]["port"] = sidecar.port

    assert house.command("healthcheck", "--config", house.write()).returncode == 0


def test_healthcheck_says_why_it_is_not_ready(house: Any) -> None:
    with house.vault.down():
        sidecar = house.start()
        sidecar.wait_until(lambda: "is not published" in _text(sidecar))

        done = house.command("healthcheck", "--port", str(sidecar.port))

    assert done.returncode == 75
    assert done.stderr.startswith("not ready: svc-datakit@LAB.TEST: the ticket for MSSQLSvc/")
    sidecar.kill()
    assert house.command("healthcheck", "--port", str(sidecar.port)).returncode == 75


def _text(sidecar: Any) -> str:
    try:
        return str(sidecar.page("/readyz").text)
    except NotReady:
        return ""
