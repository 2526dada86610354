"""The one tree of the sidecar's errors. Each names what happened, to which object, the likely cause and the next step.

::

    SidecarError
    ├── ConfigurationError          78  something is set wrong; a retry cannot help
    │   ├── InvalidSettings             the configuration file or an environment variable
    │   ├── UnsafeVolume                a folder on a disk, or one that others may write to
    │   ├── PathTaken                   what stands at a path to publish to is somebody else's
    │   ├── OwnerRefused                files may not be given to the configured owner or group
    │   ├── KeytabInvalid               the vault's keytab is empty, garbage or another principal's
    │   ├── RealmUnknown                no KDC is known for the realm
    │   └── EnctypeRefused              KDC and key share no encryption type
    ├── AccessDenied                77  somebody said no; a retry cannot help
    │   ├── KeyRefused                  the KDC refused the key; it is never tried again
    │   │   └── KeyRefusedBefore        it did so earlier, and was not asked again
    │   ├── PrincipalUnknown            the realm has no such principal
    │   ├── AccountDisabled             disabled, locked or expired
    │   ├── PasswordExpired
    │   ├── ServiceUnknown              the realm has no such service principal
    │   ├── PolicyRefused               the KDC's policy
    │   └── AuditBroken                 an audit log is not what was written
    └── TemporaryError              75  may pass by itself; retry
        ├── KdcUnreachable              no KDC answers
        ├── KdcSilent                   a KDC has the request and does not answer in time
        ├── ClockSkew                   the clocks differ too much
        ├── TicketEnded                 a ticket expired or may not be renewed
        ├── KerberosFailed              anything else that libkrb5 reports
        ├── PublishFailed               the volume is full or read-only
        ├── AuditFailed                 an audit line cannot be written
        └── NotReady                    tickets or secrets are missing, or nobody answers the probe

Errors of the vault are :class:`datakit_vault.errors.VaultError` and have the same shape. Exit codes are those of BSD's
``sysexits.h``: 75 EX_TEMPFAIL, 77 EX_NOPERM, 78 EX_CONFIG.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "AccessDenied",
    "AccountDisabled",
    "AuditBroken",
    "AuditFailed",
    "ClockSkew",
    "ConfigurationError",
    "EnctypeRefused",
    "InvalidSettings",
    "KdcSilent",
    "KdcUnreachable",
    "KerberosFailed",
    "KeyRefused",
    "KeyRefusedBefore",
    "KeytabInvalid",
    "NotReady",
    "OwnerRefused",
    "PasswordExpired",
    "PathTaken",
    "PolicyRefused",
    "PrincipalUnknown",
    "PublishFailed",
    "RealmUnknown",
    "ServiceUnknown",
    "SidecarError",
    "TemporaryError",
    "TicketEnded",
    "UnsafeVolume",
]


class SidecarError(Exception):
    """Base of every error that a user may see.

    :param what: what happened, in one sentence.
    :param subject: the object it happened to, as the user knows it: a file and line, a principal, a service.
    :param cause: the likely cause, in one sentence.
    :param fix: the next step, best a command to run.

    None of the four may hold a secret.
    """

    exit_code: ClassVar[int] = 70
    retryable: ClassVar[bool] = False

    def __init__(
        self, what: str, *, subject: str | None = None, cause: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.subject = subject
        self.cause = cause
        self.fix = fix

    def __str__(self) -> str:
        parts = [f"{self.subject}: {self.what}" if self.subject else self.what]
        if self.cause:
            parts.append(f"Likely cause: {self.cause}")
        if self.fix:
            parts.append(f"Next step: {self.fix}")
        return "\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the error as ``--json`` shows it."""
        return {
            "type": type(self).__name__,
            "what": self.what,
            "subject": self.subject,
            "cause": self.cause,
            "fix": self.fix,
            "exit_code": self.exit_code,
            "retryable": self.retryable,
        }


class ConfigurationError(SidecarError):
    """Something is set wrong; a retry cannot help."""

    exit_code = 78


class InvalidSettings(ConfigurationError):
    """The configuration is malformed, has an unknown key or a wrong value.

    :param others: further problems of the same configuration, in its order; ``what`` is the first.
    """

    def __init__(
        self,
        what: str,
        *,
        subject: str | None = None,
        cause: str | None = None,
        fix: str | None = None,
        others: Iterable[InvalidSettings] = (),
    ) -> None:
        super().__init__(what, subject=subject, cause=cause, fix=fix)
        self.others = tuple(others)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"Also: {other}" for other in self.others)])

    def as_json(self) -> dict[str, Any]:
        """Return the error as ``--json`` shows it, with ``others``."""
        return super().as_json() | {"others": [other.as_json() for other in self.others]}


class UnsafeVolume(ConfigurationError):
    """A folder to publish in is on a disk, or others may replace what is in it."""


class PathTaken(ConfigurationError):
    """What stands at a path to publish to belongs to somebody else, or another sidecar publishes there."""


class OwnerRefused(ConfigurationError):
    """This process may not give files to the configured owner or group."""


class KeytabInvalid(ConfigurationError):
    """The keytab that the vault holds is empty, garbage, or for another principal."""


class RealmUnknown(ConfigurationError):
    """No KDC is known for the realm."""


class EnctypeRefused(ConfigurationError):
    """The KDC and the key, or the KDC and the configuration, share no encryption type."""


class AccessDenied(SidecarError):
    """Somebody said no; a retry cannot help."""

    exit_code = 77


class KeyRefused(AccessDenied):
    """The KDC refused the key. It is never tried again: a few wrong tries lock an account."""


class KeyRefusedBefore(KeyRefused):
    """A KDC refused the key earlier, perhaps in another process, so it was not asked again."""


class PrincipalUnknown(AccessDenied):
    """The realm has no such principal."""


class AccountDisabled(AccessDenied):
    """The account is disabled, locked or has expired."""


class PasswordExpired(AccessDenied):
    """The account's password has expired; the KDC gives no ticket before it is changed."""


class ServiceUnknown(AccessDenied):
    """The realm has no such service principal."""


class PolicyRefused(AccessDenied):
    """The KDC's policy refuses."""


class AuditBroken(AccessDenied):
    """A line of an audit log was changed, removed, reordered or cut off."""


class TemporaryError(SidecarError):
    """May pass by itself; retry."""

    exit_code = 75
    retryable = True


class KdcUnreachable(TemporaryError):
    """No KDC of the realm answers."""


class KdcSilent(TemporaryError):
    """A KDC did not answer within the deadline.

    :ivar in_flight: whether the request is on its way, so that the KDC may still answer it, and count it.
    """

    def __init__(
        self,
        what: str,
        *,
        subject: str | None = None,
        cause: str | None = None,
        fix: str | None = None,
        in_flight: bool = False,
    ) -> None:
        super().__init__(what, subject=subject, cause=cause, fix=fix)
        self.in_flight = in_flight


class ClockSkew(TemporaryError):
    """This machine's clock and the KDC's differ by more than Kerberos forgives."""


class TicketEnded(TemporaryError):
    """A ticket has expired or may not be renewed; a new one is needed."""


class KerberosFailed(TemporaryError):
    """libkrb5 reports something that has no name of its own here."""


class PublishFailed(TemporaryError):
    """A file cannot be published: the volume is full, read-only or gone. What was there before is still there."""


class AuditFailed(TemporaryError):
    """A line of the audit log cannot be written."""


class NotReady(TemporaryError):
    """Tickets or secrets are missing, or nobody answers the probe."""
