"""The bytes of an image: the same on every Python and machine, in order, owned by root, of no time."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from datakit.release._media import digest_of
from datakit.release.image import layer_of

FILES = {
    Path("datakit.yaml"): (b"kind: source\n", False),
    Path("sql/ü" + "x" * 120 + ".sql"): (b"SELECT 1", True),
}


def test_a_layer_has_the_bytes_that_it_always_had() -> None:
    """Another digest here means that no release can be made again from its commit: raise the major version for it."""
    layer = layer_of("a-source", FILES)
    assert digest_of(layer) == "sha256:c4138eb5d1badb5fba15779d9f61ef4f6c9e968d96814e12af3185951e23baec"


def test_the_order_of_the_files_does_not_count() -> None:
    assert layer_of("a-source", dict(reversed(FILES.items()))) == layer_of("a-source", FILES)


def test_everything_belongs_to_root_and_may_be_read_by_everybody() -> None:
    with tarfile.open(fileobj=io.BytesIO(layer_of("a-source", FILES))) as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries][:4] == [
        "datakit",
        "datakit/datakits",
        "datakit/datakits/a-source",
        "datakit/datakits/a-source/datakit.yaml",
    ]
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries} == {(0, 0, 0)}
    assert [oct(entry.mode) for entry in entries if entry.isfile()] == ["0o644", "0o755"]
    assert {oct(entry.mode) for entry in entries if entry.isdir()} == {"0o755"}
