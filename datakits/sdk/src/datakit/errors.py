"""The one tree of errors. Each names what happened, to which object, the likely cause and the next step.

::

    DatakitError
    ├── ConfigurationError          78  the configuration is wrong; a retry cannot help
    │   ├── InvalidFile                 a YAML or JSON file is malformed or has an unknown key
    │   ├── UnknownName                 a dataset, datakit, warehouse, environment or slice that does not exist
    │   ├── DriverMissing               an optional driver is not installed
    │   ├── UnsupportedProtocol         DATAKIT_RUN speaks a major version that we do not
    │   ├── ReleaseRefused              a rule of releases forbids it: dirty tree, taken version, too small a bump
    │   ├── LockRefused                 a rule of locks forbids it: uncommitted changes, a digest never released
    │   ├── ImageCorrupt                a registry's content is not what its digest or its manifest says
    │   └── ContractError               what the source or the warehouse holds is not what was agreed
    │       ├── ContractMismatch        the live source differs from the contract
    │       ├── SchemaChangeRefused     the policy refuses to change the warehouse's table
    │       ├── UnsupportedType         a column's type has no lossless mapping
    │       ├── ValueRefused            a value cannot be kept without loss
    │       ├── NameCollision           two columns get one name
    │       ├── InvalidKey              the key has duplicates or NULLs
    │       └── InvalidCursor           the cursor column cannot serve as one
    ├── AccessDenied                77  somebody said no; a retry cannot help
    │   ├── TicketError                 the Kerberos credential cache cannot be used
    │   │   ├── TicketMissing
    │   │   ├── TicketUnreadable
    │   │   ├── TicketCorrupt
    │   │   ├── TicketExpired
    │   │   └── WrongPrincipal
    │   ├── SecretUnavailable           a secret's file is missing, unreadable or empty
    │   ├── LoginRefused                the server does not let this principal in
    │   └── RegistryDenied              the registry refuses the login, or this account
    ├── TemporaryError              75  may pass by itself; retry
    │   ├── CredentialsNotReady         no usable ticket or secret was published in time
    │   ├── SourceUnavailable           the source system cannot be reached, or dropped the connection
    │   ├── WarehouseUnavailable        the warehouse cannot be reached, is full, or dropped the connection
    │   ├── RegistryUnavailable         the registry cannot be reached, is overloaded, full, or broke off
    │   ├── LoadInProgress              another run loads the same dataset into the same warehouse
    │   ├── RowsLost                    rows read, rows written and the server's count differ
    │   └── Interrupted                 SIGTERM or SIGINT; the warehouse is as it was
    └── NothingToDo                 99  not a failure: there is nothing new to load

Exit codes are those of BSD's ``sysexits.h`` (75 EX_TEMPFAIL, 77 EX_NOPERM, 78 EX_CONFIG), and 99 is Airflow's
``skip_on_exit_code``.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar


class DatakitError(Exception):
    """Base of every error that a user may see.

    :param what: what happened, in one sentence.
    :param subject: the object it happened to, as the user knows it: a file and line, a dataset, ``host:port``.
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
        """Return the error as the run report and ``--json`` show it."""
        return {
            "type": type(self).__name__,
            "what": self.what,
            "subject": self.subject,
            "cause": self.cause,
            "fix": self.fix,
            "exit_code": self.exit_code,
            "retryable": self.retryable,
        }


class ConfigurationError(DatakitError):
    """The configuration is wrong; a retry cannot help."""

    exit_code = 78


class InvalidFile(ConfigurationError):
    """A YAML or JSON file is malformed, has an unknown key or a wrong value.

    :param others: further problems of the same file, in its order; ``what`` is the first.
    """

    def __init__(
        self,
        what: str,
        *,
        subject: str | None = None,
        cause: str | None = None,
        fix: str | None = None,
        others: Iterable[InvalidFile] = (),
    ) -> None:
        super().__init__(what, subject=subject, cause=cause, fix=fix)
        self.others = tuple(others)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"Also: {other}" for other in self.others)])

    def as_json(self) -> dict[str, Any]:
        """Return the error as the run report and ``--json`` show it, with ``others``."""
        return super().as_json() | {"others": [other.as_json() for other in self.others]}


class UnknownName(ConfigurationError):
    """A name that was not found; suggests the nearest one that exists."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> UnknownName:
        """Build the error for ``name``, a ``kind`` (``"dataset"``, ``"warehouse"`` …), from the ``known`` names."""
        names = sorted(known)
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        return cls(
            f"there is no {kind} {name!r}",
            subject=where,
            cause=f"did you mean {near[0]!r}?" if near else None,
            fix=f"choose one of: {', '.join(names)}" if names else f"no {kind} is defined here yet",
        )


class DriverMissing(ConfigurationError):
    """An optional driver is not installed; names the extra that brings it."""

    @classmethod
    def of(cls, system: str, extra: str, cause: ImportError) -> DriverMissing:
        """Build the error for ``system``, whose driver comes with ``datakit[extra]``."""
        return cls(f"the driver for {system} cannot be imported: {cause}", fix=f"pip install 'datakit[{extra}]'")


class UnsupportedProtocol(ConfigurationError):
    """``DATAKIT_RUN`` speaks a major version of the run protocol that this SDK does not."""


class ReleaseRefused(ConfigurationError):
    """A rule of releases forbids it: a dirty tree, a version that is taken, too small a bump, a failing test."""


class LockRefused(ConfigurationError):
    """A rule of locks forbids it: uncommitted changes, a digest that was never released, an edit by hand."""


class ImageCorrupt(ConfigurationError):
    """What a registry holds is not what its digest or its manifest says; nothing of it may be used."""


class ContractError(ConfigurationError):
    """What the source or the warehouse holds is not what was agreed."""


class ContractMismatch(ContractError):
    """The live source differs from the contract in a way that the policy does not allow."""


class SchemaChangeRefused(ContractError):
    """The schema-change policy refuses to change the warehouse's table."""


class UnsupportedType(ContractError):
    """A column's type has no lossless mapping."""


class ValueRefused(ContractError):
    """A value cannot be kept without loss."""


class NameCollision(ContractError):
    """Two columns, or two tables, would get one name."""


class InvalidKey(ContractError):
    """The key has duplicates or NULLs, or a column that does not exist."""


class InvalidCursor(ContractError):
    """The cursor column cannot serve as one: nullable, of an unordered type, or running backwards."""


class AccessDenied(DatakitError):
    """Somebody said no; a retry cannot help."""

    exit_code = 77


class TicketError(AccessDenied):
    """The Kerberos credential cache cannot be used."""


class TicketMissing(TicketError):
    """There is no credential cache, or none for the service."""


class TicketUnreadable(TicketError):
    """This process may not read the credential cache."""


class TicketCorrupt(TicketError):
    """The credential cache is empty, truncated or not a credential cache."""


class TicketExpired(TicketError):
    """Every ticket in the credential cache has expired."""


class WrongPrincipal(TicketError):
    """The credential cache belongs to another principal."""


class SecretUnavailable(AccessDenied):
    """A secret's file is missing, unreadable or empty."""


class LoginRefused(AccessDenied):
    """The server does not let this principal in, or does not let it read the object."""


class RegistryDenied(AccessDenied):
    """The registry refuses the login, or does not let this account read or write the repository."""


class TemporaryError(DatakitError):
    """May pass by itself; retry."""

    exit_code = 75
    retryable = True


class CredentialsNotReady(TemporaryError):
    """No usable ticket or secret was published in time; the sidecar may be waiting for the vault or a KDC itself."""


class SourceUnavailable(TemporaryError):
    """The source system cannot be reached, or dropped the connection."""


class WarehouseUnavailable(TemporaryError):
    """The warehouse cannot be reached, is full, or dropped the connection."""


class RegistryUnavailable(TemporaryError):
    """The registry cannot be reached, is overloaded or full, or broke the transfer off."""


class LoadInProgress(TemporaryError):
    """Another run loads the same dataset into the same warehouse, or committed while this one was reading."""


class RowsLost(TemporaryError):
    """Rows read, rows written and the server's own count differ; nothing was committed."""


class Interrupted(TemporaryError):
    """SIGTERM or SIGINT arrived; the warehouse is as it was before the run."""


class NothingToDo(DatakitError):
    """Not a failure: there is nothing new to load, and the orchestrator may mark the task as skipped."""

    exit_code = 99
