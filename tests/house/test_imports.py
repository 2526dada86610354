"""Who may import whom: what .importlinter cannot say, and that .importlinter still holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")
HEAVY = {
    "adbc_driver_manager",
    "duckdb",
    "gssapi",
    "krb5",
    "mssql_python",
    "numpy",
    "pandas",
    "pgpq",
    "psycopg",
    "pyarrow",
}
MODEL = sorted(
    f"datakit.model.{path.stem}"
    for path in (ROOT / "datakits/sdk/src/datakit/model").glob("*.py")
    if path.stem != "__init__"
)


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after ``statement``."""
    program = (
        f"{statement}\nimport sys, json\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_probe_sees_a_heavy_import() -> None:
    assert "pyarrow" in modules_after("import pyarrow")


@pytest.mark.parametrize(
    "module", ["datakit", "datakit.cli", "datakit.errors", "datakit.sources", "datakit.warehouses"]
)
def test_importing_it_loads_no_driver_and_no_arrow(module: str) -> None:
    assert set() == modules_after(f"import {module}") & HEAVY


def test_reading_the_model_loads_no_driver_and_no_arrow() -> None:
    assert len(MODEL) > 5
    assert set() == modules_after("import " + ", ".join(MODEL)) & HEAVY


def test_the_version_is_looked_up_when_somebody_asks() -> None:
    def looked_up(statement: str) -> bool:
        program = f"import sys\n{statement}\nprint('importlib.metadata' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        return done.stdout == "True\n"

    assert not looked_up("import datakit")
    assert looked_up("from datakit import __version__; assert __version__[0].isdigit()")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_no_driver_and_no_arrow(option: str) -> None:
    command = f"import sys; sys.argv = ['datakit', {option!r}]; from datakit.cli import main"
    run = "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    assert set() == modules_after(f"{command}\n{run}") & HEAVY


def test_the_layers_hold() -> None:
    done = subprocess.run([LINTER, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_contract_of_the_layers_can_break(tmp_path: Path) -> None:
    packages = (
        "datakits/sdk/src/datakit",
        "lab/src/datakit_lab",
        "platform/sidecar/src/datakit_sidecar",
        "platform/vault/src/datakit_vault",
    )
    for package in packages:
        shutil.copytree(ROOT / package, tmp_path / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
    sins = {
        "datakit/ingest/sin.py": "import mssql_python, psycopg, krb5, urllib3\nfrom datakit_lab import kdc",
        "datakit/model/sin.py": "def late():\n    import datakit.sources, duckdb, datakit_vault",
        "datakit/sources/sqlserver/sin.py": "import datakit.warehouses._duckdb",
        "datakit_sidecar/sin.py": "import datakit",
        "datakit_vault/sin.py": "import krb5",
    }
    for name, text in sins.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [LINTER, "--no-logo", "--no-cache", "--config", ROOT / ".importlinter"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert "KEPT" not in done.stdout, done.stdout
    assert done.stdout.count(" BROKEN") == (ROOT / ".importlinter").read_text().count("[importlinter:contract:")
