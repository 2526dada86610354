"""What a KDC's or libkrb5's error code means to a person: the type, the likely cause and the next step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from datakit_sidecar.errors import (
    AccountDisabled,
    ClockSkew,
    EnctypeRefused,
    KdcUnreachable,
    KerberosFailed,
    KeyRefused,
    PasswordExpired,
    PolicyRefused,
    PrincipalUnknown,
    RealmUnknown,
    ServiceUnknown,
    SidecarError,
    TicketEnded,
)

_BASE: Final = -1765328384
"""KRB5KDC_ERR_NONE: protocol errors (RFC 4120, 7.5.9) are counted from here, libkrb5's own from 128."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of whom.

    :ivar about: ``ticket``: the key was used; ``renewal``: a ticket was; ``service``: a service's ticket was wanted.
    """

    about: str
    principal: str
    service: str | None
    kdcs: tuple[str, ...]

    @property
    def subject(self) -> str:
        """The object in messages."""
        return f"{self.service} for {self.principal}" if self.service else self.principal

    @property
    def tried(self) -> str:
        """The KDCs in messages."""
        return ", ".join(self.kdcs) or "those that DNS names"

    @property
    def account(self) -> str:
        """The principal without its realm."""
        return self.principal.rpartition("@")[0]


def verdict(code: int, message: str, asked: Asked) -> SidecarError:
    """Return the error for libkrb5's ``code``.

    :param message: libkrb5's own words, which hold no secret.
    """
    kind, what, cause, fix = _look_up(code, asked)
    if kind is KerberosFailed or what is None:
        what = f"Kerberos failed: {message} (code {code - _BASE if 0 <= code - _BASE < 128 else code})"
    return kind(f"{what}; KDCs: {asked.tried}", subject=asked.subject, cause=cause, fix=fix)


def _look_up(code: int, asked: Asked) -> tuple[type[SidecarError], str | None, str | None, str | None]:
    number = code - _BASE
    if number == 210 and asked.about == "ticket":  # KRB5_PREAUTH_FAILED: whether the key was sent is not told
        return (
            KeyRefused,
            "no pre-authentication with this key succeeds",
            "the keytab holds no encryption type that the account has, or the key is an old one",
            "export the keytab again with all types (ktpass -crypto All); this one is not tried again",
        )
    if number in (24, 31) and asked.about == "ticket":  # PREAUTH_FAILED, BAD_INTEGRITY
        return (
            KeyRefused,
            "the KDC refuses the key",
            "the password was changed, or the keytab was exported anew, and the vault holds the old one",
            "put the present keytab or password into the vault; this one is not tried again: that locks accounts",
        )
    if number in _KNOWN:
        kind, what, cause, fix = _KNOWN[number]
        words = {"account": asked.account, "principal": asked.principal, "service": asked.service or "the service"}
        words["name"] = words["service"].partition("@")[0]
        return kind, what.format(**words), cause and cause.format(**words), fix and fix.format(**words)
    return KerberosFailed, None, None, "look at the KDC's log; the sidecar tries again"


_Verdict = tuple[type[SidecarError], str, str | None, str | None]
_ENDED: Final = "the sidecar gets a new one with the key"
_DISABLED: Final[_Verdict] = (
    AccountDisabled,
    "the account {account} is disabled, locked or expired",
    "wrong tries locked it, it was disabled, or its end date has passed",
    "look at the account: Get-ADUser {account} -Properties LockedOut,Enabled,AccountExpirationDate",
)
_UNREACHABLE: Final[_Verdict] = (
    KdcUnreachable,
    "no KDC answers",
    "port 88 is blocked (UDP and TCP), the KDC is down, or its name does not resolve",
    "check from here: nc -zv KDC 88; compare kerberos.kdcs",
)
_REALM: Final[_Verdict] = (
    RealmUnknown,
    "no KDC is known for the realm",
    "kerberos.kdcs is empty and DNS has no SRV record _kerberos._udp for it, or the realm's name is wrong",
    "name the KDCs in kerberos.kdcs (kerberos.realms for another realm)",
)
_SKEW: Final[_Verdict] = (
    ClockSkew,
    "this machine's clock and the KDC's differ by more than 5 minutes",
    "one of the two is wrong; a container has the clock of its host",
    "compare date -u on both, and correct the host's time service (chronyc tracking)",
)
_ENCTYPE: Final[_Verdict] = (
    EnctypeRefused,
    "the KDC supports none of the encryption types asked for",
    "the account has no AES keys (its password is older than AES in the domain), or only RC4 is allowed",
    "set msDS-SupportedEncryptionTypes to 24 (AES) and change the account's password, or correct kerberos.enctypes",
)
_KNOWN: Final[dict[int, _Verdict]] = {
    1: _DISABLED,
    6: (
        PrincipalUnknown,
        "the realm does not know {principal}",
        "a typing error, the wrong realm, or the account was deleted",
        "compare with sAMAccountName and userPrincipalName of the account; upper and lower case of the realm count",
    ),
    7: (
        ServiceUnknown,
        "the realm does not know the service {service}",
        "a wrong port, an alias or listener instead of the host's full name, another realm, or no such SPN (or two)",
        "ask Active Directory: setspn -Q {name}; write exactly what it prints",
    ),
    11: (
        TicketEnded,
        "the KDC gives no ticket of that life",
        "the ticket or the account ends too soon",
        _ENDED,
    ),
    12: (
        PolicyRefused,
        "the KDC's policy refuses",
        (
            "the account was disabled after its ticket was issued, may not log on from here or now (logon hours, "
            "authentication policy), or is a protected user"
        ),
        "look at the KDC's log for {account}",
    ),
    13: (TicketEnded, "the KDC does not renew this ticket", "it is not renewable, or no longer", _ENDED),
    14: _ENCTYPE,
    18: _DISABLED,
    19: (
        ServiceUnknown,
        "the account of the service {service} is disabled or locked",
        None,
        "look at the account that holds the SPN: setspn -Q {name}",
    ),
    20: (TicketEnded, "the ticket was revoked", "the account or the realm's own key changed", _ENDED),
    23: (
        PasswordExpired,
        "the password of {account} has expired",
        None,
        "change it, update the vault, and let service accounts' passwords never expire (or rotate them in time)",
    ),
    29: _UNREACHABLE,
    32: (TicketEnded, "the ticket has expired", "nobody could renew it in time", _ENDED),
    33: (ClockSkew, "the ticket is not valid yet", "this machine's clock is behind the KDC's", _SKEW[3]),
    37: _SKEW,
    68: (
        PrincipalUnknown,
        "the KDC says that {principal} belongs to another realm",
        "the account lives in another domain of the forest",
        "write the principal with the realm of its own domain",
    ),
    148: _SKEW,  # KRB5_KDCREP_SKEW
    150: _ENCTYPE,  # KRB5_PROG_ETYPE_NOSUPP
    154: _REALM,  # KRB5_REALM_UNKNOWN
    156: _UNREACHABLE,  # KRB5_KDC_UNREACH
    181: (  # KRB5_KT_NOTFOUND
        EnctypeRefused,
        "the KDC wants a key of a type that the keytab has not",
        "the keytab was exported with other encryption types than the account has",
        "export it with all types (ktpass -crypto All), and compare with klist -kte",
    ),
    220: _REALM,  # KRB5_REALM_CANT_RESOLVE
    236: _ENCTYPE,  # KRB5_NOPERM_ETYPE
}
