"""Mutations of a good configuration and of a good keytab, through the whole command.

Whatever comes in: no bug's exit code, no traceback, a message that names the place and the next step, never a secret.
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .canary import Places
from .commands import Commands, Done
from .stage import Account, Stage, keytab_of_password

CODES: Final = {0, 75, 77, 78}
settings.register_profile(
    "command",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEW: Final = settings(settings.get_profile("command"), max_examples=25)
MANY: Final = settings(settings.get_profile("command"), max_examples=80)
Step: TypeAlias = str | int


@dataclass
class Bench:
    """A realm and a vault that stay, and a volume that each command finds empty."""

    stage: Stage
    commands: Commands

    @property
    def keytab_account(self) -> Account:
        return self.stage.accounts[0]

    def once(self, configuration: Any) -> Done:
        """Publish once with a configuration; nothing of it is left."""
        path = self.stage.folder / "sidecar.yaml"
        path.write_text(yaml.safe_dump(configuration, allow_unicode=True), encoding="utf-8")
        try:
            return self.commands.run("once", "--timeout", "1s", "--config", path)
        finally:
            for folder in self.stage.volume.iterdir():
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()

    def check(self, done: Done) -> None:
        """Check that whatever came of a command is fit for a person, and tells no secret."""
        said = done.out + done.err
        assert done.code in CODES, said
        assert "Traceback" not in said
        places = Places()
        places.note("what it said", said.encode())
        assert places.search(self.stage.told) == []
        if done.code:
            assert re.search(r"sidecar\.yaml:\d+:\d+: |Next step", done.err), said


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("fuzz")
        stage = stack.enter_context(Stage(timedelta(hours=1), timedelta(days=1), folder))
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
        stage.configuration["kerberos"]["timeout"] = "500ms"
        yield Bench(stage, stack.enter_context(Commands(environment)))


def places_of(tree: Any, path: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """Yield the way to every value of a tree."""
    yield path
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, child in children:
        yield from places_of(child, (*path, step))


def parent_of(tree: Any, path: tuple[Step, ...]) -> Any:
    for step in path[:-1]:
        tree = tree[step]
    return tree


ODD: Final[st.SearchStrategy[Any]] = st.one_of(
    st.sampled_from(
        [None, True, 0, -1, 2**70, 1.5, float("nan"), "", " ", "x", "ünïcödé", "\u202e", "a" * 3000, "0s", "99999d"]
    ),
    st.sampled_from(["-5s", "10", "root", "0777", "localhost:1", "127.0.0.1:99999", "LAB.TEST", "a/b@LAB.TEST", "~"]),
    st.sampled_from([[], {}, [[]], [None], {"a": 1}, ["a", "a"], {"secret": {}}, {1: 2}, "${HOME}", "{{ x }}", "\x7f"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), max_size=20),
).map(copy.deepcopy)
"""Values that a person or a program puts where they do not belong. None is a path: the command would write there."""


@st.composite
def mutations(draw: st.DrawFn, tree: dict[str, Any]) -> dict[str, Any]:
    """Draw a configuration that differs from a good one in one to three places."""
    changed = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([path for path in places_of(changed) if path]))
        parent, step = parent_of(changed, path), path[-1]
        way = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add", "twice"]))
        if way == "replace":
            parent[step] = draw(ODD)
        elif way == "remove":
            del parent[step]
        elif way == "twice" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[int(step)]))
        elif isinstance(parent, dict):
            parent[draw(st.sampled_from(["name", "secret", "secrets", "password", f"{step}x", "Ü", "true"]))] = (
                parent.pop(step) if way == "rename" else draw(ODD)
            )
    return changed


@MANY
@given(st.data())
def test_no_configuration_crashes_the_command(bench: Bench, data: st.DataObject) -> None:
    changed = data.draw(mutations(bench.stage.configuration))

    done = bench.once(changed)

    bench.check(done)


def test_a_message_about_the_configuration_names_line_and_column(bench: Bench) -> None:
    changed = copy.deepcopy(bench.stage.configuration)
    changed["kerberos"]["timeout"] = "soon"

    done = bench.once(changed)

    assert 78 == done.code
    assert re.search(r"sidecar\.yaml:\d+:\d+", done.err), done.err


@st.composite
def broken_keytabs(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw bytes that are, or were, a keytab."""
    way = draw(st.sampled_from(["random", "headed", "flip", "cut", "splice", "resize"]))
    if way == "random":
        return draw(st.binary(max_size=300))
    if way == "headed":
        return good[:2] + draw(st.binary(max_size=200))
    at = draw(st.integers(2, len(good) - 1))
    if way == "cut":
        return good[:at]
    if way == "splice":
        return good[:at] + draw(st.binary(max_size=40)) + good[at:]
    if way == "resize":
        return good[:2] + draw(st.binary(min_size=4, max_size=4)) + good[6:]
    changed = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(good) - 1))] ^= draw(st.integers(1, 255))
    return bytes(changed)


@FEW
@given(st.data())
def test_no_keytab_crashes_the_command_or_is_shown(bench: Bench, data: st.DataObject) -> None:
    account = bench.keytab_account
    good = keytab_of_password(account.principal, account.password, account.kvno)
    broken = data.draw(broken_keytabs(good))
    bench.stage.vault.set_field(account.secret, "keytab", broken)
    configuration = copy.deepcopy(bench.stage.configuration)
    configuration["principals"] = configuration["principals"][:1]

    done = bench.once(configuration)

    bench.check(done)
    places = Places()
    places.note("what it said", (done.out + done.err).encode())
    # what stands in a message of a few words is not the key
    pieces = {f"{at} of the keytab": broken[at : at + 16] for at in range(8, len(broken) - 16, 16)}
    assert [] == [each for each in places.search(pieces) if not broken[int(each.what.split()[0]) :][:16].isascii()]
