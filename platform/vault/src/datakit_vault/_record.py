"""What is known of a secret without its values."""

from __future__ import annotations

from dataclasses import dataclass

from datakit_vault._reference import Reference


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """A field of a secret, without its value.

    :ivar slug: the name to ask for it by: ``password``, ``keytab``.
    :ivar name: the name that people see.
    :ivar is_file: whether it holds a file and not text.
    :ivar is_password: whether the vault itself hides it from onlookers.
    :ivar filename: name of the attached file; None if there is none.
    :ivar marker: an opaque text that differs after the value has changed, as far as the vault tells; compare it with
        those of the same :class:`Vault` only.
    """

    slug: str
    name: str
    is_file: bool
    is_password: bool
    filename: str | None = None
    marker: str = ""


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """A secret's metadata.

    :ivar reference: what it was asked for by.
    :ivar id: the vault's number of it.
    :ivar name: its name, without folders.
    :ivar path: its full path, if the vault or the reference tells it.
    :ivar active: whether it is not deactivated.
    :ivar fields: in the template's order.
    :ivar marker: an opaque text that differs after a rotation or an edit of any field; compare it with those of the
        same :class:`Vault` only.
    :ivar last_change: when the vault last tried to change the password, as it writes it; None if never.
    :ivar checkout_enabled: whether it must be checked out before it is read.
    :ivar checked_out: whether somebody has it.
    :ivar rotates_when_read: whether checking it in changes the password.
    :ivar requires_comment: whether readers must say why.
    :ivar requires_approval: whether somebody must approve an access.
    """

    reference: Reference
    id: int
    name: str
    path: str | None
    active: bool
    fields: tuple[FieldInfo, ...]
    marker: str
    last_change: str | None = None
    checkout_enabled: bool = False
    checked_out: bool = False
    rotates_when_read: bool = False
    requires_comment: bool = False
    requires_approval: bool = False

    def field(self, slug: str) -> FieldInfo | None:
        """Return the field of this slug, in any case of letters; None if there is none."""
        return next((each for each in self.fields if each.slug.lower() == slug.lower()), None)


@dataclass(frozen=True, slots=True)
class SecretAccess:
    """What stands between this account and a secret.

    :ivar obstacle: the vault's word for it (``RequiresCheckout``, ``CannotView`` …); None if the way is free.
    :ivar role: the account's role on the secret (``View``, ``Edit``, ``Owner``), if the vault tells.
    :ivar active: whether it is not deactivated, if the vault tells.
    :ivar checked_out_by_other: whether another user has it.
    """

    obstacle: str | None
    role: str | None = None
    active: bool | None = None
    checked_out_by_other: bool = False
