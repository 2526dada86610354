"""What a tree's files become once they are read: models that know their file, and datakits that know their folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from datakit.model.contract import Contract
from datakit.model.environment import Environment
from datakit.model.manifest import BronzeDatakit, SourceDatakit
from datakit.model.warehouse import WarehouseConfig
from datakit.model.yaml import Document, load

M = TypeVar("M", SourceDatakit, BronzeDatakit, WarehouseConfig, Environment)


@dataclass(frozen=True, slots=True)
class Found(Generic[M]):
    """A model and the file it was read from, which knows positions."""

    model: M
    path: Path
    document: Document

    def where(self, *keys: str | int) -> str:
        """Return ``FILE:LINE:COLUMN`` of a key, for errors."""
        return f"{self.path}:{self.document.at(keys, key=True)}"


class ContractFiles(Mapping[str, Contract]):
    """Contracts by dataset, each read at first use, so that a broken one does not stop another dataset."""

    def __init__(self, folder: Path) -> None:
        self._files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        self._read: dict[str, Contract] = {}

    def __getitem__(self, name: str) -> Contract:
        if name not in self._read:
            self._read[name] = load(self._files[name], Contract)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """A source datakit, its folder, and its contracts by dataset name.

    Looking a contract up may raise :class:`~datakit.errors.InvalidFile`.
    """

    manifest: SourceDatakit
    folder: Path
    contracts: Mapping[str, Contract]

    def contract_path(self, dataset: str) -> Path:
        """Return the file that holds, or would hold, the contract of ``dataset`` (without the connection)."""
        return self.folder / "contracts" / f"{dataset}.yaml"


@dataclass(frozen=True, slots=True)
class LoadedBronze:
    """A bronze datakit, its folder, and those of its source datakits that are in this tree."""

    manifest: BronzeDatakit
    folder: Path
    sources: tuple[LoadedSource, ...]


def read_datakit(path: Path) -> Found[SourceDatakit] | Found[BronzeDatakit]:
    """Read a ``datakit.yaml``; its ``kind`` says which model it is.

    :raises InvalidFile: it cannot be read or is neither.
    """
    document = Document.read(path)
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    if kind == "bronze":
        return Found(document.into(BronzeDatakit), path, document)
    return Found(document.into(SourceDatakit), path, document)


def read_file(path: Path, model: type[M]) -> Found[M]:
    """Read a file of one kind.

    :raises InvalidFile: it cannot be read or does not fit the model.
    """
    document = Document.read(path)
    return Found(document.into(model), path, document)
