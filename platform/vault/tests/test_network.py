"""Connections: private authorities, proxies, deadlines, limits, and servers that are none."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from datakit_lab.certificates import ServerCertificate, issue_certificate
from datakit_lab.network import free_port
from datakit_vault import Reference, RetryPolicy, Vault, VaultSettings, errors
from datakit_vault.testing import FakeVault

from .conftest import KEYTAB

SVC = Reference.parse("/Kerberos/svc")
ONCE = RetryPolicy(attempts=1)
Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def raw_server(talk: Talk) -> Iterator[int]:
    """Within, each connection to the port is talked to by ``talk``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                talk(connection)
                # Closed with a part of the request unread, it would be reset, and the answer might never be seen.
                connection.settimeout(5)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    continue

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def answering(data: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return talk


@pytest.fixture
def secure(lab_certificate: ServerCertificate) -> Iterator[FakeVault]:
    with FakeVault(certificate=lab_certificate.certificate, key=lab_certificate.key, host="localhost") as fake:
        fake.add_secret("/Kerberos/svc", {"keytab": KEYTAB})
        yield fake


def test_a_private_authority_is_trusted_if_its_file_is_named(
    secure: FakeVault, lab_certificate: ServerCertificate, tmp_path: Path
) -> None:
    with Vault(secure.settings(tmp_path, ca_file=lab_certificate.authority)) as vault:
        assert vault.read(SVC, "keytab").reveal() == KEYTAB


def test_the_keys_of_a_session_are_written_nowhere(
    secure: FakeVault, lab_certificate: ServerCertificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with Vault(secure.settings(tmp_path, ca_file=lab_certificate.authority)) as vault:
        vault.read(SVC, "keytab")
    assert not (tmp_path / "keys").exists()


def test_without_that_file_the_certificate_is_refused_and_no_credential_sent(secure: FakeVault, tmp_path: Path) -> None:
    with Vault(secure.settings(tmp_path), retry=ONCE) as vault, pytest.raises(errors.CertificateRefused) as caught:
        vault.login()
    assert "openssl s_client -connect localhost:" in str(caught.value.fix)
    assert "ca_file" in str(caught.value.fix)
    assert secure.requests == ()


def test_a_certificate_for_another_host_or_of_another_time_is_refused(tmp_path: Path) -> None:
    other = issue_certificate(tmp_path / "other", ["vault.corp.example"])
    expired = issue_certificate(tmp_path / "expired", now=datetime.now(UTC) - timedelta(days=100))
    for certificate, says in ((other, "not valid for 'localhost'"), (expired, "expired")):
        with (
            FakeVault(certificate=certificate.certificate, key=certificate.key, host="localhost") as fake,
            Vault(fake.settings(tmp_path / "c", ca_file=certificate.authority), retry=ONCE) as vault,
            pytest.raises(errors.CertificateRefused, match=says),
        ):
            vault.login()


@pytest.mark.parametrize(
    ("content", "says"), [(None, "No such file"), (b"", "no certificate"), (b"junk", "no certificate")]
)
def test_a_file_of_authorities_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_bytes(content)
    settings = VaultSettings(kind="platform", url="https://vault.example", credentials=tmp_path, ca_file=path)
    with pytest.raises(errors.InvalidSettings, match=says) as caught:
        Vault(settings)
    assert caught.value.subject == str(path)


class Proxy:
    """A proxy that connects, or refuses to with a status; it counts what it was asked."""

    def __init__(self, status: int = 200, delay: float = 0) -> None:
        self.status = status
        self.delay = delay
        self.asked: list[str] = []

    def running(self) -> AbstractContextManager[int]:
        return raw_server(self._talk)

    def _talk(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        line = head.split(b"\r\n")[0].decode()
        self.asked.append(line)
        method, target, _ = line.split()
        if method == "CONNECT":
            for byte in f"HTTP/1.1 {self.status} whatever\r\nContent-Length: 0\r\n\r\n".encode():
                client.sendall(bytes([byte]))
                time.sleep(self.delay)
            if self.status != 200:
                return
        host, _, port = target.removeprefix("http://").partition("/")[0].partition(":")
        with socket.create_connection((host, int(port))) as server:
            if method != "CONNECT":
                server.sendall(head)
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server)
            back.join()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def test_a_proxy_carries_tls_that_it_cannot_read(
    secure: FakeVault, lab_certificate: ServerCertificate, tmp_path: Path
) -> None:
    proxy = Proxy()
    with proxy.running() as port:
        settings = secure.settings(tmp_path, ca_file=lab_certificate.authority, proxy=f"http://127.0.0.1:{port}")
        with Vault(settings) as vault:
            assert vault.read(SVC, "keytab").reveal() == KEYTAB
    assert {f"CONNECT localhost:{secure.port}"} == {line.rpartition(" ")[0] for line in proxy.asked}


def test_a_proxy_forwards_plain_http_where_that_is_allowed(fake: FakeVault, tmp_path: Path) -> None:
    proxy = Proxy()
    with (
        proxy.running() as port,
        Vault(fake.settings(tmp_path, proxy=f"http://127.0.0.1:{port}")) as vault,
    ):
        assert vault.read(SVC, "keytab").reveal() == KEYTAB
    assert proxy.asked[0].startswith(f"POST http://127.0.0.1:{fake.port}/SecretServer/oauth2/token ")


@pytest.mark.parametrize(("status", "says"), [(407, "it wants a login"), (403, "does not let this machine through")])
def test_a_proxy_that_refuses_is_named(secure: FakeVault, tmp_path: Path, status: int, says: str) -> None:
    with (
        Proxy(status).running() as port,
        Vault(secure.settings(tmp_path, proxy=f"http://127.0.0.1:{port}"), retry=ONCE) as vault,
        pytest.raises(errors.ProxyRefused, match=says) as caught,
    ):
        vault.login()
    assert caught.value.status == status
    assert f"--proxy http://127.0.0.1:{port}" in str(caught.value.fix)


def test_a_proxy_that_is_away_is_named(secure: FakeVault, tmp_path: Path) -> None:
    port = free_port()
    with (
        Vault(secure.settings(tmp_path, proxy=f"http://127.0.0.1:{port}"), retry=ONCE) as vault,
        pytest.raises(errors.Unreachable, match=f"through the proxy 127.0.0.1:{port}"),
    ):
        vault.login()


def test_the_environments_proxy_is_not_used(
    fake: FakeVault, open_vault: Callable[..., Vault], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert open_vault().login()


def drip(data: bytes, first: bytes = b"") -> Talk:
    """Send ``first`` at once and ``data`` a byte at a time, for a minute."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(first)
        for byte in data:
            time.sleep(0.1)
            connection.sendall(bytes([byte]))

    return talk


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "talk",
    [
        drip(OK * 20),
        drip(b"x" * 600, first=OK + b"Content-Length: 600\r\n\r\n"),
        drip(b"x" * 600, first=OK + b"Transfer-Encoding: chunked\r\n\r\n258\r\n"),
        drip(b"", first=b""),
        lambda connection: time.sleep(60),
    ],
    ids=["header", "body", "chunks", "closes", "silence"],
)
def test_a_slow_answer_cannot_stretch_the_deadline(tmp_path: Path, talk: Talk) -> None:
    with raw_server(talk) as port:
        began = time.monotonic()
        with pytest.raises(errors.TemporaryError):
            slow_client(tmp_path, f"http://127.0.0.1:{port}").login()
        assert time.monotonic() - began < 20


def slow_client(tmp_path: Path, url: str, **settings: str) -> Vault:
    (tmp_path / "username").write_text("u")
    (tmp_path / "password").write_text("p")
    chosen = VaultSettings(
        kind="secret-server", url=url, credentials=tmp_path, timeout=0.6, allow_http=True, proxy=settings.get("proxy")
    )
    return Vault(chosen, retry=ONCE)


def test_a_silent_tls_handshake_ends_at_the_deadline(tmp_path: Path) -> None:
    with raw_server(lambda connection: time.sleep(60)) as port, pytest.raises(errors.TimedOut):
        slow_client(tmp_path, f"https://127.0.0.1:{port}").login()


def test_a_proxy_that_answers_byte_by_byte_cannot_stretch_the_deadline(tmp_path: Path) -> None:
    with Proxy(delay=0.1).running() as port, pytest.raises(errors.TimedOut, match="through the proxy"):
        slow_client(tmp_path, "https://vault.example", proxy=f"http://127.0.0.1:{port}").login()


def test_a_second_address_is_tried_when_the_first_refuses(
    fake: FakeVault, open_vault: Callable[..., Vault], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def two(host: str, port: int, **options: object) -> object:
        refused = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.9", port))
        return [refused, *real(host, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    assert open_vault().login()


def test_a_first_address_that_swallows_packets_leaves_time_for_the_second(
    fake: FakeVault, open_vault: Callable[..., Vault], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.8", fake.port))
        full.listen(0)
        for _ in range(4):  # its queue is full from here on, so further packets are dropped
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.8", fake.port))

        def two(host: str, port: int, **options: object) -> object:
            dropping = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.8", port))
            return [dropping, *real(host, port, type=socket.SOCK_STREAM)]

        monkeypatch.setattr(socket, "getaddrinfo", two)
        assert open_vault(timeout=4).login()


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", errors.NotTheVault, "does not speak HTTP"),
        (b"", errors.Unreachable, "dropped the connection"),
        (OK + b"Content-Length: 50\r\n\r\n{", errors.AnswerBroken, "ended early"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{", errors.AnswerBroken, "ended early"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{", errors.AnswerBroken, "ended early"),
        (OK + b"X: y\r\n" * 200 + b"\r\n", errors.NotTheVault, "does not speak HTTP"),
        (OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n", errors.NotTheVault, "does not speak HTTP"),
        (OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", errors.NotTheVault, "compressed"),
        (OK + b"Content-Length: 99999999999999999999\r\n\r\n{}", errors.AnswerTooLarge, "the limit is"),
        (b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n", errors.NotTheVault, "says status 418"),
        (b"HTTP/1.1 999 \r\nContent-Length: 0\r\n\r\n", errors.NotTheVault, "says status 999"),
    ],
)
def test_a_server_that_is_none_is_named(
    tmp_path: Path, answer: bytes, kind: type[errors.VaultError], says: str
) -> None:
    with raw_server(answering(answer)) as port, pytest.raises(errors.VaultError, match=says) as caught:
        slow_client(tmp_path, f"http://127.0.0.1:{port}").login()
    assert type(caught.value) is kind


def test_plain_http_at_the_port_of_https_is_named(fake: FakeVault, tmp_path: Path) -> None:
    with pytest.raises(errors.NotTheVault, match="does not speak TLS"):
        slow_client(tmp_path, f"https://127.0.0.1:{fake.port}").login()


def test_an_unknown_host_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.Unreachable, match=r"vault\.invalid has no address") as caught:
        slow_client(tmp_path, "https://vault.invalid").login()
    assert caught.value.fix == "getent hosts vault.invalid"


def test_a_file_whose_end_is_not_announced_is_not_trusted(tmp_path: Path) -> None:
    record = b'{"id": 5, "name": "n", "items": [{"slug": "keytab", "isFile": true, "filename": "k"}]}'
    token = b'{"access_token": "t", "expires_in": 60}'

    def talk(connection: socket.socket) -> None:
        request = connection.recv(65536)
        body = token if b"oauth2" in request else b"\x05\x02half" if b"fields" in request else record
        kind = b"application/octet-stream" if b"fields" in request else b"application/json"
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: " + kind + b"\r\n\r\n" + body)

    with raw_server(talk) as port, pytest.raises(errors.AnswerBroken, match="may be cut off"):
        slow_client(tmp_path, f"http://127.0.0.1:{port}").read(Reference.parse(5), "keytab")


def test_a_restarted_vault_is_asked_again_over_a_new_connection(fake: FakeVault, vault: Vault) -> None:
    assert vault.record(SVC).name == "svc"
    with fake.down(), pytest.raises(errors.Unreachable):
        vault.record(SVC)
    assert vault.record(SVC).name == "svc"


def test_a_refused_answer_leaves_the_connection_clean_for_the_next(fake: FakeVault, vault: Vault) -> None:
    for fault in ("large", "large-chunked", "truncated", "cut-json"):
        fake.fault(fault)
        with pytest.raises(errors.VaultError):
            vault.record(SVC)
        assert vault.record(SVC).name == "svc"


def test_a_larger_limit_can_be_set(fake: FakeVault, open_vault: Callable[..., Vault]) -> None:
    fake.set_field("/Kerberos/svc", "big", bytes(5 * 2**20))
    with pytest.raises(errors.AnswerTooLarge, match="max_bytes raises the limit"):
        open_vault().read(SVC, "big")
    assert len(open_vault(max_bytes=6 * 2**20).read(SVC, "big").reveal()) == 5 * 2**20


def test_threads_beyond_the_idle_connections_all_get_their_answer(fake: FakeVault, vault: Vault) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(vault.read(SVC, "keytab").reveal())) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [KEYTAB] * 40
