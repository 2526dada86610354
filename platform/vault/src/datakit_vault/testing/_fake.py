"""The double itself: one account, its tokens, its secrets and its faults."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote

from datakit_vault._reference import Reference
from datakit_vault._settings import Kind, VaultSettings
from datakit_vault.testing import _store
from datakit_vault.testing._faults import Answer, Fault
from datakit_vault.testing._server import Call, LoggedRequest, Server

_PLATFORM_LOGIN: Final = "/identity/api/oauth2/token/xpmplatform"


class FakeVault:
    """A double of Secret Server, or of Platform with its Secret Server.

    :param kind: which of the two.
    :param base_path: where Secret Server's API begins, as on premises; empty in the cloud.
    :param host: the name in its URL; it listens on 127.0.0.1 whatever that is.
    :param port: 0 takes a free one and keeps it over :meth:`stop` and :meth:`start`.
    :param username: of the account, or the client's id.
    :param password: of the account, or the client's secret; a random one if None.
    :param domain: what the login must name, if anything.
    :param certificate: PEM file with the server's certificate, and ``key`` its key: HTTPS. Without, HTTP.
    :param token_life: seconds a token is good for.
    :param lock_after: wrong logins in a row after which the account is locked; None never locks it.
    :param clock: seconds that never run backwards.
    """

    def __init__(
        self,
        *,
        kind: Kind = "secret-server",
        base_path: str = "/SecretServer",
        host: str = "127.0.0.1",
        port: int = 0,
        username: str = "svc-vault",
        password: str | None = None,
        domain: str | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        token_life: float = 1200.0,
        lock_after: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kind: Kind = kind
        self.port = port
        self.token_life = token_life
        self.lock_after = lock_after
        self.logins = 0
        """How many tokens were given out."""
        self.wrong_logins = 0
        """How many logins in a row were refused."""
        self._base_path = base_path.rstrip("/")
        self._host = host
        self._username = username
        self._password = secrets.token_urlsafe(18) if password is None else password
        self._domain = domain
        self._clock = clock
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate, key)
        self._guard = threading.RLock()
        self._store = _store.Store()
        self._tokens: dict[str, float] = {}
        self._faults: list[Fault] = []
        self._requests: list[LoggedRequest] = []
        self._server: Server | None = None

    # Its life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after :meth:`stop`, on the same port."""
        if self._server is None:
            self._server = Server(
                self.port, rules=self._answer, choose_fault=self._choose_fault, log=self._requests.append, tls=self._tls
            )
            self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        """Refuse connections, and end those that are open; secrets and tokens are kept."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    @contextmanager
    def down(self) -> Iterator[None]:
        """Within, nobody listens."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'http' if self._tls is None else 'https'}://{self._host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL to configure: Secret Server's base, or the Platform tenant's."""
        return self.origin if self.kind == "platform" else self.origin + self._base_path

    # Its account -----------------------------------------------------------------------------------------------------

    def credentials_folder(self, folder: Path) -> Path:
        """Write the account's credential as files that only this user reads, as Kubernetes would mount it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = ("client_id", "client_secret") if self.kind == "platform" else ("username", "password")
        for name, value in zip(names, (self._username, self._password), strict=True):
            path = folder / name
            path.touch(mode=0o600)
            path.write_text(value, encoding="utf-8")
        return folder

    def settings(self, folder: Path, **others: Any) -> VaultSettings:
        """Return settings for a client of this double, its credential written into ``folder``."""
        chosen = {
            "kind": self.kind,
            "url": self.url,
            "credentials": self.credentials_folder(folder),
            "domain": self._domain,
            "allow_http": self._tls is None,
        }
        return VaultSettings(**{**chosen, **others})

    def change_password(self, password: str | None = None) -> None:
        """Give the account another password, a random one if None; tokens stay good."""
        with self._guard:
            self._password = secrets.token_urlsafe(18) if password is None else password

    def unlock(self) -> None:
        """Forget wrong logins."""
        with self._guard:
            self.wrong_logins = 0

    def expire_tokens(self) -> None:
        """Make every token that was given out worthless."""
        with self._guard:
            self._tokens.clear()

    # Its secrets -----------------------------------------------------------------------------------------------------

    def add_secret(self, path: str, fields: Mapping[str, str | bytes], **flags: Any) -> int:
        """Add a secret and return its id.

        :param path: ``/Folder/Name``.
        :param fields: by slug; bytes are files, and empty bytes a field without a file.
        :param flags: see :meth:`change`.
        :raises ValueError: the path is taken, or a flag is none.
        """
        with self._guard:
            return self._store.add(Reference.parse(path), fields, flags).id

    def change(self, secret: str | int, **flags: Any) -> None:
        """Set flags of a secret.

        ``active``, ``denied``, ``requires_comment`` and ``requires_approval`` are what they say; ``role`` is what the
        account is on it (``View``, ``Edit``, ``Owner``). ``checkout`` makes readers check it out,
        ``rotates_on_check_in`` changes its passwords when they are done, ``hidden_until_checked_out`` hides also its
        metadata before, and with ``checked_out_by_other`` somebody else has it.

        :raises KeyError: there is no such secret.
        :raises ValueError: there is no such flag.
        """
        with self._guard:
            self._store.change(self._store.get(Reference.parse(secret)), flags)

    def set_field(self, secret: str | int, slug: str, value: str | bytes) -> None:
        """Give a field another value, or a secret another field, as a person who edits it does."""
        with self._guard:
            self._store.set_field(self._store.get(Reference.parse(secret)), slug, value)

    def rotate(self, secret: str | int, slug: str, value: str | bytes) -> None:
        """Give a field another value, as the vault's own password change does: it also tells when."""
        with self._guard:
            self._store.rotate(self._store.get(Reference.parse(secret)), slug, value)

    def remove(self, secret: str | int) -> None:
        """Delete a secret, as if it had never been."""
        with self._guard:
            self._store.remove(Reference.parse(secret))

    def comments(self, secret: str | int) -> tuple[str, ...]:
        """Return the reasons that were given for reading a secret."""
        with self._guard:
            return tuple(self._store.get(Reference.parse(secret)).comments)

    def is_checked_out(self, secret: str | int) -> bool:
        """Whether the account has the secret checked out."""
        with self._guard:
            return self._store.get(Reference.parse(secret)).checked_out

    # Its faults and its memory ---------------------------------------------------------------------------------------

    def fault(
        self,
        name: str,
        *,
        times: int | None = 1,
        matching: str = "/api/v",
        seconds: float = 0.2,
        retry_after: float | str | None = None,
    ) -> None:
        """Spoil coming requests; see :class:`Fault` and :data:`FAULTS`.

        :raises ValueError: there is no such fault.
        """
        with self._guard:
            self._faults.append(Fault(name, times, matching, seconds, retry_after))

    def clear_faults(self) -> None:
        """Spoil nothing any more."""
        with self._guard:
            self._faults.clear()

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults that still wait."""
        with self._guard:
            return tuple(fault for fault in self._faults if fault.times != 0)

    @property
    def requests(self) -> tuple[LoggedRequest, ...]:
        """Every request so far, oldest first."""
        return tuple(self._requests)

    def forget_requests(self) -> None:
        """Begin the log anew."""
        self._requests.clear()

    def _choose_fault(self, path: str, token: str) -> Fault | None:
        with self._guard:
            fault = next((each for each in self._faults if each.applies(path)), None)
            if fault is not None and fault.times is not None:
                fault.times -= 1
            if fault is not None and fault.name == "expired-token":
                self._tokens.pop(token, None)
            return fault

    # Its answers -----------------------------------------------------------------------------------------------------

    def _answer(self, call: Call) -> Answer:
        with self._guard:
            if call.method == "POST" and call.path == self._login_path:
                return self._log_in(call)
            if call.path == f"{self._base_path}/api/v1/healthcheck":
                return _store.answer({"Healthy": True, "DatabaseHealthy": True})
            if self.kind == "platform" and call.path == "/health":
                return _store.answer({"Healthy": True})
            asks_for_vaults = self.kind == "platform" and call.path == "/vaultbroker/api/vaults"
            if not asks_for_vaults and not call.path.startswith(f"{self._base_path}/api/"):
                return _store.answer({"message": "No HTTP resource was found"}, 404)
            if self._tokens.get(call.token, 0.0) <= self._clock():
                return _store.answer({"message": "Authentication failed or expired token."}, 401)
            if asks_for_vaults:
                return self._vaults()
            return self._about_secrets(call)

    @property
    def _login_path(self) -> str:
        return _PLATFORM_LOGIN if self.kind == "platform" else f"{self._base_path}/oauth2/token"

    def _log_in(self, call: Call) -> Answer:
        form = {name: values[0] for name, values in parse_qs(call.body.decode(), keep_blank_values=True).items()}
        expected = {"grant_type": "password", "username": self._username, "password": self._password}
        if self.kind == "platform":
            expected = {"client_id": self._username, "client_secret": self._password, "scope": "xpmheadless"}
            expected["grant_type"] = "client_credentials"
        elif self._domain is not None:
            expected["domain"] = self._domain
        locked = self.lock_after is not None and self.wrong_logins >= self.lock_after
        if form.get("grant_type") != expected["grant_type"]:
            return _store.answer({"error": "unsupported_grant_type"}, 400)
        if locked or form != expected:
            self.wrong_logins += 1
            error = "invalid_client" if self.kind == "platform" else "invalid_grant"
            return _store.answer({"error": error}, 400)
        self.logins += 1
        self.wrong_logins = 0
        token = secrets.token_urlsafe(48)
        self._tokens[token] = self._clock() + self.token_life
        return _store.answer({"access_token": token, "token_type": "bearer", "expires_in": self.token_life})

    def _vaults(self) -> Answer:
        other = {"isDefault": False, "isActive": True, "connection": {"url": "https://other.invalid"}}
        own = {"isDefault": True, "isActive": True, "connection": {"url": self.origin + self._base_path}}
        return _store.answer({"vaults": [other, own]})

    def _about_secrets(self, call: Call) -> Answer:
        words = [unquote(word) for word in call.path.removeprefix(f"{self._base_path}/api/").split("/")]
        version, resource, number, *rest = [*words, "", "", ""][: max(3, len(words))]
        if version not in ("v1", "v2") or resource != "secrets" or not number.isdecimal():
            return _store.answer({"message": "No HTTP resource was found"}, 404)
        if int(number):
            secret = self._store.find(Reference(int(number)))
        else:
            path = call.query.get("secretPath", "")
            secret = self._store.find(Reference.parse(path)) if path.startswith("\\") else None
        if secret is None:
            return _store.answer({"message": "The secret was not found", "errorCode": "API_SecretNotFound"}, 404)
        return self._about(secret, call, int(version[1:]), rest)

    def _about(self, secret: _store.StoredSecret, call: Call, version: int, rest: list[str]) -> Answer:
        match (call.method, *rest):
            case ("GET",):
                return self._guarded(secret, call, None, lambda: _store.model(secret, version))
            case ("GET", "state"):
                return _store.state(secret)
            case ("GET", "fields", slug):
                return self._guarded(secret, call, None, lambda: self._value(secret, slug))
            case ("POST", "restricted"):
                return self._guarded(secret, call, _comment(call), lambda: _store.model(secret, 1))
            case ("POST", "restricted", "fields", slug):
                return self._guarded(secret, call, _comment(call), lambda: self._value(secret, slug))
            case ("POST", "check-out" | "check-in" as way):
                return self._check(secret, way)
            case ("PUT", "fields", slug):
                return self._put(secret, slug, call)
        return _store.answer({"message": "No HTTP resource was found"}, 404)

    def _guarded(
        self, secret: _store.StoredSecret, call: Call, comment: str | None, give: Callable[[], Answer]
    ) -> Answer:
        """Give the answer if nothing stands in the way, checking the secret out and in as the call asks."""
        wants_checkout = call.query.get("noAutoCheckout") != "true" and call.method == "GET"
        if secret.checkout and wants_checkout and not secret.checked_out_by_other:
            comment = comment or call.query.get("autoComment")
            obstacle = _store.seen_without_checkout(secret).obstacle(comment=comment)
            if obstacle in ("None", "RequiresCheckout"):
                secret.checked_out = True
        is_model = "/fields/" not in call.path
        seen = _store.seen_without_checkout(secret) if is_model else secret
        if seen.obstacle(comment=comment) != "None":
            return _store.denied()
        if comment:
            secret.comments.append(comment)
        answer = give()
        if call.query.get("autoCheckIn") == "true":
            self._store.check_in(secret)
        return answer

    @staticmethod
    def _value(secret: _store.StoredSecret, slug: str) -> Answer:
        found = secret.fields.get(slug)
        if found is None or (found.is_file and not found.attachment):
            return _store.answer({"message": "The field was not found", "errorCode": "API_FieldNotFound"}, 404)
        return _store.value(found)

    def _check(self, secret: _store.StoredSecret, way: str) -> Answer:
        if way == "check-in":
            self._store.check_in(secret)
        elif secret.checked_out_by_other or secret.denied:
            return _store.denied()
        else:
            secret.checked_out = True
        return _store.answer({"id": secret.id, "checkedOut": secret.checked_out})

    def _put(self, secret: _store.StoredSecret, slug: str, call: Call) -> Answer:
        if secret.obstacle(comment=None) != "None" or secret.role == "View":
            return _store.denied()
        if call.content_type.startswith("multipart/form-data"):
            filename, content = _uploaded(call)
            self._store.set_field(secret, slug, content, filename)
        else:
            self._store.set_field(secret, slug, str(json.loads(call.body)["value"]))
        return _store.answer(True)


def _comment(call: Call) -> str | None:
    content = json.loads(call.body or b"{}")
    return content.get("comment") if isinstance(content, dict) else None


def _uploaded(call: Call) -> tuple[str, bytes]:
    """Return name and content of the first file in a multipart form."""
    message = message_from_bytes(b"Content-Type: " + call.content_type.encode() + b"\r\n\r\n" + call.body)
    part = next(part for part in message.walk() if part.get_filename())
    payload = part.get_payload(decode=True)
    return str(part.get_filename()), payload if isinstance(payload, bytes) else b""
