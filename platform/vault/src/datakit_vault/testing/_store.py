"""The double's secrets, and the rules by which the vault gives them out."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from datakit_vault._reference import Reference
from datakit_vault.testing._faults import Answer

_FIRST_ID: Final = 1000
_NOT_SHOWN: Final = "*** Not Valid For Display ***"
_FLAGS: Final = frozenset(
    {
        "active",
        "denied",
        "checkout",
        "rotates_on_check_in",
        "requires_comment",
        "requires_approval",
        "checked_out_by_other",
        "hidden_until_checked_out",
        "role",
    }
)


@dataclass(slots=True)
class StoredField:
    """A field and its value; bytes are a file."""

    slug: str
    value: str | bytes = field(repr=False)
    filename: str = ""
    attachment: int = 0
    is_password: bool = False

    @property
    def is_file(self) -> bool:
        return isinstance(self.value, bytes)


@dataclass(slots=True)
class StoredSecret:
    """A secret; the flags are those of :meth:`FakeVault.change`."""

    id: int
    parts: tuple[str, ...]
    fields: dict[str, StoredField]
    active: bool = True
    denied: bool = False
    checkout: bool = False
    rotates_on_check_in: bool = False
    requires_comment: bool = False
    requires_approval: bool = False
    checked_out_by_other: bool = False
    hidden_until_checked_out: bool = False
    role: str = "View"
    checked_out: bool = False
    last_change: str | None = None
    comments: list[str] = field(default_factory=list)

    def obstacle(self, *, comment: str | None) -> str:
        """Return the vault's word for what keeps the account from the secret; ``None`` if nothing does."""
        if self.denied:
            return "CannotView"
        if not self.active:
            return "RequiresUndelete"
        if self.requires_approval:
            return "RequiresApproval"
        needs_comment = self.requires_comment and not comment
        if self.checked_out_by_other or (self.checkout and not self.checked_out):
            return "RequiresCheckoutAndComment" if needs_comment else "RequiresCheckout"
        return "RequiresComment" if needs_comment else "None"


class Store:
    """Secrets by id and path."""

    def __init__(self) -> None:
        self._secrets: dict[int, StoredSecret] = {}
        self._ids = itertools.count(_FIRST_ID)
        self._attachments = itertools.count(1)

    def add(self, reference: Reference, fields: Mapping[str, str | bytes], flags: Mapping[str, Any]) -> StoredSecret:
        """Add a secret by its path."""
        if not reference.parts:
            raise ValueError("a secret is added by its full path")
        if any(reference.parts == other.parts for other in self._secrets.values()):
            raise ValueError(f"there is a secret {reference} already")
        added = StoredSecret(next(self._ids), reference.parts, {})
        for slug, value in fields.items():
            added.fields[slug] = self._field(slug, value)
        self._secrets[added.id] = added
        self.change(added, flags)
        return added

    def _field(self, slug: str, value: str | bytes, filename: str | None = None) -> StoredField:
        is_file = isinstance(value, bytes)
        return StoredField(
            slug=slug,
            value=value,
            filename=(filename or f"{slug}.bin") if is_file and value else "",
            attachment=next(self._attachments) if is_file and value else 0,
            is_password=not is_file and "password" in slug,
        )

    @staticmethod
    def change(secret: StoredSecret, flags: Mapping[str, Any]) -> None:
        """Set flags of a secret."""
        for name, value in flags.items():
            if name not in _FLAGS:
                raise ValueError(f"a secret has no {name!r}; choose of: {', '.join(sorted(_FLAGS))}")
            setattr(secret, name, value)
        secret.checkout = secret.checkout or secret.rotates_on_check_in or secret.hidden_until_checked_out

    def find(self, reference: Reference) -> StoredSecret | None:
        """Return a secret; None if there is none."""
        if reference.secret_id is not None:
            return self._secrets.get(reference.secret_id)
        wanted = [part.casefold() for part in reference.parts]
        return next((each for each in self._secrets.values() if [p.casefold() for p in each.parts] == wanted), None)

    def get(self, reference: Reference) -> StoredSecret:
        """Return a secret.

        :raises KeyError: there is none.
        """
        found = self.find(reference)
        if found is None:
            raise KeyError(f"the double has no secret {reference}")
        return found

    def remove(self, reference: Reference) -> None:
        """Delete a secret, as if it had never been."""
        del self._secrets[self.get(reference).id]

    def set_field(self, secret: StoredSecret, slug: str, value: str | bytes, filename: str | None = None) -> None:
        """Give a field another value, as a person who edits it does."""
        secret.fields[slug] = self._field(slug, value, filename)

    def rotate(self, secret: StoredSecret, slug: str, value: str | bytes) -> None:
        """Give a field another value, as the vault's own password change does."""
        self.set_field(secret, slug, value)
        secret.last_change = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]

    def check_in(self, secret: StoredSecret) -> None:
        """End the account's checkout, which may change the passwords."""
        if secret.checked_out and secret.rotates_on_check_in:
            for each in [each for each in secret.fields.values() if each.is_password]:
                self.rotate(secret, each.slug, secrets.token_urlsafe(18))
        secret.checked_out = False


def denied() -> Answer:
    """Return the answer to most that is not allowed."""
    return answer({"errorCode": "API_AccessDenied", "message": "Access Denied"}, 400)


def answer(content: Any, status: int = 200) -> Answer:
    """Return a JSON answer."""
    return Answer(status, json.dumps(content).encode())


def model(secret: StoredSecret, version: int) -> Answer:
    """Return the answer to ``GET /v1/secrets/{id}`` and ``/v2``: everything, values of text fields included."""
    content = {
        "id": secret.id,
        "name": secret.parts[-1],
        "secretTemplateId": 6001,
        "secretTemplateName": "Active Directory Account",
        "folderId": 7,
        "siteId": 1,
        "active": secret.active,
        "checkedOut": secret.checked_out or secret.checked_out_by_other,
        "checkOutEnabled": secret.checkout,
        "checkOutChangePasswordEnabled": secret.rotates_on_check_in,
        "checkOutIntervalMinutes": 30 if secret.checkout else -1,
        "requiresComment": secret.requires_comment,
        "requiresApprovalForAccess": secret.requires_approval,
        "lastHeartBeatStatus": "Success",
        "lastHeartBeatCheck": "2024-01-31T12:00:00.000",
        "lastPasswordChangeAttempt": secret.last_change,
        "autoChangeEnabled": False,
        "autoChangeNextPassword": None,
        "responseCodes": [],
        "items": [
            {
                "itemId": secret.id * 100 + position,
                "fieldId": position,
                "fieldName": each.slug.replace("-", " ").title(),
                "slug": each.slug,
                "fieldDescription": "",
                "fileAttachmentId": each.attachment or None,
                "filename": each.filename or None,
                "itemValue": (_NOT_SHOWN if each.attachment else None) if each.is_file else each.value,
                "isFile": each.is_file,
                "isNotes": False,
                "isPassword": each.is_password,
            }
            for position, each in enumerate(secret.fields.values(), start=1)
        ],
    }
    return answer(content if version > 1 else {**content, "checkOutMinutesRemaining": 0})


def state(secret: StoredSecret) -> Answer:
    """Return the answer to ``GET /v1/secrets/{id}/state``."""
    return answer(
        {
            "id": secret.id,
            "secretName": secret.parts[-1],
            "secretState": secret.obstacle(comment=None),
            "isActive": secret.active,
            "isCheckedOut": secret.checked_out or secret.checked_out_by_other,
            "isCheckedOutByCurrentUser": secret.checked_out,
            "role": secret.role,
            "actions": ["ViewGeneralDetails"],
        }
    )


def value(found: StoredField) -> Answer:
    """Return the answer to ``GET /v1/secrets/{id}/fields/{slug}``: a file's bytes, or a JSON string literal."""
    if isinstance(found.value, bytes):
        return Answer(200, found.value, "application/octet-stream")
    return answer(found.value)


def seen_without_checkout(secret: StoredSecret) -> StoredSecret:
    """Return the secret as its metadata is judged when nobody asked to check it out."""
    return secret if secret.hidden_until_checked_out else replace(secret, checkout=False)
