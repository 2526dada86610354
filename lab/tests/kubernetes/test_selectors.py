"""What a list's selectors find."""

from __future__ import annotations

from decimal import Decimal

import pytest
from datakit_lab.kubernetes._errors import ApiError
from datakit_lab.kubernetes._quantities import quantity
from datakit_lab.kubernetes._selectors import by_fields, by_labels

POD = {
    "metadata": {"name": "one", "labels": {"app": "web", "example.com/tier": "front", "empty": ""}},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app!=web", False),
        ("app=web,example.com/tier=front", True),
        ("app = web , example.com/tier != back", True),
        ("app in (web, api)", True),
        ("app notin (web, api)", False),
        ("other notin (x)", True),
        ("app", True),
        ("!app", False),
        ("!other,empty=", True),
        ("app in (api,worker),example.com/tier", False),
    ],
)
def test_labels_are_selected_as_in_the_grammar(selector: str, fits: bool) -> None:
    assert by_labels(selector)(POD) is fits


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ("metadata.name=one", True),
        ("metadata.name!=one", False),
        ("metadata.name=one,status.phase=Running", True),
        ("spec.nodeName=", True),
        ("status.phase!=Failed", True),
    ],
)
def test_fields_are_selected_by_their_path(selector: str, fits: bool) -> None:
    assert by_fields(selector)(POD) is fits


@pytest.mark.parametrize("selector", ["a in b", "a b", "=x", "a in (b", "a==b==c"])
def test_a_selector_that_means_nothing_is_refused(selector: str) -> None:
    with pytest.raises(ApiError, match="unable to parse requirement"):
        by_labels(selector)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1Gi", 1024**3),
        ("1G", 10**9),
        ("128Mi", 128 * 1024**2),
        ("500m", Decimal("0.5")),
        ("2", 2),
        ("0.1", Decimal("0.1")),
        ("1e3", 1000),
        ("1Ki", 1024),
        (3, 3),
    ],
)
def test_a_quantity_is_its_number(text: str | int, amount: int | Decimal) -> None:
    assert quantity(text) == amount


@pytest.mark.parametrize("text", ["", "1GB", "Gi", "1 Gi", "-1", "1mi", "a"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)
