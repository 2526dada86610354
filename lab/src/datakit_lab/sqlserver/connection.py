"""One client, from its first byte to its last: encryption, login, requests, attentions."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datakit_lab.sqlserver import tokens
from datakit_lab.sqlserver.answers import Dropped
from datakit_lab.sqlserver.backend import Backend, Login, Session, SqlError
from datakit_lab.sqlserver.channel import Channel, Disconnected
from datakit_lab.sqlserver.faults import CONTROL_APPLICATION
from datakit_lab.sqlserver.login import (
    UTF8_SUPPORT,
    Encryption,
    Login7,
    Malformed,
    client_encryption,
    parse_login7,
    prelogin_answer,
)
from datakit_lab.sqlserver.packets import (
    DEFAULT_PACKET_SIZE,
    IGNORE,
    MAX_ENCRYPTED_PACKET_SIZE,
    MAX_PACKET_SIZE,
    MIN_PACKET_SIZE,
    RESET_CONNECTION,
    Buffer,
    Framer,
    Message,
    Packet,
    packet,
)
from datakit_lab.sqlserver.requests import Requests, Shared
from datakit_lab.sqlserver.tls import TlsMode
from datakit_lab.sqlserver.tokens import Change, Done, DoneStatus

_log = logging.getLogger(__name__)
_OLDEST: Final = 0x72090002
_TLS_FIRST: Final = 0x16


class _Refused(Exception):
    """The login ends here with an error for the client."""

    def __init__(self, error: SqlError) -> None:
        super().__init__(error.text)
        self.error = error


@dataclass(frozen=True, slots=True)
class Settings:
    """What a connection needs of its server."""

    backend: Backend
    shared: Shared
    tls_mode: TlsMode
    tls: ssl.SSLContext | None
    tls_strict: ssl.SSLContext | None
    keytab: Path | None


class Connection:
    """Serves one client until it leaves, a fault drops it or an error ends it."""

    def __init__(self, channel: Channel, settings: Settings, client_address: str) -> None:
        self._channel = channel
        self._settings = settings
        self._client_address = client_address
        self._packet_size = DEFAULT_PACKET_SIZE
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="tds-session")
        self._cancelled = threading.Event()
        self._attention = False
        self._busy = False
        self._login: Login | None = None
        self._requests: Requests | None = None

    async def serve(self) -> None:
        """Serve the client to its end; never raises for what the client did."""
        try:
            if await self._open():
                await self._loop()
        except (Disconnected, Dropped) as reason:
            _log.debug("%s left: %s", self._client_address, reason)
        except (Malformed, ssl.SSLError) as reason:
            _log.info("%s was cut off: %s", self._client_address, reason)
        finally:
            self._cancelled.set()
            if self._requests is not None:
                await self._in_worker(self._requests.session.close)
            self._worker.shutdown(wait=False)
            await self._channel.close()

    # -- login -----------------------------------------------------------------------------------------------------

    async def _open(self) -> bool:
        login_only = await self._agree_on_encryption()
        message = await self._channel.read_message()
        if login_only:
            self._channel.end_encryption()
        if message.kind != Packet.LOGIN7:
            raise Malformed(f"LOGIN7 was due, {message.kind:#04x} came")
        request = parse_login7(message.body)
        try:
            await self._accept(request)
        except _Refused as refused:
            error = refused.error
            _log.info("login of %s refused: %d %s", request.user or "a ticket's holder", error.number, error.text)
            await self._send_now(
                tokens.error(error.number, error.text, severity=error.severity, state=error.state)
                + tokens.done(Done.STATEMENT, DoneStatus.ERROR)
            )
            return False
        return True

    async def _agree_on_encryption(self) -> bool:
        """Answer PRELOGIN; return whether only the login is encrypted."""
        settings = self._settings
        if await self._channel.first_byte() == _TLS_FIRST:
            if settings.tls_strict is None:
                raise Malformed("the client began with TLS, which is off here")
            await self._channel.handshake(settings.tls_strict, wrapped=False)
        message = await self._channel.read_message()
        if message.kind != Packet.PRELOGIN:
            raise Malformed(f"PRELOGIN was due, {message.kind:#04x} came")
        wanted = client_encryption(message.body)
        if self._channel.encrypted:
            agreed = Encryption.NOT_SUPPORTED if wanted is Encryption.NOT_SUPPORTED else Encryption.ON
            await self._channel.write([packet(Packet.ANSWER, prelogin_answer(agreed), 1, last=True)])
            return False
        if settings.tls_mode is TlsMode.OFF:
            agreed = Encryption.NOT_SUPPORTED
        elif settings.tls_mode is TlsMode.REQUIRED:
            agreed = Encryption.ON if wanted in (Encryption.ON, Encryption.REQUIRED) else Encryption.REQUIRED
        else:
            agreed = Encryption.ON if wanted is Encryption.REQUIRED else wanted
        await self._channel.write([packet(Packet.ANSWER, prelogin_answer(agreed), 1, last=True)])
        if agreed is Encryption.NOT_SUPPORTED or settings.tls is None:
            return False
        if wanted is Encryption.NOT_SUPPORTED:
            raise Disconnected("encryption is required and the client has none")
        await self._channel.handshake(settings.tls, wrapped=True)
        return agreed is Encryption.OFF

    async def _accept(self, request: Login7) -> None:
        if request.tds_version < _OLDEST:
            raise _Refused(SqlError(17809, "This double speaks TDS 7.2 to 7.4.", severity=20))
        await self._login_faults(request)
        principal = await self._authenticate(request)
        login = Login(
            principal=principal,
            user=None if principal else request.user,
            password=None if principal else request.password,
            database=request.database or None,
            application=request.application,
            host=request.host,
            client_address=self._client_address,
            read_only_intent=request.read_only_intent,
        )
        try:
            session: Session = await self._in_worker(self._settings.backend.open_session, login)
        except SqlError as error:
            raise _Refused(error) from error
        self._login = login
        version = min(request.tds_version, tokens.TDS_74)
        self._requests = Requests(session, self._settings.shared, version, self._cancelled)
        size = request.packet_size or DEFAULT_PACKET_SIZE
        most = MAX_ENCRYPTED_PACKET_SIZE if self._channel.encrypted else MAX_PACKET_SIZE
        negotiated = max(MIN_PACKET_SIZE, min(size, most))
        features = {UTF8_SUPPORT: b"\x01"} if UTF8_SUPPORT in request.features else {}
        await self._send_now(
            tokens.environment_text(Change.DATABASE, session.database, "master")
            + tokens.info(5701, f"Changed database context to '{session.database}'.", state=2)
            + tokens.default_collation()
            + tokens.environment_text(Change.LANGUAGE, "us_english", "")
            + tokens.info(5703, "Changed language setting to us_english.")
            + tokens.login_ack(version)
            + tokens.environment_text(Change.PACKET_SIZE, str(negotiated), str(DEFAULT_PACKET_SIZE))
            + (tokens.feature_ack(features) if request.features else b"")
            + tokens.done(Done.STATEMENT, DoneStatus.FINAL)
        )
        self._packet_size = negotiated

    async def _login_faults(self, request: Login7) -> None:
        if request.application == CONTROL_APPLICATION:
            return
        for fault in self._settings.shared.faults.take("login"):
            if fault.action == "drop":
                raise Dropped
            if fault.action == "stall":
                await asyncio.sleep(fault.seconds)
            else:
                raise _Refused(fault.error(database=request.database, user=request.user))

    async def _authenticate(self, request: Login7) -> str | None:
        """Return the Kerberos principal; None for a SQL login, which the backend checks."""
        if request.sspi is None:
            return None
        from datakit_lab.sqlserver.kerberos import Acceptor, KerberosRefused

        if self._settings.keytab is None:
            raise _Refused(_untrusted("this server has no keytab"))
        token = request.sspi
        try:
            acceptor = await self._in_worker(Acceptor, self._settings.keytab)
            while True:
                principal, answer = await self._in_worker(acceptor.step, token)
                if principal is not None:
                    # No closing token: msodbcsql waits for ever when one follows a raw Kerberos login.
                    return str(principal)
                await self._send_now(tokens.sspi(answer))
                message = await self._channel.read_message()
                if message.kind != Packet.SSPI:
                    raise Malformed(f"an SSPI message was due, {message.kind:#04x} came")
                token = message.body
        except KerberosRefused as reason:
            raise _Refused(_untrusted(str(reason))) from reason

    # -- requests --------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        messages: asyncio.Queue[Message | BaseException] = asyncio.Queue(maxsize=4)
        reader = asyncio.create_task(self._read(messages))
        try:
            while True:
                message = await messages.get()
                if isinstance(message, BaseException):
                    raise message
                if message.status & IGNORE or message.kind == Packet.ATTENTION:
                    await self._acknowledge()
                else:
                    await self._answer(message)
                if self._requests is None or self._requests.fatal:
                    return
        finally:
            reader.cancel()

    async def _read(self, messages: asyncio.Queue[Message | BaseException]) -> None:
        """Read ahead of the answers, so that an attention is seen while rows go out."""
        try:
            while True:
                message = await self._channel.read_message()
                if message.kind == Packet.ATTENTION and self._busy:
                    self._attention = True
                    self._stop()
                else:
                    self._busy = True
                    await messages.put(message)
        except (Disconnected, Malformed) as reason:
            self._stop()
            await messages.put(reason)

    def _stop(self) -> None:
        self._cancelled.set()
        if self._requests is not None:
            self._requests.session.cancel()

    async def _acknowledge(self) -> None:
        self._attention = False
        self._busy = False
        self._cancelled.clear()
        await self._send_now(tokens.done(Done.STATEMENT, DoneStatus.ATTENTION))

    async def _answer(self, message: Message) -> None:
        requests = self._requests
        if requests is None:
            raise Malformed("a request before the login")
        framer = Framer(self._packet_size)
        if message.status & RESET_CONNECTION and self._login is not None:
            await self._in_worker(requests.session.close)
            session = await self._in_worker(self._settings.backend.open_session, self._login)
            await self._channel.write(framer.feed(requests.reset(session)))
        chunks = requests.answer(message)
        try:
            while not self._cancelled.is_set():
                chunk: Buffer | None = await self._in_worker(next, chunks, None)
                if chunk is None:
                    break
                await self._channel.write(framer.feed(chunk))
        except Dropped:
            await self._channel.write([framer.flush()])
            raise
        finally:
            await self._in_worker(_close, chunks)
        if self._attention:
            await self._channel.write(framer.feed(tokens.done(Done.STATEMENT, DoneStatus.FINAL)))
        await self._channel.write([framer.close()])
        self._busy = False
        if self._attention:
            # in a message of its own, which is where tedious looks for it
            await self._acknowledge()
        self._cancelled.clear()

    async def _send_now(self, body: bytes) -> None:
        framer = Framer(self._packet_size)
        await self._channel.write([*framer.feed(body), framer.close()])

    async def _in_worker(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)


def _close(chunks: Iterator[Buffer]) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        close()


def _untrusted(reason: str) -> SqlError:
    # the number and words of SQL Server; its log, not its answer, would tell the reason, which a laptop's user wants
    text = "Login failed. The login is from an untrusted domain and cannot be used with Integrated authentication."
    return SqlError(18452, f"{text} ({reason})", severity=14)
