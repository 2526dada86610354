"""HTTP by urllib3, with what it lacks: one deadline for a whole request, and a limit for the answer.

urllib3 limits each wait on the socket, so a server that sends a byte a second keeps a client for ever. Here every read
of a request, its header lines too, gets only what is left of the one deadline. Looking up the host's address is the
system's business and not bounded by it.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError

from datakit_vault import errors
from datakit_vault._secret import Secret
from datakit_vault._transport import Request, Response

if TYPE_CHECKING:
    from datakit_vault._settings import VaultSettings

_CHUNK: Final = 64 * 2**10
_CONNECTIONS: Final = 8
"""Idle connections that are kept; more threads than this open and close their own."""

_NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG")
_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d{3})")  # http.client says it in words only

_thread = threading.local()


class _Deadline:
    """The end of the request that this thread makes; its reads look it up here."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left.

        :raises TimeoutError: none.
        """
        seconds = self._at - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the deadline has passed")
        return seconds

    def __enter__(self) -> Self:
        _thread.deadline = self
        return self

    def __exit__(self, *_: object) -> None:
        _thread.deadline = None


def _left() -> float:
    deadline: _Deadline = _thread.deadline
    return deadline.left()


class _Reader(io.RawIOBase):
    """Reads from a socket, waiting no longer than the request may take."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._source = connected.makefile("rb", buffering=0)  # keeps the socket open as long as the answer is read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(_left())
        return self._source.readinto(buffer)

    def close(self) -> None:
        self._source.close()
        super().close()


class _BoundedSocket:
    """A connected socket whose file is a :class:`_Reader`; everything else is the socket's own."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._socket))

    def sendall(self, data: Any) -> None:
        self._socket.settimeout(_left())
        self._socket.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class _Bounded:
    """What both kinds of connection do differently."""

    port: int
    sock: Any
    _dns_host: str

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers, each with its share of the time that is left."""
        addresses = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        failure: OSError = OSError(f"{self._dns_host} has no address")
        for position, (family, kind, protocol, _, address) in enumerate(addresses):
            connecting = socket.socket(family, kind, protocol)
            try:
                connecting.settimeout(_left() / (len(addresses) - position))
                connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connecting.connect(address)
            except OSError as error:
                connecting.close()
                failure = error
            else:
                connecting.settimeout(_left())
                return connecting
        if isinstance(failure, TimeoutError):
            raise failure
        raise NewConnectionError(self, "no address answers") from failure  # type: ignore[arg-type]

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock = _BoundedSocket(self.sock)

    def _tunnel(self) -> None:
        connected = self.sock
        self.sock = _BoundedSocket(connected)
        super()._tunnel()  # type: ignore[misc]
        self.sock = connected


class _PlainConnection(_Bounded, HTTPConnection):
    pass


class _TlsConnection(_Bounded, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class HttpTransport:
    """Sends requests over HTTP or HTTPS, directly or through a proxy. Never follows a redirect.

    :raises InvalidSettings: the CA file cannot be used.
    """

    def __init__(self, settings: VaultSettings) -> None:
        self._timeout = settings.timeout
        self._limit = settings.max_bytes
        trust = _trust(settings)
        pool_options: dict[str, Any] = {"maxsize": _CONNECTIONS, "ssl_context": trust, "retries": False}
        manager: urllib3.PoolManager
        if settings.proxy is None:
            manager = urllib3.PoolManager(**pool_options)
        else:
            manager = urllib3.ProxyManager(settings.proxy, proxy_ssl_context=trust, **pool_options)
        manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        self._manager = manager
        self._proxy = settings.proxy

    def send(self, request: Request) -> Response:
        """See :meth:`datakit_vault.Transport.send`."""
        # An exception of urllib3 keeps frames that hold the token and the body; the one raised here must not keep it.
        try:
            return self._send(request)
        except errors.VaultError as error:
            problem = error
        except (HTTPError, OSError, ValueError) as error:
            problem = _explain(error, request, self._timeout, self._proxy)
        raise problem.with_traceback(None)

    def _send(self, request: Request) -> Response:
        with _Deadline(self._timeout) as deadline:
            answer = self._manager.request(
                request.method,
                request.url,
                headers=_headers(request),
                body=None if request.body is None else request.body.reveal(),
                timeout=urllib3.Timeout(total=deadline.left()),
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                body = self._read(answer, request)
            except BaseException:
                answer.close()  # what is left of the answer must not be read by the next request
                raise
            answer.release_conn()
        headers = {name.lower(): value for name, value in answer.headers.items()}
        framed = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
        return Response(answer.status, headers, body, framed)

    def _read(self, answer: urllib3.BaseHTTPResponse, request: Request) -> Secret[bytes]:
        announced = answer.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            raise _too_large(request, self._limit, f"{int(announced):,} bytes")
        body = bytearray()
        while chunk := answer.read(_CHUNK):
            body += chunk
            if len(body) > self._limit:
                raise _too_large(request, self._limit, f"more than {self._limit:,} bytes")
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise errors.NotTheVault(
                "the answer is compressed, which was not asked for",
                subject=urlsplit(request.url).netloc,
                cause="a proxy before the vault that compresses",
                fix="turn that off for the vault's host",
            )
        return Secret.adopt(body)

    def close(self) -> None:
        """Close idle connections."""
        self._manager.clear()


def _headers(request: Request) -> dict[str, str]:
    headers = {"Accept": "application/json, application/octet-stream", "Accept-Encoding": "identity"}
    headers["User-Agent"] = "datakit-vault"
    if request.token is not None:
        headers["Authorization"] = f"Bearer {request.token.reveal()}"
    if request.content_type is not None:
        headers["Content-Type"] = request.content_type
    return headers


def _trust(settings: VaultSettings) -> ssl.SSLContext:
    ca_file = settings.ca_file
    problem: str | None = None
    # As ssl.create_default_context makes it, which would also write the keys of every session where SSLKEYLOGFILE says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(str(ca_file))
    except ssl.SSLError:
        problem = "holds no certificate in PEM"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    if problem is not None:
        raise errors.InvalidSettings(
            f"the file of trusted authorities {problem}",
            subject=str(ca_file),
            fix="name a PEM file (-----BEGIN CERTIFICATE-----) that this user can read",
        )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The same in every Python, although 3.13 changed both: the file may name the issuing authority without its root,
    # and a company's own authority may lack extensions that RFC 5280 asks for.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _too_large(request: Request, limit: int, length: str) -> errors.AnswerTooLarge:
    return errors.AnswerTooLarge(
        f"the answer has {length}; the limit is {limit:,}",
        subject=urlsplit(request.url).netloc,
        cause="not a keytab or a password, or not the vault that answers",
        fix="look at what the field holds; max_bytes raises the limit",
    )


def _explain(error: Exception, request: Request, timeout: float, proxy: str | None) -> errors.VaultError:
    """Say what a failure of the network means, without a word of what was sent or received."""
    host = urlsplit(request.url).netloc
    causes = _chain(error)

    def find(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    look = f"curl -v {f'--proxy {proxy} ' if proxy else ''}{_origin(request.url)}/"
    through = f" through the proxy {urlsplit(proxy).netloc}" if proxy else ""
    if isinstance(refused := find(ssl.SSLCertVerificationError), ssl.SSLCertVerificationError):
        return errors.CertificateRefused(
            f"the certificate is refused{through}: {refused.verify_message.rstrip('.')}",
            subject=host,
            cause="signed by the company's own authority, expired, or for another name",
            fix="name the PEM file of the authority in ca_file; look at the certificate: "
            f"openssl s_client -connect {host if ':' in host else host + ':443'} -showcerts",
        )
    if isinstance(spoken := find(ssl.SSLError), ssl.SSLError) and spoken.reason in _NOT_TLS:
        return errors.NotTheVault(
            "the port does not speak TLS", subject=host, cause="it is the port of http://", fix="look at the URL's port"
        )
    if find(socket.gaierror):
        named = urlsplit(proxy or request.url).hostname
        return errors.Unreachable(
            f"the host {named} has no address",
            subject=host,
            cause="a wrong name, or a DNS server that does not answer",
            fix=f"getent hosts {named}",
        )
    if tunnel := next(filter(None, (_TUNNEL.search(str(cause)) for cause in causes)), None):
        return errors.ProxyRefused(
            f"the proxy {urlsplit(proxy or '').netloc} refuses a connection, with status {tunnel[1]}",
            subject=host,
            cause="it wants a login" if tunnel[1] == "407" else "it does not let this machine through to the vault",
            fix=look,
            status=int(tunnel[1]),
        )
    if find(TimeoutError, ReadTimeoutError):
        return errors.TimedOut(
            f"no whole answer within {timeout:g} s{through}",
            subject=host,
            cause="the vault is busy, or a firewall drops the packets",
            fix=f"{look}; timeout raises the limit",
        )
    if find(http.client.IncompleteRead):
        return errors.AnswerBroken(
            "the answer ended early", subject=host, cause="the connection was dropped on the way", fix="try it again"
        )
    if find(http.client.HTTPException) and not find(ConnectionError):
        return errors.NotTheVault(
            "what answers does not speak HTTP",
            subject=host,
            cause="another service's port",
            fix="look at the URL's port",
        )
    reason = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    did = "cannot be reached" if find(NewConnectionError) else "dropped the connection"
    return errors.Unreachable(
        f"the vault {did}{through}{f': {reason}' if reason else ''}",
        subject=host,
        cause="it is down or restarting, the port is wrong, or a firewall refuses",
        fix=look,
    )


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and everything that it wraps, outermost first."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            waiting += [*each.args, each.__cause__, each.__context__, getattr(each, "reason", None)]
    return found


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
