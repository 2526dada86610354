"""A volume that is really full (ENOSPC): a temporary error, nothing written, and an exact retry once there is room.

The volume is a small tmpfs. Who may not mount one gets a limit on the size of files instead: the nearest thing.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow as pa
import pytest
from datakit.errors import WarehouseUnavailable
from datakit.model.load import LoadRequest, Slice
from datakit.model.manifest import LoadMode
from datakit.testing import WarehouseCase
from datakit.testing._warehouse_case import COLUMNS, DATASET, request, rows_of, run
from datakit.warehouses import Warehouse, open_warehouse
from psycopg import sql

from .conftest import read_duckdb

if TYPE_CHECKING:
    from datakit_lab.testing import LabDatabase

MEGABYTE = 1 << 20
TWO = [(1, "one"), (2, "two")]


class Volume:
    """A volume of 128 MB; without the right to mount one, a folder, and limits for the files of who writes to it."""

    def __init__(self, folder: Path, writers: Callable[[], list[int]]) -> None:
        self.folder = folder
        self._writers = writers
        self._unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        folder.mkdir()
        options = f"size=128m,mode=0700,uid={folder.parent.stat().st_uid}"
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)
        self.is_mounted = mount.returncode == 0

    def fill(self) -> None:
        """Leave 4 MB of room, or no file more than 18 MB: PostgreSQL stops if it cannot write the 16 MB of its log."""
        if self.is_mounted:
            room = shutil.disk_usage(self.folder).free - 4 * MEGABYTE
            with (self.folder / "filler").open("wb") as filler:
                os.posix_fallocate(filler.fileno(), 0, room)
        else:
            self._limit((18 * MEGABYTE, self._unlimited[1]))

    def grow(self) -> None:
        """Make room again."""
        if self.is_mounted:
            (self.folder / "filler").unlink()
        else:
            self._limit(self._unlimited)

    def close(self) -> None:
        """Take it away."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.folder], check=True)
        else:
            self._limit(self._unlimited)

    def _limit(self, limits: tuple[int, int]) -> None:
        for process in self._writers():
            resource.prlimit(process, resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def duckdb_volume(tmp_path: Path) -> Iterator[tuple[WarehouseCase, Volume]]:
    """A warehouse whose file, and what it spills, is on the volume."""
    path = tmp_path / "volume" / "warehouse.duckdb"
    with closing(Volume(path.parent, lambda: [os.getpid()])) as volume:
        case = WarehouseCase(
            open=lambda: open_warehouse("duckdb", {"path": str(path)}, where="environment"),
            read=lambda table: read_duckdb(path, table),
            schema="bronze",
        )
        yield case, volume


@pytest.fixture
def postgres_volume(lab_database: LabDatabase, postgres_case: WarehouseCase) -> Iterator[tuple[WarehouseCase, Volume]]:
    """A database whose tables are on the volume; the server's log of transactions is elsewhere."""
    server, name = lab_database.server, sql.Identifier(f"small_{lab_database.name}")
    folder = server.directory / f"small-{lab_database.name}"

    def processes() -> list[int]:
        with server.connect() as connection:
            postmaster = psutil.Process(connection.info.backend_pid).parent()
        assert postmaster is not None
        return [process.pid for process in (postmaster, *postmaster.children())]

    with closing(Volume(folder, processes)) as volume:
        with server.connect() as superuser:
            superuser.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(name, sql.Literal(str(folder))))
            role = sql.Identifier(lab_database.role)
            superuser.execute(sql.SQL("GRANT CREATE ON TABLESPACE {} TO {}").format(name, role))
            database = sql.Identifier(lab_database.name)
            superuser.execute(sql.SQL("ALTER DATABASE {} SET default_tablespace = {}").format(database, name))
        yield postgres_case, volume
        server.drop_database(lab_database.name)
        with server.connect() as superuser:
            superuser.execute(sql.SQL("DROP TABLESPACE {}").format(name))


@pytest.fixture(params=["duckdb", "postgres"])
def volume(request: pytest.FixtureRequest) -> tuple[WarehouseCase, Volume]:
    """Each warehouse in turn."""
    found: tuple[WarehouseCase, Volume] = request.getfixturevalue(f"{request.param}_volume")
    return found


def fill(warehouse: Warehouse, wanted: LoadRequest, rows: int) -> bool:
    """Stage rows of a kilobyte that nothing can compress; False if they are staged already."""
    load = warehouse.begin(wanted, Slice())
    if load is None:
        return False
    noise = random.Random(wanted.run_id)
    try:
        for start in range(0, rows, 1000):
            ids = pa.array(range(start, start + 1000), pa.int64())
            texts = pa.array([b64encode(noise.randbytes(768)).decode() for _ in range(1000)])
            load.write(pa.RecordBatch.from_arrays([ids, texts], [column.name for column in COLUMNS]))
        load.stage(rows)
    except BaseException:
        load.abort()
        raise
    return True


def refused(full: pytest.ExceptionInfo[WarehouseUnavailable], case: WarehouseCase) -> None:
    """Check what was said, and that nothing was written."""
    assert "disk is full" in full.value.what or "File too large" in full.value.what, full.value
    assert full.value.fix is not None
    with closing(case.open()) as warehouse:
        last = warehouse.last_load(DATASET, case.table)
        assert last is not None
        assert "first" == last.run_id
    assert rows_of(case) == TWO


def test_a_volume_that_fills_up_while_rows_arrive_leaves_the_old_table(volume: Any) -> None:
    case, disk = volume
    with closing(case.open()) as warehouse:
        run(warehouse, request(case, "first", key=["id"]), TWO)
        disk.fill()
        wanted = request(case, "second", base=1, key=["id"])
        with pytest.raises(WarehouseUnavailable) as full:
            fill(warehouse, wanted, 40_000)
    refused(full, case)
    disk.grow()
    with closing(case.open()) as warehouse:
        assert fill(warehouse, wanted, 40_000)
        assert 40_000 == warehouse.commit(wanted, None).rows
    assert len(rows_of(case) or []) == 40_000


def test_a_volume_that_fills_up_in_the_middle_of_a_commit_leaves_the_old_table(volume: Any) -> None:
    case, disk = volume
    with closing(case.open()) as warehouse:
        run(warehouse, request(case, "first", LoadMode.MERGE, key=["id"]), TWO)
        wanted = request(case, "second", LoadMode.MERGE, base=1, key=["id"])
        assert fill(warehouse, wanted, 20_000)
        disk.fill()
        with pytest.raises(WarehouseUnavailable) as full:
            warehouse.commit(wanted, None)
    refused(full, case)
    disk.grow()
    with closing(case.open()) as warehouse:
        assert not fill(warehouse, wanted, 20_000), "what was staged before the volume was full is kept"
        assert 20_000 == warehouse.commit(wanted, None).rows
    assert len(rows_of(case) or []) == 20_000


def test_a_run_on_a_full_volume_leaves_room_for_a_smaller_one(volume: Any) -> None:
    case, disk = volume
    with closing(case.open()) as warehouse:
        run(warehouse, request(case, "first", key=["id"]), TWO)
        disk.fill()
        wanted = request(case, "second", base=1, key=["id"])
        with pytest.raises(WarehouseUnavailable) as full:
            fill(warehouse, wanted, 40_000)
    refused(full, case)
    with closing(case.open()) as warehouse:
        warehouse.discard(wanted.run_id, wanted.dataset, wanted.table)
        run(warehouse, replace(wanted, run_id="third"), [(3, "three")])
    assert rows_of(case) == [(3, "three")]
