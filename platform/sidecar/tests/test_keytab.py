"""What a keytab is, what is none, and what is said about it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from datakit_lab.kdc import Kdc
from datakit_sidecar.errors import EnctypeRefused, KeytabInvalid
from datakit_sidecar.keytab import Password, entries, key_of_keytab
from datakit_vault import Secret
from hypothesis import given
from hypothesis import strategies as st

AES = ("aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha1-96")
SVC = "svc-datakit@LAB.TEST"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Keytabs of a real KDC."""
    folder = tmp_path_factory.mktemp("keytabs")
    with Kdc() as kdc:
        kdc.add_principal("svc-datakit")
        kdc.add_principal("HTTP/web01.lab.test")
        found = {"svc": kdc.keytab(folder / "svc", "svc-datakit").read_bytes()}
        found["both"] = kdc.keytab(folder / "both", "svc-datakit", "HTTP/web01.lab.test").read_bytes()
        kdc.rotate("svc-datakit")
        found["rotated"] = kdc.keytab(folder / "rotated", "svc-datakit").read_bytes()
    return found


def key(data: bytes, principal: str = SVC, enctypes: tuple[str, ...] | None = AES) -> Any:
    return key_of_keytab(principal, Secret(data), enctypes)


def test_a_keytab_of_a_real_kdc_is_read(exported: dict[str, bytes]) -> None:
    found = entries(exported["both"])

    assert {(entry.principal, entry.kvno) for entry in found} == {(SVC, 1), ("HTTP/web01.lab.test@LAB.TEST", 1)}
    assert sorted(entry.enctype for entry in found if entry.principal == SVC) == [17, 18]


def test_the_newest_version_counts(exported: dict[str, bytes]) -> None:
    both = exported["svc"] + exported["rotated"][2:]

    assert key(both).kvno == 2
    assert key(both).fingerprint == key(exported["rotated"]).fingerprint
    assert key(both).fingerprint != key(exported["svc"]).fingerprint


def test_other_principals_in_the_keytab_do_not_make_it_another_key(exported: dict[str, bytes]) -> None:
    assert key(exported["both"]).fingerprint == key(exported["svc"]).fingerprint


def test_a_hole_that_a_removed_key_left_is_skipped(exported: dict[str, bytes]) -> None:
    hole = struct.pack(">i", -6) + b"\0" * 6

    assert len(entries(exported["svc"][:2] + hole + exported["svc"][2:])) == 2


def test_the_key_itself_is_in_no_text(exported: dict[str, bytes]) -> None:
    assert repr(key(exported["svc"])) == f"Key({SVC}, kvno 1)"


def test_a_keytab_of_another_principal_names_whose_it_is(exported: dict[str, bytes]) -> None:
    with pytest.raises(KeytabInvalid, match=rf"keys of {SVC}, and none of svc-other@LAB\.TEST"):
        key(exported["svc"], "svc-other@LAB.TEST")


def test_upper_and_lower_case_count_and_are_told(exported: dict[str, bytes]) -> None:
    with pytest.raises(KeytabInvalid, match=f"write name: {SVC}"):
        key(exported["svc"], "SVC-Datakit@LAB.TEST")


def test_a_keytab_without_a_permitted_type_is_refused_before_the_kdc_counts_a_try(exported: dict[str, bytes]) -> None:
    with pytest.raises(EnctypeRefused, match="only there as aes"):
        key(exported["svc"], enctypes=("arcfour-hmac",))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the keytab is empty"),
        (b"\x05\x02", "holds no key"),
        (b"<html>login</html>", "a web page or JSON was stored instead"),
        (b'{"error": 1}', "a web page or JSON was stored instead"),
        (b"BQIAAABH", "base64"),
        (b"\x05\x04\x00\x0c", "it is a credential cache"),
        (b"\x05\x01aaaa", "the old version 1"),
        (b"garbage", "begins with 67 61 72 62"),
        (b"\x05\x02\x00\x00\x00\xff\x00", "is damaged"),
    ],
)
def test_what_is_no_keytab_is_called_by_its_name(data: bytes, words: str) -> None:
    with pytest.raises(KeytabInvalid) as caught:
        entries(data)

    assert words in str(caught.value)
    assert caught.value.fix


def test_a_keytab_that_was_cut_off_is_damaged_and_not_a_shorter_one(exported: dict[str, bytes]) -> None:
    data = exported["svc"]
    ends = {2}
    offset = 2
    while offset < len(data):
        offset += 4 + struct.unpack_from(">i", data, offset)[0]
        ends.add(offset)

    for length in set(range(1, len(data))) - ends:
        with pytest.raises(KeytabInvalid):
            entries(data[:length])


def test_a_keytab_that_was_handled_as_text_is_damaged(exported: dict[str, bytes]) -> None:
    text = exported["svc"].decode("latin-1").encode("utf-8")

    with pytest.raises(KeytabInvalid):
        key(text)


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    try:
        found = entries(data)
    except KeytabInvalid as error:
        assert str(error)  # noqa: PT017 - whether it is one or not is the question
    else:
        assert found


@given(st.data())
def test_no_damage_crashes_the_reader_or_libkrb5(exported: dict[str, bytes], data: st.DataObject) -> None:
    damaged = bytearray(exported["both"])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        made = key(bytes(damaged))
    except (KeytabInvalid, EnctypeRefused) as error:
        assert str(error)  # noqa: PT017
    else:
        assert made.principal == SVC


def test_equal_passwords_have_equal_fingerprints_and_others_do_not() -> None:
    first, again, other = (Password.of(SVC, Secret(text)).fingerprint for text in (b"one", b"one", b"two"))

    assert first == again
    assert first != other
    assert first != Password.of("other@LAB.TEST", Secret(b"one")).fingerprint


def test_a_keytab_is_on_no_disk(exported: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    held = key(exported["svc"])

    assert list(tmp_path.iterdir()) == []
    assert held.name.startswith(b"MEMORY:")
