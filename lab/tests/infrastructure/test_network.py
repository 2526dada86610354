"""Ports, names and certificates of the loopback."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from datakit_lab.certificates import ServerCertificate, issue_certificate
from datakit_lab.network import accepts, ask, free_port, holder_of, own_names, port_is_free


def test_a_listening_port_is_taken_and_its_holder_is_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert accepts(port)
        assert not port_is_free(port)
        assert str(os.getpid()) in holder_of(port)
    assert not accepts(port)


def test_a_free_port_can_be_bound_for_both_protocols() -> None:
    port = free_port(udp=True)
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", port))
        udp.bind(("127.0.0.1", port))


def test_this_machine_is_localhost_and_its_own_name() -> None:
    assert own_names()[0] == "localhost"
    assert socket.gethostname().lower() in own_names()


def test_a_request_to_this_machine_goes_past_a_companys_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with ask(f"http://localhost:{server.server_port}/", seconds=5) as answer:
            assert answer.status == 204
        thread.join()


def handshake(certificate: ServerCertificate, authority: Path, name: str) -> None:
    """Let Python's TLS client verify the certificate as ``name``."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate.certificate, certificate.key)
    client = ssl.create_default_context(cafile=str(authority))
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except ssl.SSLError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(ours, server_hostname=name).close()
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", socket.gethostname()])
def test_a_certificate_is_valid_for_every_name_of_this_machine(tmp_path: Path, name: str) -> None:
    certificate = issue_certificate(tmp_path)
    handshake(certificate, certificate.authority, name)


def test_a_certificate_is_refused_for_another_name_by_another_authority_and_when_expired(tmp_path: Path) -> None:
    certificate = issue_certificate(tmp_path / "one")
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(certificate, certificate.authority, "sql.lab.test")
    other = issue_certificate(tmp_path / "two")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get|self-signed|signature"):
        handshake(certificate, other.authority, "localhost")
    old = issue_certificate(tmp_path / "old", now=datetime.now(UTC) - timedelta(days=10), life=timedelta(days=1))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(old, old.authority, "localhost")


def test_a_key_is_for_its_owner_only(tmp_path: Path) -> None:
    assert issue_certificate(tmp_path).key.stat().st_mode & 0o777 == 0o600
