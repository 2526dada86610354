"""The virtual environment of the other tools, made from ``peers.txt`` at the first run and kept in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks import ROOT

PINS: Final = Path(__file__).with_name("peers.txt")


@cache
def python() -> str:
    """Return the interpreter of the peers' virtual environment, after making that if it is not there.

    :raises RuntimeError: there is no ``uv``, or the packages cannot be installed.
    """
    state = f"{platform.python_version()}\n{PINS.read_text()}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datakit-lab"
    folder = cache / f"peers-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
    interpreter = folder / "bin/python"
    complete = folder / "complete"
    if complete.exists():
        return str(interpreter)
    uv = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".uv/bin"))
    if uv is None:
        raise RuntimeError("uv is needed to install the other tools; run scripts/setup")
    cache.mkdir(parents=True, exist_ok=True)
    for command in (
        [uv, "venv", "-q", "--clear", "--python", platform.python_version(), str(folder)],
        [uv, "pip", "install", "-q", "--python", str(interpreter), "--compile-bytecode", "-r", str(PINS)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the other tools cannot be installed: {done.stderr.strip()}")
    complete.touch()
    return str(interpreter)


def odbc_driver() -> str:
    """Return Microsoft's ODBC driver as a file: the one that mssql-python brings serves pyodbc too.

    :raises RuntimeError: it is not there.
    """
    spec = importlib.util.find_spec("mssql_python_odbc")
    assert spec
    assert spec.submodule_search_locations
    libraries = Path(next(iter(spec.submodule_search_locations))) / "libs/linux/debian_ubuntu"
    machine = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    found = sorted((libraries / machine / "lib").glob("libmsodbcsql-*.so*"))
    if not found:
        raise RuntimeError(f"there is no ODBC driver for {platform.machine()} in {libraries}")
    return str(found[-1])
