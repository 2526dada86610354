"""Who may import whom in the provider, and that its pins are whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .house import REPOSITORY

PROVIDER = REPOSITORY / "platform/airflow"
SOURCES = [PROVIDER / "src", REPOSITORY / "datakits/sdk/src", REPOSITORY / "platform/vault/src"]
PIN = re.compile(r"^([A-Za-z0-9._-]+==[^\\\n]+)((?:\\\n +--hash=sha256:[0-9a-f]{64} *)*)", re.MULTILINE)


def linted(paths: list[Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / ".venv/bin/lint-imports", "--no-logo", "--no-cache", "--config", PROVIDER / ".importlinter"],
        cwd=PROVIDER,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_layers_hold() -> None:
    done = linted(SOURCES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_contract_can_break(tmp_path: Path) -> None:
    for source, name in zip(SOURCES, ("airflow_datakit", "datakit", "datakit_vault"), strict=True):
        shutil.copytree(source / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    sin = "import datakit.ingest, docker, kubernetes, openlineage, datakit_vault\n"
    (tmp_path / "airflow_datakit/sin.py").write_text(sin)
    runtime = tmp_path / "airflow_datakit/runtimes/process.py"
    runtime.write_text(runtime.read_text() + "\nimport airflow_datakit.runtimes.docker\n")
    done = linted([tmp_path])
    assert "KEPT" not in done.stdout, done.stdout
    assert done.stdout.count(" BROKEN") == (PROVIDER / ".importlinter").read_text().count("[importlinter:contract:")


def test_every_pin_has_hashes_and_is_what_is_installed() -> None:
    pins = PIN.findall((REPOSITORY / "locks/airflow.txt").read_text())
    assert len(pins) > 100
    assert [text for text, hashes in pins if not hashes] == []
    wanted = [asked for asked in (Requirement(text) for text, _ in pins) if not asked.marker or asked.marker.evaluate()]
    pinned = {canonicalize_name(asked.name): str(asked.specifier).removeprefix("==") for asked in wanted}
    installed = {canonicalize_name(found.metadata["Name"]): found.version for found in distributions()}
    differ = {name for name in pinned.keys() & installed.keys() if pinned[name] != installed[name]}
    assert differ == set(), "run scripts/setup --airflow"


def test_every_dependency_is_pinned_to_a_version_that_fits() -> None:
    project = tomllib.loads((PROVIDER / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *(text for extra in project["project"]["optional-dependencies"].values() for text in extra),
        *project["dependency-groups"]["dev"],
    ]
    wrong = [
        str(requirement)
        for requirement in map(Requirement, asked)
        if not requirement.specifier.contains(version(requirement.name), prereleases=True)
    ]
    assert wrong == []


def test_airflow_knows_the_provider() -> None:
    from airflow.providers_manager import ProvidersManager

    assert ProvidersManager().providers["airflow-provider-datakit"].version == version("airflow-provider-datakit")
