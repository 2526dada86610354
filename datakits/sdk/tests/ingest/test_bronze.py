"""Names, hashes and the queue."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from datakit.errors import NameCollision
from datakit.ingest.bronze import snake_case, warehouse_names
from datakit.ingest.pipeline import BatchQueue
from datakit.ingest.row_hash import RowHasher
from datakit.model.manifest import Naming
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FlightID", "flight_id"),
        ("ModifiedAt", "modified_at"),
        ("HTTPServer", "http_server"),
        ("already_snake", "already_snake"),
        ("ALLCAPS", "allcaps"),
        ("with space.and]bracket", "with_space_and_bracket"),
        ("Äpfel", "äpfel"),
        ("2ndName", "_2nd_name"),
        ("数据", "数据"),
        ("", "_"),
    ],
)
def test_snake_case_spells_names_as_people_would(name: str, expected: str) -> None:
    assert expected == snake_case(name)


@given(st.text(max_size=128))
def test_a_name_fits_postgresql_and_does_not_change_when_spelled_again(name: str) -> None:
    spelled = snake_case(name)
    assert 0 < len(spelled.encode()) <= 63
    assert spelled == snake_case(spelled)


def test_long_names_that_share_a_beginning_stay_apart() -> None:
    assert snake_case("a" * 100 + "x") != snake_case("a" * 100 + "y")


def test_a_column_cannot_take_the_name_of_a_metadata_column() -> None:
    with pytest.raises(NameCollision, match="belong to datakit"):
        warehouse_names(["_dk_run_id"], Naming.PRESERVE, subject="airline.flights")


def digests(table: pa.Table) -> list[str]:
    with RowHasher(table.schema) as hasher:
        return [digest for batch in table.to_batches() for digest in hasher.hash(batch).to_pylist()]


def test_values_that_look_alike_when_joined_hash_differently() -> None:
    table = pa.table({"a": ["x", "", None, "1:x", "~"], "b": ["", "x", "x", "", ""]})
    assert len(set(digests(table))) == 5


def test_every_contract_type_can_be_hashed() -> None:
    from datakit.model.types import TYPE_NAMES, DataType

    types = [DataType("decimal", 38, 10) if name == "decimal" else DataType.parse(name) for name in TYPE_NAMES]
    table = pa.table({f'"{type_}"': pa.nulls(2, type_.arrow()) for type_ in types})
    first, second = digests(table)
    assert first == second
    assert len(first) == 64


def batch(rows: int) -> pa.RecordBatch:
    return pa.record_batch({"a": pa.array(range(rows), pa.int64())})


def test_a_full_queue_makes_the_reader_wait() -> None:
    queue = BatchQueue(max_bytes=100)
    assert queue.put(batch(10))
    waiting = threading.Thread(target=queue.put, args=(batch(10),))
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive(), "160 bytes do not fit in 100"

    iterator = iter(queue)
    next(iterator)
    waiting.join(timeout=10)
    assert not waiting.is_alive()


def test_a_batch_larger_than_the_queue_passes_alone() -> None:
    queue = BatchQueue(max_bytes=1)
    assert queue.put(batch(10))
    queue.close()
    assert [size for _, size in queue] == [80]


def test_an_error_of_the_reader_reaches_the_writer_after_the_rows_before_it() -> None:
    queue = BatchQueue(max_bytes=1000)
    queue.put(batch(1))
    queue.close(RuntimeError("broken"))
    iterator = iter(queue)
    next(iterator)
    with pytest.raises(RuntimeError, match="broken"):
        next(iterator)


def test_an_abandoned_queue_lets_a_waiting_reader_go() -> None:
    queue = BatchQueue(max_bytes=1)
    queue.put(batch(1))
    results: list[bool] = []
    waiting = threading.Thread(target=lambda: results.append(queue.put(batch(1))))
    waiting.start()
    queue.abandon(RuntimeError())
    waiting.join(timeout=10)
    assert results == [False]
