"""Datakit: define the extraction of a source system once, land it in every warehouse.

The command line is ``datakit`` (:mod:`datakit.cli`). As a library, start at :mod:`datakit.ingest`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("datakit")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
