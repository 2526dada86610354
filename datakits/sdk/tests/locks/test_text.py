"""The text of a lock: comments stay, the order is one, blocks merge; and the ranges that people write."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from datakit.errors import ConfigurationError, InvalidFile
from datakit.model import lock as reading
from datakit.model.lock import Lock, Pin, parse_lock
from datakit.model.yaml import Document
from datakit.release.locks import LockFile
from datakit.release.ranges import Range
from datakit.release.semver import SemVer
from hypothesis import given
from hypothesis import strategies as st

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
COMMENTED = f"""\
# The lock of qa.
# It is looked at every Monday.
environment: qa  # not int
warehouses:   # all of them
  # finance first
  marketing:
    other: {{version: 1.0.0, digest: {A}}}  # in one line
  finance:
    # until the audit ends
    sqlserver-bronze:
      version: 1.0.0  # behind
      # which image
      digest: {A}
      why: "a # that is no comment"
# the end
"""


def parse(text: str) -> LockFile:
    return LockFile.parse(text, "qa", Path("qa.lock.yaml"))


def test_comments_stay_with_what_they_are_about() -> None:
    pin = Pin(version="1.1.0", digest=B, why="because")
    text = parse(COMMENTED).with_pins({("finance", "sqlserver-bronze"): pin}).text or ""
    assert text == re.sub(
        "SEAL",
        pin.seal_for("qa", "finance", "sqlserver-bronze"),
        f"""\
# The lock of qa.
# It is looked at every Monday.
environment: qa  # not int
warehouses:  # all of them
  finance:
    # until the audit ends
    sqlserver-bronze:
      version: 1.1.0  # behind
      # which image
      digest: {B}
      why: because
      seal: SEAL
  # finance first
  marketing:
    other:  # in one line
      version: 1.0.0
      digest: {A}
# the end
""",
    )


def test_what_a_command_wrote_is_written_again_as_it_is() -> None:
    once = parse(COMMENTED).with_pins({("finance", "x"): Pin(version="1.0.0", digest=A)})
    again = parse(once.text or "").with_pins({("finance", "x"): Pin(version="1.0.0", digest=A)})
    assert once.text == again.text


_LINE = st.text(max_size=60).map(lambda text: " ".join(text.split())).filter(lambda text: text.isprintable())


@given(why=_LINE, by=_LINE, text=st.sampled_from(["*", "^1.2", ">=1, <2", "1.2", "1", "1e3", "0x1f", "null", "~1"]))
def test_any_words_come_back_as_they_were_and_fit_their_seal(why: str, by: str, text: str) -> None:
    pin = Pin(version="1.0.0", digest=A, range=text, by=by, at=datetime(2026, 3, 1, 12, tzinfo=UTC), why=why)
    written = parse("environment: qa\nwarehouses: {}\n").with_pins({("finance", "kit"): pin})
    read = Document(written.text or "", "written").into(Lock)
    assert read == parse_lock(written.text or "", "qa", "written")
    assert pin.sealed("qa", "finance", "kit") == read.warehouses["finance"]["kit"]
    assert read.is_by_command("finance", "kit")


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1.0.1"},
        {"digest": B},
        {"contract": B},
        {"by": "Eve"},
        {"why": "other"},
        {"range": "*"},
        {"at": datetime(2026, 3, 2, tzinfo=UTC)},
        {"seal": None},
    ],
)
def test_an_edit_by_hand_of_any_field_does_not_fit_the_seal(change: dict[str, object]) -> None:
    pin = Pin(version="1.0.0", digest=A, contract=A, by="Ann", at=datetime(2026, 3, 1, tzinfo=UTC), why="w", range="^1")
    sealed = pin.sealed("qa", "finance", "kit").model_copy(update=change)
    lock = Lock(environment="qa", warehouses={"finance": {"kit": sealed}})
    assert not lock.is_by_command("finance", "kit")


def test_a_pin_that_was_copied_from_another_lock_does_not_fit_its_seal() -> None:
    sealed = Pin(version="1.0.0", digest=A).sealed("int", "finance", "kit")
    assert not Lock(environment="qa", warehouses={"finance": {"kit": sealed}}).is_by_command("finance", "kit")


def test_the_last_pin_that_goes_leaves_a_lock() -> None:
    text = f"environment: qa\nwarehouses:\n  finance:\n    kit: {{version: 1.0.0, digest: {A}}}\n"
    assert "environment: qa\nwarehouses: {}\n" == parse(text).with_pins({("finance", "kit"): None}).text


def test_a_lock_of_another_environment_is_refused() -> None:
    with pytest.raises(InvalidFile, match="says that it is the one of 'int'"):
        parse("environment: int\n")


_PLAIN_LOCK = f"environment: qa\nwarehouses:\n  finance:\n    kit:\n      version: 1.0.0\n      digest: {A}\n"


def test_what_commands_write_is_read_without_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    pin = Pin(version="1.0.0", digest=A, range="^1", by="Ann", at=datetime(2026, 3, 1, tzinfo=UTC), why='a "b": # c')
    text = parse("# mine\nenvironment: qa\n").with_pins({("finance", "kit"): pin}).text or ""
    monkeypatch.setattr(reading, "Document", None)
    assert pin.sealed("qa", "finance", "kit") == parse_lock(text, "qa", "lock").warehouses["finance"]["kit"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1.0.0", "version: 1.0.0\n      version: 1.0.1"),
        ("    kit:", "    kit: {}\n    kit:"),
        ("version: 1.0.0", "version: 1.0"),
        ("version: 1.0.0", "version: v1.0.0"),
        ("version: 1.0.0", "versoin: 1.0.0"),
        ("      version", "     version"),
        ("      version", "\tversion"),
        ("  finance:", "finance:"),
        ("environment: qa", "environment: int"),
        ("    kit:\n", "    kit:\n        deeper:\n"),
        ("version: 1.0.0", 'version: "1.0.0'),
        ("version: 1.0.0", "version: 1.0.0\n      by: null"),
        ("version: 1.0.0", "version: 1.0.0\n      why: 2026-01-01"),
        ("version: 1.0.0", "version: 1.0.0\n      why: yes"),
        ("version: 1.0.0", "version: 1.0.0\n      why: one\n        two"),
        ("version: 1.0.0", "version: 1.0.0\n      why: |\n        # two"),
        ("version: 1.0.0", "version: 1.0.0  # why"),
        ("version: 1.0.0", "version: &a 1.0.0\n      range: *a"),
        ("version: 1.0.0", "version: 1.0.0\n      why: a: b"),
        ("version: 1.0.0", "version: 1.0.0\n      why: 'it''s'"),
        (_PLAIN_LOCK, ""),
        ("\n", "\r\n"),
        ("\n", "\n---\n"),
    ],
)
def test_what_people_write_is_read_as_yaml_reads_it(old: str, new: str) -> None:
    assert old in _PLAIN_LOCK
    text = _PLAIN_LOCK.replace(old, new)
    try:
        read: object = Document(text, "lock").into(Lock)
        if isinstance(read, Lock) and read.environment != "qa":
            read = None
    except InvalidFile as error:
        read = str(error)
    try:
        found: object = parse_lock(text, "qa", "lock")
    except InvalidFile as error:
        found = None if "says that it is the one of" in str(error) else str(error)
    assert read == found


def versions(*texts: str) -> list[SemVer]:
    return [SemVer.parse(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "best"),
    [
        ("*", "2.1.0"),
        ("1", "1.10.0"),
        ("1.2", "1.2.9"),
        ("1.2.0", "1.2.0"),
        ("=1.2.0", "1.2.0"),
        ("v1.2.0", "1.2.0"),
        ("^1.2", "1.10.0"),
        ("^1.2.3", "1.10.0"),
        ("~1.2.0", "1.2.9"),
        ("~1", "1.10.0"),
        ("^0.2", "0.2.7"),
        ("^0.0.3", "0.0.3"),
        ("^0", "0.3.0"),
        (">=1.2, <1.10", "1.2.9"),
        ("<=1.2.0", "1.2.0"),
        (">2.1", None),
        ("3.0.0-rc.1", "3.0.0-rc.1"),
        ("^3", None),
    ],
)
def test_a_range_takes_the_highest_release_in_it(text: str, best: str | None) -> None:
    known = versions(
        "0.0.3", "0.0.4", "0.2.0", "0.2.7", "0.3.0", "1.2.0", "1.2.9", "1.10.0", "2.0.0", "2.1.0", "3.0.0-rc.1"
    )
    found = Range.parse(text).best(known)
    assert best == (None if found is None else str(found))


@pytest.mark.parametrize("text", ["", "latest", "1.2.3.4", "^", ">=1,", "1.2.3,<2", "^1 || ^2"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Range.parse(text)
