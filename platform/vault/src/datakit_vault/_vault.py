"""The client: metadata and values of secrets, over one transport, with one login."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

from datakit_vault import _answers, errors
from datakit_vault._login import Grant, Login
from datakit_vault._record import FieldInfo, SecretAccess, SecretRecord
from datakit_vault._reference import Reference
from datakit_vault._retry import Clock, RetryPolicy
from datakit_vault._secret import Secret
from datakit_vault._settings import VaultSettings
from datakit_vault._transport import Request, Response, Transport

Source: TypeAlias = Reference | SecretRecord

_NO_CHECKOUT: Final = {"noAutoCheckout": "true"}
_DENIALS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND})


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked about a secret: the path after its id, and how."""

    path: str = ""
    version: int = 1
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None

    def request(self, grant: Grant, reference: Reference) -> Request:
        """Return the request; a secret that is named by its path has the id 0 and the path in the query."""
        query = {**self.query, "secretPath": reference.vault_path} if reference.parts else self.query
        url = f"{grant.base}/api/v{self.version}/secrets/{reference.secret_id or 0}{self.path}"
        return Request(
            self.method,
            f"{url}?{urlencode(query, quote_via=quote)}" if query else url,
            token=grant.token,
            body=None if self.body is None else Secret(json.dumps(self.body).encode()),
            content_type=None if self.body is None else "application/json",
        )


class Vault:
    """A Delinea vault as one account sees it. Safe to use from several threads.

    :param settings: where the vault is and who asks it.
    :param transport: sends the requests; HTTP if None.
    :param clock: tells the time and waits; the system's if None.
    :param retry: how often a temporary error is tried again.
    :raises InvalidSettings: the CA file cannot be used.
    """

    def __init__(
        self,
        settings: VaultSettings,
        *,
        transport: Transport | None = None,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        if transport is None:
            from datakit_vault._http import HttpTransport

            transport = HttpTransport(settings)
        self.settings = settings
        self._transport = transport
        self._clock: Clock = time if clock is None else clock
        self._retry = RetryPolicy() if retry is None else retry
        self._login = Login(settings, transport, self._clock, self._retry)
        self._key = secrets.token_bytes(16)
        self._checkouts = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections; the next call opens new ones."""
        self._transport.close()

    def login(self) -> str:
        """Log in, unless a token is there, and return the URL of the vault (for Platform: the one it names).

        :raises CredentialsMissing: the credential cannot be read.
        :raises LoginRefused: the vault refuses it.
        :raises VaultError: the vault cannot be asked.
        """
        return self._login.grant().base

    def record(self, reference: Reference) -> SecretRecord:
        """Return a secret's metadata. Its values come along on the wire and are dropped unread.

        :raises SecretNotFound: there is none, or the vault does not tell this account of it.
        :raises SecretDenied: the account may not read it.
        :raises RotatesWhenRead: it had to be checked out to learn that checking it in changes the password.
        :raises VaultError: see :mod:`datakit_vault.errors`.
        """
        response = self._ask(reference, _Question(version=2, query=_NO_CHECKOUT))
        if response.status in _DENIALS:
            return self._look_closer(reference, response)
        return self._record_of(reference, response)

    def access(self, reference: Reference) -> SecretAccess | None:
        """Return what stands between this account and a secret; None if the vault does not tell.

        :raises VaultError: the vault cannot be asked.
        """
        response = self._ask(reference, _Question("/state"))
        return _answers.read_access(response.body, self._key) if response.status == HTTPStatus.OK else None

    def read(self, source: Source, field: str, *, allow_rotation: bool = False) -> Secret[bytes]:
        """Return the value of a field: a file's bytes, or a text in UTF-8.

        :param source: the secret; its record, if that was just asked for, saves a request.
        :param field: the field's slug: ``password``, ``keytab``.
        :param allow_rotation: also read a secret whose password changes when it is checked in, which ends every use
            of the old one. Never for a keytab or a password that something else uses.
        :raises FieldNotFound: the secret has no such field.
        :raises FieldEmpty: it has no value.
        :raises RotatesWhenRead: reading would change the password.
        :raises SecretInactive: the secret is deactivated.
        :raises VaultError: see :mod:`datakit_vault.errors`.
        """
        record = source if isinstance(source, SecretRecord) else self.record(source)
        found = self._field(record, field, allow_rotation=allow_rotation)
        response = self._value(record, found)
        return self._bytes_of(record, found, response)

    def read_text(self, source: Source, field: str, *, allow_rotation: bool = False) -> Secret[str]:
        """Return the value of a field as text; see :meth:`read`.

        :raises NotText: it is a file that is not UTF-8.
        """
        record = source if isinstance(source, SecretRecord) else self.record(source)
        value = self.read(record, field, allow_rotation=allow_rotation)
        text = _as_text(value)
        if text is None:
            raise errors.NotText(
                f"the field {field!r} holds a file that is not UTF-8",
                subject=_answers.subject_of(record.reference, self.settings.host),
                cause="a keytab or another binary file",
                fix="read it as bytes, or name another field",
                reference=record.reference,
            )
        return text

    # One request -----------------------------------------------------------------------------------------------------

    def _ask(self, reference: Reference, question: _Question, *, named: Reference | None = None) -> Response:
        """Ask about a secret, with a new token if the old one is refused.

        :param named: what errors call the secret, if not by ``reference``.
        """
        grant = self._login.grant()
        response = self._send(grant, question.request(grant, reference), named or reference)
        if response.status == HTTPStatus.UNAUTHORIZED:
            grant = self._login.replace(grant)
            response = self._send(grant, question.request(grant, reference), named or reference)
        reference = named or reference
        if response.status == HTTPStatus.UNAUTHORIZED:
            raise errors.TokenRefused(
                "the vault refuses a token that it has just issued",
                cause="the account lost its access, the clocks of the vault's servers differ, or its API is off",
                fix="look at the account in the vault, and whether webservices are enabled",
                **self._about(reference, response),
            )
        if response.status != HTTPStatus.OK and response.status not in _DENIALS:
            raise errors.NotTheVault(
                f"the answer has status {response.status}, which the vault's API does not use",
                cause="a proxy or firewall before the vault, or another program",
                fix=f"curl -i {grant.base}/api/v1/healthcheck",
                **self._about(reference, response),
            )
        return response

    def _send(self, grant: Grant, request: Request, reference: Reference) -> Response:
        host = urlsplit(grant.base).netloc

        def once() -> Response:
            response = self._transport.send(request)
            _answers.refuse_temporary(response, host, self._clock.time())
            _answers.refuse_foreign(response, request.url, host)
            return response

        try:
            return self._retry.run(once, self._clock)
        except errors.VaultError as error:
            error.reference, error.subject = reference, _answers.subject_of(reference, host)
            raise

    def _about(self, reference: Reference, response: Response | None = None) -> dict[str, Any]:
        return {
            "subject": _answers.subject_of(reference, self.settings.host),
            "reference": reference,
            "status": None if response is None else response.status,
            "error_code": None if response is None else _answers.error_code(response),
        }

    # A secret's metadata ---------------------------------------------------------------------------------------------

    def _record_of(self, reference: Reference, response: Response) -> SecretRecord:
        record = _answers.read_record(reference, response.body, self._key)
        response.body.wipe()
        if record is None:
            raise _answers.not_understood("the answer is no secret's", self.settings.host, reference)
        return record

    def _look_closer(self, reference: Reference, denied: Response) -> SecretRecord:
        """Ask why a secret was denied, and ask for it again in the way that it wants, if the settings allow that."""
        access = self._access_if_possible(reference)
        obstacle = None if access is None or access.checked_out_by_other else access.obstacle
        comment = self.settings.comment
        if obstacle == "RequiresComment" and comment is not None:
            body = {"comment": comment, "noAutoCheckout": True}
            response = self._ask(reference, _Question("/restricted", method="POST", body=body))
            if response.status == HTTPStatus.OK:
                return self._record_of(reference, response)
            raise self._explain(reference, response, None)
        if obstacle in ("RequiresCheckout", "RequiresCheckoutAndComment") and self.settings.checkout:
            if obstacle == "RequiresCheckoutAndComment" and comment is None:
                raise _answers.COMMENT.error(reference, self.settings.host, status=denied.status)
            return self._check_out(reference)
        raise self._explain(reference, denied, access)

    def _check_out(self, reference: Reference) -> SecretRecord:
        """Check a secret out to see its metadata, and in again if that does not change its password."""
        with self._checkouts:
            query = {"autoCheckout": "true"} | self._auto_comment()
            response = self._ask(reference, _Question(version=2, query=query))
            if response.status in _DENIALS:
                raise self._explain(reference, response, self._access_if_possible(reference))
            record = self._record_of(reference, response)
            if record.rotates_when_read:
                _answers.refuse_rotation(record, self.settings.host, checked_out=True)
            self._ask(Reference(record.id), _Question("/check-in", method="POST", body={}))
        return record

    def _access_if_possible(self, reference: Reference) -> SecretAccess | None:
        try:
            return self.access(reference)
        except errors.VaultError:
            return None  # it only explains another error, which is worth more than this one

    def _explain(self, reference: Reference, denied: Response, access: SecretAccess | None) -> errors.VaultError:
        code = _answers.error_code(denied)
        refusal = _answers.explain_denial(denied.status, code, access)
        return refusal.error(reference, self.settings.host, status=denied.status, code=code)

    def _auto_comment(self) -> dict[str, str]:
        return {} if self.settings.comment is None else {"autoComment": self.settings.comment}

    # A field's value -------------------------------------------------------------------------------------------------

    def _field(self, record: SecretRecord, slug: str, *, allow_rotation: bool) -> FieldInfo:
        """Find the field, and refuse what must not be read."""
        reference, host = record.reference, self.settings.host
        if not record.active:
            raise _answers.INACTIVE.error(reference, host)
        found = record.field(slug)
        if found is None:
            self._refuse_field(record, slug)
        if found.is_file and found.filename is None:
            self._refuse_empty(record, found)
        if record.rotates_when_read and not allow_rotation:
            _answers.refuse_rotation(record, host, checked_out=False)
        if record.checkout_enabled and not self.settings.checkout:
            raise _answers.CHECKOUT.error(reference, host)
        if record.requires_comment and self.settings.comment is None:
            raise _answers.COMMENT.error(reference, host)
        return found

    def _refuse_field(self, record: SecretRecord, slug: str) -> NoReturn:
        slugs = [field.slug for field in record.fields]
        near = [field.slug for field in record.fields if field.name.lower() == slug.lower()]
        near += get_close_matches(slug.lower(), slugs, n=1, cutoff=0.5)
        raise errors.FieldNotFound(
            f"it has no field {slug!r}",
            cause=f"did you mean {near[0]!r}?" if near else "it is of another template",
            fix=f"choose one of: {', '.join(slugs)}" if slugs else "look at the secret in the vault: it has no fields",
            **self._about(record.reference),
        )

    def _refuse_empty(self, record: SecretRecord, field: FieldInfo) -> NoReturn:
        raise errors.FieldEmpty(
            f"no file is attached to its field {field.slug!r}"
            if field.is_file
            else f"its field {field.slug!r} is empty",
            cause="it was created and never filled",
            fix="fill it in the vault",
            **self._about(record.reference),
        )

    def _value(self, record: SecretRecord, field: FieldInfo) -> Response:
        reference = Reference(record.id)
        path = f"/fields/{quote(field.slug, safe='')}"
        if record.checkout_enabled:
            query = {"autoCheckout": "true", "autoCheckIn": "true"} | self._auto_comment()
            with self._checkouts:  # this account's other threads must not find it checked out
                response = self._ask(reference, _Question(path, query=query), named=record.reference)
        elif record.requires_comment:
            body = {"comment": self.settings.comment, "noAutoCheckout": True}
            question = _Question(f"/restricted{path}", method="POST", body=body)
            response = self._ask(reference, question, named=record.reference)
        else:
            response = self._ask(reference, _Question(path, query=_NO_CHECKOUT), named=record.reference)
        if response.status == HTTPStatus.NOT_FOUND:
            self._refuse_empty(record, field)  # the secret was there a moment ago
        if response.status in _DENIALS:
            raise self._explain(record.reference, response, self._access_if_possible(reference))
        return response

    def _bytes_of(self, record: SecretRecord, field: FieldInfo, response: Response) -> Secret[bytes]:
        if field.is_file:
            if not response.framed:
                raise _answers.not_understood(
                    f"the file in {field.slug!r} may be cut off: the answer does not say how long it is",
                    self.settings.host,
                    record.reference,
                )
            value = response.body
        else:
            if response.body == Secret(b"null"):
                self._refuse_empty(record, field)
            text = _answers.read_text(response.body)
            response.body.wipe()
            if text is None:
                raise _answers.not_understood(
                    f"the value of {field.slug!r} is no text", self.settings.host, record.reference
                )
            value = Secret(text.reveal().encode())
        if not value:
            self._refuse_empty(record, field)
        return value


def _as_text(value: Secret[bytes]) -> Secret[str] | None:
    try:
        return Secret(value.reveal().decode())
    except UnicodeDecodeError:
        return None
