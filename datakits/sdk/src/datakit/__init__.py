"""Datakit: define the extraction of a source system once, land it in every warehouse.

The command line is ``datakit`` (:mod:`datakit.cli`). As a library, start at :mod:`datakit.ingest`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """Look the version up when somebody asks: that takes longer than importing everything else in here."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("datakit")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
