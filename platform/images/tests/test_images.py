"""The images hold what they need, nothing that they do not, and run as they will in production."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[3]
NAMES = subprocess.check_output([ROOT / "scripts/images", "names"], text=True).split()
IMAGES = {re.sub(r".*/(platform|datakits)/|:.*", "", name): name for name in NAMES}
RUN = ["python", "datakit-base", "sidecar", "sqlserver-bronze"]
RESTRICTED = ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(image: str, *arguments: str, entrypoint: str | None = None) -> str:
    """Run an image as a pod would, with nothing that it does not ask for, and return what it wrote."""
    chosen = [f"--entrypoint={entrypoint}"] if entrypoint else []
    return docker("run", "--rm", *RESTRICTED, *chosen, IMAGES[image], *arguments)


def python(image: str, code: str) -> str:
    return run(image, "-c", code, entrypoint="/usr/bin/python3")


def settings(image: str) -> dict:
    return json.loads(docker("image", "inspect", IMAGES[image]))[0]["Config"]


@pytest.mark.parametrize("image", RUN)
def test_an_image_has_no_shell_no_compiler_and_no_package_manager(image: str) -> None:
    code = """
import os
found = {name for folder in os.environ["PATH"].split(":") if os.path.isdir(folder) for name in os.listdir(folder)}
print(sorted(found))
"""
    programs = {"python3", "python3.11", "datakit", "datakit-sidecar"}
    assert set(eval(python(image, code))) <= programs


@pytest.mark.parametrize("image", RUN)
def test_an_image_runs_as_a_number_that_is_not_root(image: str) -> None:
    user, group = settings(image)["User"].split(":")
    assert int(user) > 10_000
    assert int(group) == 10_000
    assert python(image, "import os; print(os.getuid(), os.getgid())").split() == [user, group]


def test_the_sidecar_is_another_user_than_a_datakit_and_of_the_same_group() -> None:
    sidecar, datakit = settings("sidecar")["User"], settings("sqlserver-bronze")["User"]
    assert sidecar.split(":")[0] != datakit.split(":")[0]
    assert sidecar.split(":")[1] == datakit.split(":")[1]


@pytest.mark.parametrize("image", RUN)
def test_nothing_has_the_right_to_become_somebody_else(image: str) -> None:
    code = """
import os, stat
for folder, _, names in os.walk("/", onerror=None):
    if folder.startswith(("/proc", "/sys")):
        continue
    for name in names:
        mode = os.lstat(os.path.join(folder, name)).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            print(os.path.join(folder, name))
"""
    assert python(image, code) == ""


@pytest.mark.parametrize("image", list(IMAGES))
def test_an_image_says_what_it_is(image: str) -> None:
    labels = settings(image)["Labels"]
    assert labels["org.opencontainers.image.title"] == image
    if image not in {"python", "xcom"}:
        assert IMAGES[image].endswith(f":v{labels['org.opencontainers.image.version']}")
        assert labels["org.opencontainers.image.revision"]


def test_the_datakit_command_answers() -> None:
    assert re.fullmatch(r"datakit \d+\.\d+\.\d+\n", run("datakit-base", "--version"))


def test_a_datakits_image_passes_its_own_check() -> None:
    assert "no problem in 1 source datakit, 1 bronze datakit (/datakit)" in run("sqlserver-bronze", "check")


def test_the_sidecar_command_answers() -> None:
    assert "datakit-sidecar" in run("sidecar", "--help")


def test_every_library_that_a_datakit_may_use_can_be_loaded() -> None:
    code = """
import duckdb, mssql_python, pgpq, psycopg, pydantic, yaml
import pyarrow, pyarrow.compute, pyarrow.csv, pyarrow.dataset, pyarrow.fs, pyarrow.json, pyarrow.parquet
import bz2, ctypes, lzma, sqlite3, ssl, zlib, zoneinfo
rows = duckdb.sql("select 1 as a union all select 2").to_arrow_table()
assert pyarrow.compute.sum(rows["a"]).as_py() == 3
assert duckdb.sql("select max(a) from rows").fetchall() == [(2,)]
assert pyarrow.scalar(0, pyarrow.timestamp("us", "Europe/Zurich")).as_py().utcoffset().total_seconds() == 3600
for library in ("libkrb5.so.3", "libgssapi_krb5.so.2", "libltdl.so.7", "libssl.so.3"):
    ctypes.CDLL(library)
print(ssl.create_default_context().cert_store_stats()["x509_ca"] > 50)
"""
    assert python("sqlserver-bronze", code) == "True\n"


def test_microsofts_driver_gets_as_far_as_the_network_and_brings_its_terms() -> None:
    code = """
import mssql_python
try:
    mssql_python.connect("Server=tcp:127.0.0.1,1;Trusted_Connection=yes;Encrypt=yes;ConnectRetryCount=0")
except Exception as error:
    print(error)
import importlib.metadata
print([str(file) for file in importlib.metadata.files("mssql_python_odbc") if "LICENSE" in str(file)])
"""
    written = python("sqlserver-bronze", code)
    assert "Can't open lib" not in written
    assert "LICENSE" in written


def test_the_sidecar_has_kerberos_and_nothing_of_a_datakit() -> None:
    code = """
import importlib.util, krb5, datakit_vault, datakit_sidecar
print([name for name in ("datakit", "pyarrow", "duckdb", "mssql_python", "psycopg") if importlib.util.find_spec(name)])
"""
    assert python("sidecar", code) == "[]\n"


@pytest.mark.parametrize("image", ["datakit-base", "sidecar"])
def test_everything_is_compiled_so_that_a_read_only_start_is_fast(image: str) -> None:
    code = """
import pathlib, sys
for folder in ("/usr/lib/python3.11", "/usr/local/lib/python3.11/dist-packages"):
    for path in pathlib.Path(folder).rglob("*.py"):
        compiled = path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
        if not compiled.exists() and "lib2to3" not in str(path):
            print(path)
"""
    assert python(image, code) == ""


def test_the_xcom_container_has_the_programs_that_airflow_calls() -> None:
    waits = 'trap "exit 0" INT; while true; do sleep 1; done;'
    container = docker("run", "--detach", *RESTRICTED, IMAGES["xcom"], "sh", "-c", waits).strip()
    try:
        script = "if [ -s /etc/none ]; then cat /etc/none; else echo empty; fi"
        assert docker("exec", container, "/bin/sh", "-c", script) == "empty\n"
        ends = "kill -2 $(pgrep -u $(id -u) -f 'sh')\n"
        done = subprocess.run(
            ["docker", "exec", "--interactive", container, "/bin/sh"], input=ends, capture_output=True, text=True
        )
        assert done.stderr == ""
        assert docker("wait", container) == "0\n"
    finally:
        docker("rm", "--force", container)


def test_the_same_sources_make_the_same_layers(tmp_path: Path) -> None:
    def layers() -> list[str]:
        return json.loads(docker("image", "inspect", IMAGES["sqlserver-bronze"]))[0]["RootFS"]["Layers"]

    before = layers()
    docker("image", "tag", IMAGES["sqlserver-bronze"], "datakit-test/kept:before")
    try:
        subprocess.run([ROOT / "scripts/images", "build", "datakit/sqlserver-bronze"], check=True, capture_output=True)
        assert layers() == before
    finally:
        docker("rmi", "datakit-test/kept:before")


def test_the_dockerfiles_are_clean() -> None:
    done = subprocess.run([ROOT / "scripts/images", "lint"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
