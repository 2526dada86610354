"""The laws that every warehouse keeps, as a suite that a company runs on its own adapter::

    @pytest.mark.parametrize("law", warehouse_conformance(), ids=lambda law: law.__name__)
    def test_my_warehouse(law, my_case):
        law(my_case)

A law is a function of one :class:`WarehouseCase`, opens the warehouse itself, and raises AssertionError where it is
broken. What no suite can do for an adapter is to kill its process: see ``docs/warehouses.md`` for that test.
"""

from __future__ import annotations

from datakit.testing import _warehouse_laws_columns, _warehouse_laws_keys, _warehouse_laws_loads
from datakit.testing._warehouse_case import Law, WarehouseCase

__all__ = ["WarehouseCase", "warehouse_conformance"]


def warehouse_conformance() -> tuple[Law, ...]:
    """Return the laws, to parametrize a test with."""
    return (*_warehouse_laws_loads.LAWS, *_warehouse_laws_keys.LAWS, *_warehouse_laws_columns.LAWS)
