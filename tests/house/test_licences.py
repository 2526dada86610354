"""What we may use and under which terms: the texts are whole and current."""

from __future__ import annotations

import hashlib
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MICROSOFT = "MICROSOFT_ODBC_DRIVER_FOR_SQL_SERVER_LICENSE.txt"


def test_our_licence_is_the_whole_apache_text() -> None:
    text = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_microsofts_terms_are_those_of_the_installed_driver() -> None:
    driver = distribution("mssql-python-odbc")
    theirs = next(path for path in driver.files or [] if path.name == MICROSOFT and "licenses" in path.parts)
    expected = theirs.read_text(encoding="utf-8").replace("\r\n", "\n")
    ours = ROOT / "licenses" / "MICROSOFT_ODBC_DRIVER_18_FOR_SQL_SERVER.txt"
    assert expected == ours.read_text(encoding="utf-8")
