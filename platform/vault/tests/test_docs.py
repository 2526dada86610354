"""The page for people: its table of errors is the tree, its commands exist, and the module's drawing is true."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from datakit_vault import VaultSettings, errors

PAGE = Path(__file__).resolve().parents[3] / "docs" / "vault.md"


def walk(kind: type[errors.VaultError], depth: int = -1) -> Iterator[tuple[type[errors.VaultError], int]]:
    yield kind, depth
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from walk(child, depth + 1)


def table() -> str:
    """Return the table of errors that the page must hold."""
    lines = ["| error | exit code | retry | when |", "|---|---|---|---|"]
    for kind, depth in walk(errors.VaultError):
        if kind is not errors.VaultError:
            summary = (inspect.getdoc(kind) or "").split("\n\n", 1)[0]
            text = re.sub(r"``([^`]+)``", r"`\1`", " ".join(summary.split()))
            retry = "yes" if kind.retryable else "no"
            lines.append(f"| {'&emsp;' * depth}`{kind.__name__}` | {kind.exit_code} | {retry} | {text} |")
    return "\n".join(lines)


def test_the_pages_table_of_errors_is_the_tree() -> None:
    found = re.search(r"<!-- errors -->\n(.*)<!-- /errors -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    assert found[1].strip() == table(), "put this between the two marks:\n" + table()


def test_the_drawing_in_the_module_is_the_tree() -> None:
    drawn = re.findall(r"^ *[│ ]*[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE)
    assert drawn == [kind.__name__ for kind, _ in walk(errors.VaultError) if kind is not errors.VaultError]
    codes = dict(re.findall(r"── (\w+) +(\d\d) ", errors.__doc__ or ""))
    assert codes == {
        kind.__name__: str(kind.exit_code) for kind in errors.VaultError.__subclasses__() if kind.__name__ in codes
    }
    assert set(codes) == {"ConfigurationError", "AccessDenied", "TemporaryError"}


def test_every_setting_with_an_option_is_on_the_page_and_every_command_exists() -> None:
    page = PAGE.read_text(encoding="utf-8")
    help_ = subprocess.run(
        [sys.executable, "-m", "datakit_vault", "get", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "TERM": "dumb"},
    ).stdout
    named = set(re.findall(r"^\| `(\w+)` \| `--", page, re.MULTILINE))
    offered = {each.name for each in fields(VaultSettings) if f"--{each.name.replace('_', '-')}" in help_}
    assert offered - {"allow_http"} == named
    for option in re.findall(r"\| `(--[a-z-]+)`, `(DATAKIT_VAULT_[A-Z_]+)` \|", page):
        assert all(name in help_ for name in option), option
    assert set(re.findall(r"^datakit-vault (\w+)", page, re.MULTILINE)) == {"check", "get", "watch"}
