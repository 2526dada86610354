"""Tools for tests of datakits, sources and warehouses. Public: a company tests its own adapters with them."""

from datakit.testing.arrow_source import ArrowSource, Fault
from datakit.testing.sources import SourceCase, source_conformance
from datakit.testing.warehouses import WarehouseCase, warehouse_conformance

__all__ = [
    "ArrowSource",
    "Fault",
    "SourceCase",
    "WarehouseCase",
    "source_conformance",
    "warehouse_conformance",
]
