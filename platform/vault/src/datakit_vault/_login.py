"""One token for many threads: asked for once, replaced before it expires, and never asked for with a refused password.

A wrong password that is tried again and again locks the account, for everybody who uses it. So a refused credential
waits until its files change or ``login_pause`` has passed, and threads that were waiting for the same login share its
failure.
"""

from __future__ import annotations

import copy
import os
import secrets
import threading
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from datakit_vault import _answers, errors
from datakit_vault._retry import Clock, RetryPolicy
from datakit_vault._secret import Secret
from datakit_vault._settings import VaultSettings, check_url
from datakit_vault._transport import Request, Response, Transport

_FORM: Final = "application/x-www-form-urlencoded"
_DEFAULT_LIFE: Final = 300.0
"""Seconds that a token is trusted for if the vault does not say how long it lives."""
_EARLY: Final = 60.0
"""Seconds before its end that a token is replaced; of a short-lived one, a fifth of its life."""
_PATIENCE: Final = 10.0
"""Seconds before a renewal that failed is tried again, while the token still works."""
_LONGEST_LIFE: Final = 30 * 86_400.0
_MOST_BYTES: Final = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Grant:
    """A token, where it is good for, and until when (on the clock's ``monotonic``)."""

    token: Secret[str]
    base: str
    renew_at: float
    ends_at: float


class Login:
    """Gets tokens; safe to call from several threads."""

    def __init__(self, settings: VaultSettings, transport: Transport, clock: Clock, retry: RetryPolicy) -> None:
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._retry = retry
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(16)
        self._grant: Grant | None = None
        self._tries = 0
        self._failure: errors.VaultError | None = None
        self._refused: tuple[str, float] | None = None  # mark of the credential, when to try it again

    def grant(self) -> Grant:
        """Return a token that is good now, asking for one if need be.

        :raises CredentialsMissing: the credential cannot be read.
        :raises LoginRefused: the vault refuses it, or did and it has not changed.
        :raises VaultError: the vault cannot be asked.
        """
        grant = self._grant
        if grant is not None and self._clock.monotonic() < grant.renew_at:
            return grant
        return self._renew(instead_of=grant, must=False)

    def replace(self, refused: Grant) -> Grant:
        """Return a token other than ``refused``, which the vault did not take.

        :raises VaultError: see :meth:`grant`.
        """
        return self._renew(instead_of=refused, must=True)

    def _renew(self, *, instead_of: Grant | None, must: bool) -> Grant:
        tries = self._tries
        with self._lock:
            grant = self._grant
            if grant is not None and grant is not instead_of:
                return grant  # another thread was faster
            if self._tries != tries and self._failure is not None:
                raise copy.copy(self._failure)  # another thread has just failed; its traceback is its own
            self._failure = None
            if must:
                self._grant = None
            try:
                self._grant = self._ask()
            except errors.VaultError as error:
                now = self._clock.monotonic()
                if must or grant is None or now >= grant.ends_at or not isinstance(error, errors.TemporaryError):
                    self._failure = copy.copy(error)
                    raise
                # it is early, and the old token still works; the next calls should not all wait for a login
                self._grant = replace(grant, renew_at=now + _PATIENCE)
            finally:
                self._tries += 1
            return self._grant

    def _ask(self) -> Grant:
        names = ("username", "password") if self._settings.kind == "secret-server" else ("client_id", "client_secret")
        name, secret = read_credentials(self._settings.credentials, names)
        mark = _mark(self._key, name, secret)
        self._refuse_known(mark)
        url, form = self._form(name, secret)
        began = self._clock.monotonic()
        try:
            response = self._send(Request("POST", url, body=form, content_type=_FORM))
            self._refuse(response, url, names)
        except errors.LoginRefused:
            self._refused = (mark, self._clock.monotonic() + self._settings.login_pause)
            raise
        finally:
            form.wipe()
        self._refused = None
        answer = _read_token(response.body)
        response.body.wipe()
        if answer is None:
            raise _answers.not_understood("the answer to the login holds no token", self._settings.host)
        token, life = answer
        base = self._settings.base if self._settings.kind == "secret-server" else self._discover(token)
        return Grant(token, base, renew_at=began + life - min(_EARLY, life / 5), ends_at=began + life)

    def _form(self, name: Secret[str], secret: Secret[str]) -> tuple[str, Secret[bytes]]:
        base = self._settings.base
        if self._settings.kind == "platform":
            form = {"grant_type": "client_credentials", "client_id": name.reveal(), "client_secret": secret.reveal()}
            return f"{base}/identity/api/oauth2/token/xpmplatform", _encoded(form | {"scope": "xpmheadless"})
        form = {"grant_type": "password", "username": name.reveal(), "password": secret.reveal()}
        if self._settings.domain is not None:
            form["domain"] = self._settings.domain
        return f"{base}/oauth2/token", _encoded(form)

    def _send(self, request: Request) -> Response:
        def once() -> Response:
            response = self._transport.send(request)
            _answers.refuse_temporary(response, self._settings.host, self._clock.time())
            return response

        return self._retry.run(once, self._clock)

    def _refuse_known(self, mark: str) -> None:
        if self._refused is None or self._refused[0] != mark:
            return
        left = self._refused[1] - self._clock.monotonic()
        if left > 0:
            raise errors.LoginRefused(
                f"the vault refused this credential before; it is not tried again for {left:.0f} s",
                subject=f"{self._settings.credentials} at {self._settings.host}",
                cause="every wrong try counts, and a few of them lock the account",
                fix="put the right credential into the folder's files; it is used at once",
            )

    def _refuse(self, response: Response, url: str, names: tuple[str, str]) -> None:
        host = self._settings.host
        _answers.refuse_foreign(response, url, host)
        if response.status == HTTPStatus.OK:
            return
        code = _answers.error_code(response)
        if response.status not in _REFUSALS or code in _OTHER_KIND:
            raise errors.NotTheVault(
                f"there is no login for kind {self._settings.kind} here, says status {response.status}",
                subject=host,
                cause="a wrong base path, or the other kind of vault",
                fix=f"look at url and kind; the login is at {url}",
                status=response.status,
                error_code=code,
            )
        raise errors.LoginRefused(
            f"the vault refuses the login with {names[0]} and {names[1]}",
            subject=f"{self._settings.credentials} at {host}",
            cause="wrong, expired or locked, a missing domain, or an address that the vault does not allow",
            fix="log in by hand with the same credential; it is not tried again before its files change",
            status=response.status,
            error_code=code,
        )

    def _discover(self, token: Secret[str]) -> str:
        """Return the base URL of the Platform's vault."""
        url = f"{self._settings.base}/vaultbroker/api/vaults"
        host = self._settings.host
        response = self._send(Request("GET", url, token=token))
        _answers.refuse_foreign(response, url, host)
        if response.status != HTTPStatus.OK:
            raise errors.TokenRefused(
                f"the Platform does not say where its vault is: status {response.status}",
                subject=host,
                cause="the client is no service user, or has no access to Secret Server",
                fix="look at the client's roles in the Platform",
                status=response.status,
                error_code=_answers.error_code(response),
            )
        found = _read_vault(response.body)
        if found is None:
            raise errors.NotTheVault(
                "the Platform names no default, active vault",
                subject=host,
                cause="Secret Server is not connected to the tenant",
                fix=f"look at Settings > Secret Server Connection, or at {url}",
            )
        check_url(found, allow_http=self._settings.allow_http)
        return found.rstrip("/")


_REFUSALS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_OTHER_KIND: Final = frozenset({"unsupported_grant_type", "invalid_scope"})


def read_credentials(folder: Path, names: tuple[str, str]) -> tuple[Secret[str], Secret[str]]:
    """Read both files of a credential, of one version if Kubernetes mounts the folder.

    :raises CredentialsMissing: the folder or a file is missing, unreadable, empty or no text.
    """
    versioned = folder / "..data"  # Kubernetes swaps this link when the Secret changes
    # not is_symlink(), which raises where the folder may not be entered; reading a file says so in words
    source = Path(os.path.realpath(versioned)) if os.path.islink(versioned) else folder  # noqa: PTH114
    first, second = (_read_file(source / name, folder, names) for name in names)
    return first, second


def _read_file(path: Path, folder: Path, names: tuple[str, str]) -> Secret[str]:
    value, problem = _text_of(path)
    if value is None:
        raise errors.CredentialsMissing(
            f"the credential's file {path.name} {problem}",
            subject=str(folder),
            cause="the folder is not mounted, or belongs to another user",
            fix=f"put the files {names[0]} and {names[1]} there, readable by this user",
        )
    return value


def _text_of(path: Path) -> tuple[Secret[str] | None, str]:
    """Return a file's text without the line's end that editors add, or what is wrong with it."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    if len(data) > _MOST_BYTES:
        return None, "is too long"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None, "is not UTF-8"
    text = text.removesuffix("\n").removesuffix("\r")
    return (Secret(text), "") if text else (None, "is empty")


def _encoded(form: dict[str, str]) -> Secret[bytes]:
    return Secret(urlencode(form).encode())


def _mark(key: bytes, name: Secret[str], secret: Secret[str]) -> str:
    with name.exposed() as first, secret.exposed() as second:
        return _answers.marked(key, first, second)


def _read_token(body: Secret[bytes]) -> tuple[Secret[str], float] | None:
    """Return the token and its life in seconds; None if there is no usable token."""
    found = _answers.read_json(body)
    token: Any = found.get("access_token") if isinstance(found, dict) else None
    if (
        not isinstance(token, str)
        or not token.isascii()
        or not token.isprintable()
        or not token.strip()
        or " " in token
    ):
        return None
    try:
        life = float(found.get("expires_in", _DEFAULT_LIFE))
    except (TypeError, ValueError, OverflowError):
        life = _DEFAULT_LIFE
    return Secret(token), min(life, _LONGEST_LIFE) if life > 0 else _DEFAULT_LIFE


def _read_vault(body: Secret[bytes]) -> str | None:
    found = _answers.read_json(body)
    vaults = found.get("vaults") if isinstance(found, dict) else None
    for vault in vaults if isinstance(vaults, list) else ():
        if isinstance(vault, dict) and vault.get("isDefault") is True and vault.get("isActive") is True:
            connection = vault.get("connection")
            url = connection.get("url") if isinstance(connection, dict) else None
            if isinstance(url, str) and url:
                return url
    return None
