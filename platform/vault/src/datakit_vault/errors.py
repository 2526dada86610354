"""The one tree of errors. Each names what happened, to which secret at which host, the likely cause and the next step.

::

    VaultError
    ├── ConfigurationError          78  something is set wrong, here or in the vault; a retry cannot help
    │   ├── InvalidReference            not an id and not a full path
    │   ├── InvalidSettings             URL, proxy, CA file or another setting
    │   ├── CredentialsMissing          the bootstrap credential's folder or one of its files
    │   ├── CertificateRefused          the vault's certificate is not trusted, expired or for another host
    │   ├── ProxyRefused                the proxy lets nobody through to the vault
    │   ├── NotTheVault                 something else answers at the URL: HTML, a redirect, another API
    │   ├── AnswerTooLarge              longer than the limit; it was not read whole
    │   ├── SecretNotFound              deleted, moved, or never there
    │   ├── SecretInactive              deactivated
    │   ├── FieldNotFound               the secret has no such field
    │   ├── FieldEmpty                  the field has no value, or no file
    │   ├── NotText                     the file was asked for as text and is none
    │   ├── CheckoutRequired            the secret must be checked out, and that is not allowed here
    │   ├── CommentRequired             the secret wants a reason, and none is set
    │   └── RotatesWhenRead             reading it would change the password
    ├── AccessDenied                77  somebody said no; a retry cannot help
    │   ├── LoginRefused                the bootstrap credential was refused
    │   ├── TokenRefused                a new token was refused at once
    │   ├── SecretDenied                the account may not read the secret
    │   └── ApprovalRequired            somebody must approve the access first
    └── TemporaryError              75  may pass by itself; retry
        ├── Unreachable                 no such host, connection refused or dropped
        ├── TimedOut                    the answer took longer than allowed
        ├── Throttled                   429: too many requests
        ├── Unavailable                 5xx but 501 and 505; 408, 425
        ├── AnswerBroken                truncated, or JSON that cannot be read
        └── CheckedOut                  another user has it

Exit codes are those of BSD's ``sysexits.h``: 75 EX_TEMPFAIL, 77 EX_NOPERM, 78 EX_CONFIG. No error holds a value, a
token or a body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from datakit_vault._reference import Reference


class VaultError(Exception):
    """Base of every error that a user may see.

    :param what: what happened, in one sentence.
    :param subject: the object it happened to: ``secret /Kerberos/svc at vault.corp.example``, a file, a setting.
    :param cause: the likely cause, in one sentence.
    :param fix: the next step.
    :param reference: the secret that was asked for, if one was.
    :param status: the HTTP status of the answer, if there was one.
    :param error_code: the vault's own name of the problem, if it gave one.

    None of them may hold a secret.
    """

    exit_code: ClassVar[int] = 70
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        what: str,
        *,
        subject: str | None = None,
        cause: str | None = None,
        fix: str | None = None,
        reference: Reference | None = None,
        status: int | None = None,
        error_code: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.subject = subject
        self.cause = cause
        self.fix = fix
        self.reference = reference
        self.status = status
        self.error_code = error_code

    def __str__(self) -> str:
        parts = [f"{self.subject}: {self.what}" if self.subject else self.what]
        if self.cause:
            parts.append(f"Likely cause: {self.cause}")
        if self.fix:
            parts.append(f"Next step: {self.fix}")
        return "\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return the error as ``--json`` and an audit log show it."""
        return {
            "type": type(self).__name__,
            "what": self.what,
            "subject": self.subject,
            "cause": self.cause,
            "fix": self.fix,
            "reference": None if self.reference is None else str(self.reference),
            "status": self.status,
            "error_code": self.error_code,
            "exit_code": self.exit_code,
            "retryable": self.retryable,
        }


class ConfigurationError(VaultError):
    """Something is set wrong, here or in the vault; a retry cannot help."""

    exit_code = 78


class InvalidReference(ConfigurationError):
    """The text is neither an id nor a full path."""


class InvalidSettings(ConfigurationError):
    """A setting cannot be used: URL, proxy, CA file or another."""


class CredentialsMissing(ConfigurationError):
    """The bootstrap credential's folder or one of its files is missing, unreadable or empty."""


class CertificateRefused(ConfigurationError):
    """The certificate of the vault or the proxy is not trusted, has expired or is for another host."""


class ProxyRefused(ConfigurationError):
    """The proxy answered, and gives no connection to the vault."""


class NotTheVault(ConfigurationError):
    """Something else answers at the URL: an HTML page, a redirect, another API."""


class AnswerTooLarge(ConfigurationError):
    """The answer is longer than the limit; it was not read whole."""


class SecretNotFound(ConfigurationError):
    """The vault has no such secret, or does not tell this account of it."""


class SecretInactive(ConfigurationError):
    """The secret is deactivated."""


class FieldNotFound(ConfigurationError):
    """The secret has no such field."""


class FieldEmpty(ConfigurationError):
    """The field has no value, or no file is attached to it."""


class NotText(ConfigurationError):
    """The field was asked for as text and holds a file that is not UTF-8."""


class CheckoutRequired(ConfigurationError):
    """The secret must be checked out before it is read, and the settings do not allow it."""


class CommentRequired(ConfigurationError):
    """The secret wants a reason from whoever reads it, and no comment is set."""


class RotatesWhenRead(ConfigurationError):
    """The secret changes its password when it is checked in, so reading it would break whoever uses it."""


class AccessDenied(VaultError):
    """Somebody said no; a retry cannot help."""

    exit_code = 77


class LoginRefused(AccessDenied):
    """The vault refused the bootstrap credential; it is not tried again before it changes."""


class TokenRefused(AccessDenied):
    """The vault refused a token that it had just issued."""


class SecretDenied(AccessDenied):
    """The account may not read the secret."""


class ApprovalRequired(AccessDenied):
    """Somebody must approve the access before the secret can be read."""


class TemporaryError(VaultError):
    """May pass by itself; retry."""

    exit_code = 75
    retryable = True


class Unreachable(TemporaryError):
    """The host has no address, refuses the connection or drops it."""


class TimedOut(TemporaryError):
    """The answer took longer than ``timeout``, from the first byte sent to the last byte received."""


class Throttled(TemporaryError):
    """The vault has had too many requests.

    :ivar retry_after: seconds that the vault asks to wait, if it said so.
    """

    retry_after: float | None = None


class Unavailable(TemporaryError):
    """The vault, or what stands before it, reports a fault of its own.

    :ivar retry_after: seconds that the vault asks to wait, if it said so.
    """

    retry_after: float | None = None


class AnswerBroken(TemporaryError):
    """The answer ended early, or is JSON that cannot be read."""


class CheckedOut(TemporaryError):
    """Another user has checked the secret out."""
