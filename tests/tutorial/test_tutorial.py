"""docs/tutorial.md, done as it says: from an empty registry to a rollback, with a real registry, Docker and Airflow."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/tutorial.md"
BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A block of commands, and what the page says that they print."""

    commands: str
    expected: tuple[str, ...]


def steps() -> Iterator[Step]:
    """Return the page's blocks in order."""
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for number, (kind, text) in enumerate(blocks):
        if kind == "bash":
            follows = blocks[number + 1] if number + 1 < len(blocks) else ("", "")
            yield Step(text, tuple(follows[1].splitlines()) if follows[0] == "text" else ())


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """The repository as it is now, in a clone of its own; what a walk leaves behind is removed."""
    names = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    clone = tmp_path / "datakit"
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((ROOT / name).read_bytes())
            (clone / name).chmod((ROOT / name).stat().st_mode)
    for command in (
        ["init", "--quiet", "--initial-branch=tutorial"],
        ["config", "user.name", "Ann Example"],
        ["config", "user.email", "ann@corp.example"],
        ["config", "commit.gpgsign", "false"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "Begin"],
    ):
        subprocess.run(["git", *command], cwd=clone, check=True)
    yield clone
    for last in (["sidecar", "--stop"], ["down"]):
        subprocess.run([ROOT / ".venv/bin/datakit-lab", *last], cwd=clone, capture_output=True, check=False)


@pytest.mark.docker
@pytest.mark.timeout(600)
def test_the_tutorial_does_what_it_says(tree: Path) -> None:
    walked = list(steps())
    assert len(walked) > 10
    script = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + "".join(
        f"echo '@@ {number}'\n{step.commands}\n" for number, step in enumerate(walked)
    )
    known = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "DATAKIT", "GIT_"))}
    path = f"{ROOT / '.venv/bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:{ROOT / '.venv-airflow/bin'}"
    with (tree.parent / "said").open("w+") as file:  # not a pipe, which what runs in the background would hold open
        done = subprocess.run(
            ["bash", "-e"],  # a command that fails ends the walk, as it would end a person's
            input=script,
            cwd=tree,
            env=known | {"PATH": path, "COLUMNS": "200", "LC_ALL": "C.UTF-8"},
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        file.seek(0)
        printed = file.read()
    said = re.split(r"^@@ \d+\n", printed, flags=re.MULTILINE)[1:]
    assert done.returncode == 0, printed[-5000:]
    for step, output in zip(walked, said, strict=True):
        missing = not_printed(step.expected, output)
        assert missing is None, f"not printed, in this order: {missing!r}\n{step.commands}\n{output}"
    # the images that ran in production: the first, the promoted, and after the rollback the first again
    ran = [set(re.findall(r"container [0-9a-f]+ of \S+@(sha256:[0-9a-f]{12})", output)) for output in said]
    first, promoted, after = [digests for digests in ran if digests]
    assert len(first) == len(promoted) == 1
    assert first != promoted
    assert after == first
    audited = next(output for output in said if "run reports in reports" in output)
    assert f"sqlserver-bronze@1.0.0  {first.pop()}" in audited


def not_printed(expected: tuple[str, ...], output: str) -> str | None:
    """Return the first line that the output lacks after those before it; ``…`` in a line stands for anything."""
    lines = iter(output.splitlines())
    for wanted in expected:
        pattern = re.compile(".*".join(map(re.escape, wanted.rstrip().split("…"))))
        if not any(pattern.search(line) for line in lines):
            return wanted
    return None


def test_a_line_that_is_not_printed_or_comes_too_early_is_found() -> None:
    output = "one 1\ntwo 2\n"
    assert not_printed(("one …", "two"), output) is None
    assert not_printed(("two", "one"), output) == "one"
    assert not_printed(("three",), output) == "three"
