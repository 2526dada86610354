"""Node's tedious, which shares no code with the other clients."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from datakit_lab.sqlserver.child import SqlServerProcess

from .cases import CASES
from .conftest import FACTORY, Clients
from .tables_backend import PASSWORD
from .test_login import MakeTls

VERSION = "19.2.2"
CLIENT = Path(__file__).parent / "tedious_client.js"

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="node and npm are not installed")


@pytest.fixture(scope="session")
def tedious() -> Path:
    """Install tedious once per machine; parallel workers wait for the first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "datakit-lab" / f"tedious-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), f"tedious@{VERSION}"]
            subprocess.run(command, check=True, capture_output=True, timeout=240)
            (folder / "complete").touch()
    return folder / "node_modules"


def run(modules: Path, port: int, steps: list[dict[str, Any]], *, encrypt: bool = False) -> Any:
    plan = {"port": port, "password": PASSWORD, "encrypt": encrypt, "steps": steps}
    done = subprocess.run(
        ["node", str(CLIENT)],
        input=json.dumps(plan),
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def case(name: str) -> dict[str, str]:
    return {"sql": f"SELECT case {[each.name for each in CASES].index(name)}"}


def test_tedious_reads_values_of_many_types(tedious: Path, clients: Clients) -> None:
    wanted: dict[str, list[Any]] = {
        "bit": [True, False, None],
        "int": [-(2**31), 2**31 - 1, None, 0],
        "bigint": ["-9223372036854775808", "9223372036854775807", None, "0"],
        "float": [0.1, -1.7976931348623157e308, 5e-324, None],
        "money": [922337203685477.6, -922337203685477.6, -0.0001, None],
        "date": ["0001-01-01T00:00:00.000Z", "9999-12-31T00:00:00.000Z", "1970-01-01T00:00:00.000Z", None],
        "datetime2 7": [
            "0001-01-01T00:00:00.000Z",
            "9999-12-31T23:59:59.999Z",
            None,
            "1969-12-31T23:00:00.000Z",
        ],
        "datetimeoffset": ["2020-05-17T12:00:00.000Z", "2020-05-17T12:00:00.000Z", None, "0001-01-01T00:00:00.000Z"],
        "varchar cyrillic": ["Привет", "", None, "a"],
        "varchar japanese": ["日本ｱ", "", None],
        "varchar utf8": ["Привет 😀", "", None],
        "varbinary(max)": ["0x", None, "0x" + "00" * (1 << 20), "0x01"],
        "uniqueidentifier bytes": ["00112233-4455-6677-8899-AABBCCDDEEFF", None],
        "xml": ["<a>é😀</a>", None, ""],
    }
    wanted |= {
        name: next(each for each in CASES if each.name == name).expected for name in ("nvarchar", "nvarchar(max)")
    }
    results = run(tedious, clients.port, [case(name) for name in wanted])
    for (name, values), result in zip(wanted.items(), results, strict=True):
        assert values == [row[0] for row in result["rows"]], name


def test_tedious_sends_parameters_and_reads_errors_and_counts(tedious: Path, clients: Clients) -> None:
    parameters = [["a", "Int", 7], ["b", "NVarChar", "é😀"], ["c", "Bit", None], ["d", "Float", 1.5]]
    parameters += [["e", "VarChar", "x" * 9000], ["f", "Decimal", 12]]
    results = run(
        tedious,
        clients.port,
        [
            {"sql": "SELECT parameters", "parameters": parameters},
            {"sql": "SELECT what is not there"},
            {"sql": "UPDATE seventeen"},
            {"sql": "SELECT counted"},
        ],
    )
    assert [[7, "é😀", None, 1.5, "x" * 9000, 12]] == results[0]["rows"]
    assert 208 == results[1]["error"]["number"]
    assert 17 == results[2]["count"]
    assert 100_000 == len(results[3]["rows"])


def test_tedious_cancels_an_endless_result_and_goes_on(tedious: Path, clients: Clients) -> None:
    endless, after = run(
        tedious, clients.port, [{"sql": "SELECT endless", "cancelAfter": 1500}, {"sql": "SELECT several"}]
    )
    assert "ECANCEL" == endless["error"]["code"]
    assert [[1], [2], [3], ["17"]] == after["rows"]


def test_tedious_manages_transactions(tedious: Path, clients: Clients) -> None:
    steps = [{"transaction": "commitTransaction"}, {"transaction": "rollbackTransaction"}, {"sql": "SELECT state"}]
    (state,) = run(tedious, clients.port, steps)
    words = state["rows"][0][0].split("|")[0].split(",")
    assert ["begin", "commit", "begin", "rollback"] == [word.split()[0] for word in words]


@pytest.mark.parametrize("mode", ["on", "required"])
def test_tedious_connects_encrypted(tedious: Path, tls: MakeTls, mode: str) -> None:
    with SqlServerProcess(FACTORY, tls=tls(mode)) as server:
        (result,) = run(tedious, server.port, [{"sql": "SELECT counted"}], encrypt=True)
    assert 100_000 == len(result["rows"])
