"""Both warehouses keep every law of warehouses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from datakit.testing import WarehouseCase, warehouse_conformance


@pytest.mark.parametrize("law", warehouse_conformance(), ids=lambda law: law.__name__)
def test_a_warehouse_keeps_the_law(law: Callable[[WarehouseCase], None], case: WarehouseCase) -> None:
    law(case)
