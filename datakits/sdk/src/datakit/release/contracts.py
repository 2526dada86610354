"""What a release promises to warehouses: the contracts that it lands, their hash, and what a change of them means.

A source datakit promises its datasets. A bronze datakit promises those of its source datakits, and how they land.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pydantic import Field, ValidationError

from datakit.errors import ConfigurationError, ImageCorrupt
from datakit.model._base import Model
from datakit.model._found import LoadedBronze, LoadedSource
from datakit.model.contract import Change, ChangeKind, Contract, diff_contracts
from datakit.model.manifest import LoadMode, Naming, SchemaPolicy
from datakit.release._media import digest_of, encoded
from datakit.release.semver import Bump

_CALLS_FOR: Final = {
    ChangeKind.ADDED: Bump.MINOR,
    ChangeKind.WIDENED: Bump.MINOR,
    ChangeKind.RELAXED: Bump.MINOR,
    ChangeKind.REMOVED: Bump.MAJOR,
    ChangeKind.CHANGED: Bump.MAJOR,
    ChangeKind.TIGHTENED: Bump.MAJOR,
    ChangeKind.KEY: Bump.MAJOR,
}


class Landing(Model):
    """How a bronze datakit lands datasets, as far as a reader of the tables can tell."""

    naming: Naming
    row_hash: bool
    mode: LoadMode
    schema_changes: SchemaPolicy


class Promise(Model):
    """Everything that a release promises, as it is attached to its image."""

    datasets: dict[str, Contract] = Field(description="CONNECTION.DATASET → its contract")
    landing: Landing | None = None

    @cached_property
    def hash(self) -> str:
        """``sha256:…`` of what a reader can tell: not of how the source spells a type, nor of the order of datasets."""
        seen = self.model_dump(mode="json")
        for contract in seen["datasets"].values():
            for column in contract["columns"]:
                del column["source_type"]
        return digest_of(encoded(seen))

    def as_bytes(self) -> bytes:
        """Write it, with its hash; equal ones have equal bytes."""
        return encoded({"hash": self.hash, **self.model_dump(mode="json")})

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Promise:
        """Read what :meth:`as_bytes` wrote.

        :raises ImageCorrupt: it is something else, or its hash is not its own.
        """
        import json

        try:
            said = json.loads(data)
            stated = said.pop("hash")
            promise = cls.model_validate(said)
        except (ValueError, KeyError, AttributeError, TypeError, ValidationError):
            raise ImageCorrupt("the contract that is attached to the image cannot be read", subject=where) from None
        if promise.hash != stated:
            raise ImageCorrupt(
                f"the contract that is attached to the image says that its hash is {stated}, but it is {promise.hash}",
                subject=where,
            )
        return promise


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that a release promises differently.

    :ivar dataset: the dataset it is about; None for how everything lands.
    :ivar words: as people read it: ``+ Gate: string``.
    """

    dataset: str | None
    words: str
    bump: Bump
    change: Change | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--json`` shows it."""
        return {"dataset": self.dataset, "change": self.words, "bump": str(self.bump)}


def promise_of_source(source: LoadedSource) -> Promise:
    """Return what a source datakit promises.

    :raises ConfigurationError: a dataset has no contract, or its key is not that of ``datakit.yaml``.
    :raises InvalidFile: a contract cannot be read.
    """
    connection = source.manifest.connection
    datasets: dict[str, Contract] = {}
    for name in sorted(source.manifest.datasets):
        reference = f"{connection}.{name}"
        if name not in source.contracts:
            raise ConfigurationError(
                "the dataset has no contract, so nobody knows what a release of it promises",
                subject=reference,
                fix=f"datakit contract pull {reference}",
            )
        datasets[reference] = source.contracts[name]
    return Promise(datasets=datasets)


def promise_of_bronze(bronze: LoadedBronze, sources: Mapping[str, Promise]) -> Promise:
    """Return what a bronze datakit promises with those source datakits, by name.

    :raises ConfigurationError: two of them define a dataset of one name.
    """
    datasets: dict[str, Contract] = {}
    for name, promise in sources.items():
        if twice := sorted(datasets.keys() & promise.datasets):
            raise ConfigurationError(
                f"two source datakits define {twice[0]}", subject=name, fix="give one of them another connection"
            )
        datasets |= promise.datasets
    standard = bronze.manifest
    return Promise(
        datasets=dict(sorted(datasets.items())),
        landing=Landing(
            naming=standard.naming,
            row_hash=standard.row_hash,
            mode=standard.mode,
            schema_changes=standard.schema_changes,
        ),
    )


def differences(before: Promise, after: Promise) -> tuple[Difference, ...]:
    """List what changes, the gravest first.

    A dataset or column that goes, a type that no longer holds every earlier value, a column that may no longer be NULL
    and another key break those who read the tables; what is added or widened does not.
    """
    found = [*_of_datasets(before, after), *_of_landing(before.landing, after.landing)]
    return tuple(sorted(found, key=lambda each: (-each.bump, each.dataset or "")))


def needed_bump(found: tuple[Difference, ...]) -> Bump:
    """Return the bump that these differences call for; a patch if there is none."""
    return max((each.bump for each in found), default=Bump.PATCH)


def _of_datasets(before: Promise, after: Promise) -> Iterator[Difference]:
    for name in sorted(before.datasets.keys() | after.datasets.keys()):
        old, new = before.datasets.get(name), after.datasets.get(name)
        if new is None:
            yield Difference(name, "- the dataset", Bump.MAJOR)
        elif old is None:
            yield Difference(name, "+ the dataset", Bump.MINOR)
        else:
            for change in diff_contracts(old, new):
                yield Difference(name, str(change), _CALLS_FOR[change.kind], change)


def _of_landing(before: Landing | None, after: Landing | None) -> Iterator[Difference]:
    if before is None or after is None:
        return
    if before.naming != after.naming:
        yield Difference(None, f"~ naming: {before.naming} → {after.naming}: every column is renamed", Bump.MAJOR)
    if before.row_hash != after.row_hash:
        words, bump = ("+", Bump.MINOR) if after.row_hash else ("-", Bump.MAJOR)
        yield Difference(None, f"{words} the column _dk_row_hash", bump)
    if before.mode != after.mode:
        yield Difference(None, f"~ mode: {before.mode} → {after.mode}", Bump.MINOR)
    if before.schema_changes != after.schema_changes:
        yield Difference(None, f"~ schema_changes: {before.schema_changes} → {after.schema_changes}", Bump.MINOR)
