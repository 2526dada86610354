"""What the vault's answers mean: values, metadata, or one of the errors.

A body is read by functions that return what is needed of it and never raise, so that no frame of a traceback holds a
value, a token or a server's text. What a server says in words is never repeated: it might quote what it was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from http import HTTPStatus
from typing import Any, Final, NoReturn

from datakit_vault import errors
from datakit_vault._record import FieldInfo, SecretAccess, SecretRecord
from datakit_vault._reference import Reference
from datakit_vault._secret import Secret
from datakit_vault._transport import Response

_VALUES: Final = re.compile(rb'"(?:itemValue|autoChangeNextPassword)"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL)
"""A key that holds a value, and the value. A quote within a JSON string is escaped, so no text can look like one."""
_CODE: Final = re.compile(
    r"API_[A-Za-z_]{1,80}|invalid_(request|client|grant|scope)|unauthorized_client|unsupported_grant_type|access_denied"
)
"""The vault's names of problems, and OAuth's (RFC 6749, 5.2). Whatever else stands there might be a secret."""
_WORD: Final = re.compile(r"[A-Z][A-Za-z]{1,40}")
_MOMENT: Final = re.compile(r"[0-9T:.Z+-]{4,40}")
_LONGEST_PAUSE: Final = 86_400.0


def marked(key: bytes, *parts: object) -> str:
    """Return an opaque text that stands for the parts, and means nothing to whoever lacks the key."""
    digest = blake2b(key=key, digest_size=12)
    for part in parts:
        text = part if isinstance(part, bytes | bytearray | memoryview) else repr(part).encode("utf-8", "replace")
        digest.update(len(text).to_bytes(8, "big"))
        digest.update(text)
    return digest.hexdigest()


def without_values(body: Secret[bytes], key: bytes) -> bytes:
    """Return a JSON body in which a mark stands for each value."""
    kept: list[bytes] = []
    position = 0
    with body.exposed() as view:
        for found in _VALUES.finditer(view):
            start, end = found.span(1)
            kept += [bytes(view[position:start]), b'"', marked(key, view[start:end]).encode(), b'"']
            position = end
        kept.append(bytes(view[position:]))
    return b"".join(kept)


def read_json(body: Secret[bytes]) -> Any:
    """Return what the JSON says, or None if it is none."""
    with body.exposed() as view:
        return _parsed(view)


def _parsed(text: bytes | memoryview) -> Any:
    try:
        return json.loads(str(text, "utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def read_text(body: Secret[bytes]) -> Secret[str] | None:
    """Return the text that a JSON string literal stands for; None if it is no string.

    A lone surrogate has no UTF-8, so such a text is none that anybody could use as a password.
    """
    text = read_json(body)
    if not isinstance(text, str) or any("\ud800" <= character <= "\udfff" for character in text):
        return None
    return Secret(text)


def read_record(reference: Reference, body: Secret[bytes], key: bytes) -> SecretRecord | None:
    """Return a secret's metadata; None if the answer is no secret's."""
    found = _parsed(without_values(body, key))
    if not isinstance(found, dict) or not isinstance(items := found.get("items"), list):
        return None
    number, name = found.get("id"), found.get("name")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1 or not isinstance(name, str):
        return None
    if reference.secret_id not in (None, number):
        return None
    fields = tuple(_field(item, key) for item in items if isinstance(item, dict) and isinstance(item.get("slug"), str))
    last_change = found.get("lastPasswordChangeAttempt")
    return SecretRecord(
        reference=reference,
        id=number,
        name=name,
        path=str(reference) if reference.parts else None,
        active=found.get("active") is not False,
        fields=fields,
        marker=marked(key, number, last_change, *(field.marker for field in fields)),
        last_change=last_change if isinstance(last_change, str) and _MOMENT.fullmatch(last_change) else None,
        checkout_enabled=found.get("checkOutEnabled") is True,
        checked_out=found.get("checkedOut") is True,
        rotates_when_read=found.get("checkOutEnabled") is True and found.get("checkOutChangePasswordEnabled") is True,
        requires_comment=found.get("requiresComment") is True,
        requires_approval=found.get("requiresApprovalForAccess") is True,
    )


def _field(item: Mapping[str, Any], key: bytes) -> FieldInfo:
    attachment, filename = item.get("fileAttachmentId"), item.get("filename")
    is_file = item.get("isFile") is True
    if not isinstance(filename, str) or not filename:
        filename = item["slug"] if attachment else None
    return FieldInfo(
        slug=item["slug"],
        name=item["fieldName"] if isinstance(item.get("fieldName"), str) else item["slug"],
        is_file=is_file,
        is_password=item.get("isPassword") is True,
        filename=filename if is_file else None,
        marker=marked(key, item["slug"], attachment, filename, item.get("itemValue")),
    )


def read_access(body: Secret[bytes], key: bytes) -> SecretAccess | None:
    """Return what the vault says of an account's way to a secret; None if it says nothing."""
    found = _parsed(without_values(body, key))
    if not isinstance(found, dict) or not isinstance(state := found.get("secretState"), str):
        return None
    role, active = found.get("role"), found.get("isActive")
    return SecretAccess(
        obstacle=state if state != "None" and _WORD.fullmatch(state) else None,
        role=role if isinstance(role, str) and _WORD.fullmatch(role) else None,
        active=active if isinstance(active, bool) else None,
        checked_out_by_other=found.get("isCheckedOut") is True and found.get("isCheckedOutByCurrentUser") is not True,
    )


def error_code(response: Response) -> str | None:
    """Return the vault's own name of a problem: ``errorCode``, or OAuth's ``error``."""
    found = read_json(response.body)
    if not isinstance(found, dict):
        return None
    code = found.get("errorCode", found.get("error"))
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None


def refuse_temporary(response: Response, host: str, now: float) -> None:
    """Raise if the answer says that a later try may succeed.

    :param now: seconds since 1970, for ``Retry-After`` dates.
    :raises Throttled: 429.
    :raises Unavailable: the server's fault (5xx, but 501 and 505), or a request that came too slowly or too early.
    """
    if response.status != HTTPStatus.TOO_MANY_REQUESTS and not _is_temporary(response.status):
        return
    wait = _retry_after(response, now)
    asks = "" if wait is None else f", and asks to wait {wait:g} s"
    error: errors.Throttled | errors.Unavailable
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        error = errors.Throttled(
            f"the vault has had too many requests{asks}",
            subject=host,
            cause="many clients behind one account or address",
            fix="ask less often",
            status=response.status,
        )
    else:
        error = errors.Unavailable(
            f"the vault reports status {response.status}{_phrase(response.status)}{asks}",
            subject=host,
            cause="it is restarting, in maintenance or overloaded",
            fix="try it later; if it lasts, ask who runs the vault",
            status=response.status,
            error_code=error_code(response),
        )
    error.retry_after = wait
    raise error


def _retry_after(response: Response, now: float) -> float | None:
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), _LONGEST_PAUSE)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    zoned = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max(0.0, zoned.timestamp() - now), _LONGEST_PAUSE)


def refuse_foreign(response: Response, url: str, host: str) -> None:
    """Raise if the answer is a page for people or a redirect: something else answers.

    :raises NotTheVault: it is.
    """
    if response.is_html or 300 <= response.status < 400:
        what = "a redirect" if 300 <= response.status < 400 else "an HTML page"
        raise errors.NotTheVault(
            f"the answer is {what}, with status {response.status}",
            subject=host,
            cause="a wrong base path, a login page, or a proxy's notice",
            fix=f"curl -i {url.split('?')[0]} shows it; the url setting wants the vault's base path",
            status=response.status,
        )


def not_understood(what: str, host: str, reference: Reference | None = None) -> errors.AnswerBroken:
    """Return the error for an answer of status 200 that is not what was asked for."""
    return errors.AnswerBroken(
        what,
        subject=subject_of(reference, host) if reference else host,
        cause="it was cut off on the way, or another program answers",
        fix="try it again; if it lasts, look at the URL and what stands before the vault",
        reference=reference,
        status=HTTPStatus.OK,
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason why a secret cannot be read, and the words for it."""

    kind: type[errors.VaultError]
    what: str
    cause: str
    fix: str

    def error(
        self, reference: Reference, host: str, *, status: int | None = None, code: str | None = None
    ) -> errors.VaultError:
        """Return the error for a secret at a host."""
        return self.kind(
            self.what,
            subject=subject_of(reference, host),
            cause=self.cause,
            fix=self.fix,
            reference=reference,
            status=status,
            error_code=code,
        )


DENIED: Final = Refusal(
    errors.SecretDenied,
    "the account may not read it",
    "it lacks the View permission, or the secret was deleted or moved: the vault does not tell these apart",
    "let the secret's owner look at its permissions (Sharing), and at the id or path",
)
NOT_FOUND: Final = Refusal(
    errors.SecretNotFound,
    "there is no such secret",
    "deleted, moved or renamed, or a typing error; names are looked up by their full path",
    "look it up in the vault, and correct the id or path",
)
INACTIVE: Final = Refusal(
    errors.SecretInactive,
    "it is deactivated",
    "somebody deleted it in the vault",
    "have it activated, or name another",
)
CHECKOUT: Final = Refusal(
    errors.CheckoutRequired,
    "it must be checked out before it is read, and that is not allowed here",
    "checkout is on for it; while it is checked out, nobody else can read it",
    "turn checkout off for it, or set checkout if its password does not change on check-in",
)
COMMENT: Final = Refusal(
    errors.CommentRequired, "whoever reads it must say why", "it requires a comment", "set the comment to give"
)
APPROVAL: Final = Refusal(
    errors.ApprovalRequired,
    "somebody must approve the access first",
    "it requires approval, which a program cannot wait for",
    "exempt this account from the approval, or name another secret",
)
_LOCKED: Final = Refusal(
    errors.SecretDenied,
    "it is locked with a password of its own",
    "DoubleLock (QuantumLock) is on for it, which no program can open",
    "turn it off for this secret, or name another",
)
_CHANGING: Final = Refusal(
    errors.CheckedOut, "its password is being changed", "it was just checked in", "try it again in a minute"
)
_TAKEN: Final = Refusal(
    errors.CheckedOut,
    "another user has checked it out",
    "somebody works with it, or a checkout was never ended",
    "wait, or have it checked in",
)

_OF_STATE: Final = {
    # the states of a secret, as GET /v1/secrets/{id}/state names them
    "RequiresApproval": APPROVAL,
    "RequiresCheckout": CHECKOUT,
    "RequiresCheckoutAndComment": CHECKOUT,
    "RequiresCheckoutPendingRPC": _CHANGING,
    "RequiresComment": COMMENT,
    "RequiresDoubleLockPassword": _LOCKED,
    "CreateDoubleLockPassword": _LOCKED,
    "DoubleLockNoAccess": _LOCKED,
    "CannotView": DENIED,
    "RequiresUndelete": INACTIVE,
}
_OF_CODE: Final = {"checkout": CHECKOUT, "comment": COMMENT, "approval": APPROVAL, "notfound": NOT_FOUND}
"""What a code is about, by a word in it: codes are not documented, so a part of one must do."""


def explain_denial(status: int, code: str | None, access: SecretAccess | None) -> Refusal:
    """Return why an answer refuses a secret.

    The vault answers most refusals with status 400 and ``API_AccessDenied``; what stands behind it is in ``access``,
    the secret's state, as far as the vault tells it.
    """
    if access is not None and access.checked_out_by_other:
        return _TAKEN
    if access is not None and access.obstacle in _OF_STATE:
        return _OF_STATE[access.obstacle]
    if access is not None and access.active is False:
        return INACTIVE
    name = (code or "").lower().replace("_", "")
    of_code = next((refusal for word, refusal in _OF_CODE.items() if word in name), None)
    return of_code or (NOT_FOUND if status == HTTPStatus.NOT_FOUND else DENIED)


def subject_of(reference: Reference, host: str) -> str:
    """Return how errors name a secret."""
    return f"secret {reference} at {host}"


def refuse_rotation(record: SecretRecord, host: str, *, checked_out: bool) -> NoReturn:
    """Refuse a secret that would get another password by being read.

    :param checked_out: whether this client had to check it out to learn that.
    :raises RotatesWhenRead: always.
    """
    raise errors.RotatesWhenRead(
        "reading it would change its password, and break whoever uses it now",
        subject=subject_of(record.reference, host),
        cause="'change password on check-in' is on for it"
        + ("; it is checked out now, and checking it in would change it" if checked_out else ""),
        fix="turn 'change password on check-in' off for it"
        + (" before the checkout ends" if checked_out else "")
        + ", and let the vault rotate it on a schedule",
        reference=record.reference,
    )


def _is_temporary(status: int) -> bool:
    """Whether a status may pass by itself; proxies and content networks have some of their own, such as 520 to 530."""
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY):
        return True
    lasting = (HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    return 500 <= status < 600 and status not in lasting


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""  # a number of somebody's own
