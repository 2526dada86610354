"""The command as a whole: help, version, completion, errors, signals."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import Tree

COMMANDS = ["new", "check", "preview", "contract", "run", "doctor", "schema"]


def test_help_names_every_command_and_the_exit_codes(datakit: Any) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        result = datakit(*arguments)
        assert (0, "") == (result.code, result.err)
        for word in (*COMMANDS, "75", "77", "78", "99"):
            assert re.search(rf"\b{word}\b", result.out), word


@pytest.mark.parametrize("command", [*COMMANDS, "contract pull", "contract check", "contract diff"])
def test_every_command_has_help_with_a_sentence_for_each_option(datakit: Any, command: str) -> None:
    result = datakit(*command.split(), "--help")
    assert 0 == result.code
    assert f"Usage: datakit {command}" in result.out
    for line in result.out.splitlines():
        if line.startswith("│ --"):
            assert re.search(r"  [A-Z]\w* ?.*\.", line), line


def test_the_version_is_printed(datakit: Any) -> None:
    result = datakit("--version")
    assert (0, True) == (result.code, bool(re.fullmatch(r"datakit \d+\.\d+\S*\n", result.out)))


@pytest.mark.parametrize("arguments", [("frobnicate",), ("preview",), ("check", "--frob"), ("new", "sauce", "x")])
def test_a_wrong_command_line_is_a_configuration_error_with_the_way_to_help(
    datakit: Any, arguments: tuple[str]
) -> None:
    result = datakit(*arguments)
    assert (78, "") == (result.code, result.out)
    assert re.search(r"next: +see datakit.* --help", result.err)
    machine = json.loads(datakit(*arguments, "--json").err)
    assert 78 == machine["error"]["exit_code"]


def test_help_imports_neither_the_models_nor_arrow_nor_a_driver() -> None:
    code = (
        "import sys\nfrom datakit.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = ('pydantic', 'pyarrow', 'duckdb', 'mssql_python', 'psycopg', 'yaml')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == result.stderr.strip()


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("datakit preview air", ["airline.flights", "airline.planes"]),
        ("datakit run --dataset airline.f", ["airline.flights"]),
        ("datakit run --warehouse ", ["finance"]),
        ("datakit run --environment l", ["local"]),
        ("datakit contract pull airline.p", ["airline.planes"]),
        ("datakit che", ["check"]),
    ],
)
def test_names_complete_from_the_tree(
    tree: Tree, datakit: Any, monkeypatch: Any, words: str, completed: list[str]
) -> None:
    monkeypatch.setenv("_DATAKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - (not words.endswith(" "))))
    assert completed == datakit().out.split()


def test_completion_in_a_broken_or_missing_tree_is_silent(tmp_path: Path, datakit: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_DATAKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "datakit preview a")
    monkeypatch.setenv("COMP_CWORD", "2")
    result = datakit()
    assert ("", "") == (result.out.strip(), result.err)


def test_an_error_is_rendered_once_on_stderr(tree: Tree, datakit: Any) -> None:
    tree.replace("warehouses/environments/local.yaml", "runtime: process", "runtime: proces\nnmae: x")
    result = datakit("preview", "airline.flights", "-e", "local")
    assert (78, "") == (result.code, result.out)
    for sentence in ("runtime is 'proces'", "did you mean 'process'?", "unknown key 'nmae'", "did you mean 'name'?"):
        assert 1 == result.err.count(sentence), sentence
    assert "Traceback" not in result.err


def test_a_bug_is_one_line_and_a_traceback_only_on_request(
    tree: Tree, datakit: Any, adapter: Path, monkeypatch: Any
) -> None:
    (adapter / "memory_source.py").write_text("def open_source(*a, **k):\n    raise KeyError('s3cret')\n")
    result = datakit("preview", "airline.flights", "-e", "local")
    assert (70, "") == (result.code, result.out)
    assert "unexpected KeyError; this is a bug" in result.err
    assert "DATAKIT_DEBUG=1" in result.err
    assert "s3cret" not in result.err
    assert 70 == json.loads(datakit("preview", "airline.flights", "-e", "local", "--json").err)["error"]["exit_code"]
    monkeypatch.setenv("DATAKIT_DEBUG", "1")
    assert "Traceback" in datakit("preview", "airline.flights", "-e", "local").err


def test_exit_codes_reach_the_shell(tree: Tree, spawn: Any) -> None:
    for code, arguments in (
        (0, ["check"]),
        (78, ["preview", "airline.nothing"]),
        (75, ["preview", "airline.flights", "-e", "local"]),
    ):
        if code == 75:
            tree.data.rename(tree.data.with_name("gone"))
        process = spawn(*arguments)
        _, err = process.communicate(timeout=60)
        assert code == process.returncode, err


def test_a_reader_that_has_seen_enough_is_no_error(tree: Tree, spawn: Any) -> None:
    process = spawn("schema", "source")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert (0, "") == (process.wait(timeout=60), err)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_with_one_clear_error(
    tree: Tree, spawn: Any, adapter: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    started = tmp_path / "started"
    (adapter / "memory_source.py").write_text(
        "import pathlib, time\n"
        f"def open_source(*a, **k):\n    pathlib.Path({str(started)!r}).touch()\n    time.sleep(60)\n"
    )
    process = spawn("preview", "airline.flights", "-e", "local")
    while not started.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert (75, "") == (process.returncode, out)
    assert f"stopped by {sent.name}" in err
    assert "Traceback" not in err


def test_the_console_script_and_the_module_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("datakit")
    outputs = {
        subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
        for command in ([str(script), "--version"], [sys.executable, "-m", "datakit", "--version"])
    }
    assert 1 == len(outputs)
