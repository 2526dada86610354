"""The pages tell the truth: every path exists, every link leads somewhere, every snippet is valid."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datakit.model.contract import Contract
from datakit.model.environment import Environment
from datakit.model.lock import Lock
from datakit.model.manifest import Datakit
from datakit.model.project import Project
from datakit.model.warehouse import WarehouseConfig
from datakit.warehouses.duckdb import DuckDBConnection
from datakit.warehouses.postgres import PostgresConnection
from pydantic import BaseModel, TypeAdapter

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *ROOT.glob("lab/*.md")]
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
QUOTED = re.compile(r"`([^`\s]+)`")
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FOLDERS = (
    "datakits/",
    "warehouses/",
    "lab/",
    "benchmarks/",
    "docs/",
    "tests/",
    "scripts/",
    "locks/",
    ".ci/",
    "licenses/",
)
MODULE = re.compile(r"^datakit(_lab)?(\.[a-z_]+)+$")
MADE_ON_REQUEST = {"locks/", ".lab/"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def snippets(*languages: str) -> list[tuple[str, str, str]]:
    """Return (page:number, info, text) of every fenced block in those languages."""
    found = []
    for page in PAGES:
        for number, match in enumerate(FENCE.finditer(page.read_text(encoding="utf-8")), 1):
            if match[1] in languages:
                found.append((f"{page.relative_to(ROOT)}:{number}", match[2].strip(), match[3]))
    return found


@pages
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(prose(page)) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pages
def test_every_path_that_is_named_exists(page: Path) -> None:
    named = [name for name in QUOTED.findall(prose(page)) if name.startswith(FOLDERS)]
    real = [name for name in named if not re.search(r"[A-Z]{3,}|[*<{…]", name)]
    assert [name for name in real if not (ROOT / name).exists()] == []


@pages
def test_every_module_that_is_named_exists(page: Path) -> None:
    import importlib.util

    names = {name for name in QUOTED.findall(page.read_text(encoding="utf-8")) if MODULE.match(name)}
    missing = []
    for name in sorted(names):
        parent, _, attribute = name.rpartition(".")
        try:
            found = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            found = False
        if not found and not hasattr(importlib.import_module(parent), attribute):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize(("where", "info", "text"), snippets("yaml"))
def test_a_yaml_snippet_is_what_the_models_accept(where: str, info: str, text: str) -> None:
    document = yaml.safe_load(text)
    match Path(info).parts:
        case [*_, "datakit.yaml"]:
            TypeAdapter(Datakit).validate_python(document)
        case [*_, "warehouse.yaml"]:
            WarehouseConfig.model_validate(document)
        case [*_, "contracts", _]:
            Contract.model_validate(document)
        case [*_, "environments", name] if name.endswith(".lock.yaml"):
            assert Lock.model_validate(document).environment == name.removesuffix(".lock.yaml")
        case [*_, "environments", name]:
            assert Environment.model_validate(document).name == Path(name).stem
            accept_places(document["warehouses"], where)
        case _:
            assert set(document) == {"warehouses"}, f"{where} does not say which file it is of"
            accept_places(document["warehouses"], where)


def accept_places(sections: dict[str, dict[str, object]], where: str) -> None:
    """Validate an environment's sections by the adapter that the tree's warehouse of that connection names."""
    adapters: dict[str, type[BaseModel]] = {"duckdb": DuckDBConnection, "postgres": PostgresConnection}
    types = {config.connection: config.type for config in Project(ROOT).warehouses().values()}
    for connection, section in sections.items():
        assert connection in types, f"{where}: no warehouse of the tree uses {connection}"
        adapters[types[connection]].model_validate(section)


def test_the_tables_of_keys_are_those_of_the_models() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/write_configuration_docs.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pages
def test_every_heading_that_is_linked_to_exists(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", prose(page))
    missing = []
    for target, anchor in targets:
        if "://" not in target:
            headings = re.findall(r"^#+ (.+)$", prose(page.parent / target if target else page), re.MULTILINE)
            if anchor not in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}:
                missing.append(f"{target}#{anchor}")
    assert missing == []


@pytest.mark.parametrize(
    ("where", "info", "text"),
    # a whole suite of tests, such as the laws of warehouses, takes half a minute
    [pytest.param(*found, marks=[pytest.mark.slow] * found[1].startswith("test_")) for found in snippets("python")],
)
def test_a_python_snippet_runs(where: str, info: str, text: str, tmp_path: Path) -> None:
    script = tmp_path / (info or "snippet.py")
    script.write_text(text, encoding="utf-8")
    alone = ["-p", "no:cacheprovider", "-p", "no:xdist", "-c", "/dev/null", f"--rootdir={tmp_path}", "-q"]
    command = ["-m", "pytest", *alone, str(script)] if script.name.startswith("test_") else [str(script)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"


def test_what_the_readme_makes_anew_passes_its_check(tmp_path: Path) -> None:
    lines = [line for _, _, text in snippets("bash") for line in text.splitlines()]
    new = next(shlex.split(line, comments=True) for line in lines if line.startswith("datakit new "))
    check = next(shlex.split(line, comments=True) for line in lines if line.startswith("datakit check"))
    environment = {"PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path)}
    for command in (new, check):
        program = Path(sys.executable).with_name(command[0])
        done = subprocess.run(
            [program, *command[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("where", "info", "text"), snippets("bash", "sh", "shell", "console"))
def test_a_shell_snippet_calls_what_exists(where: str, info: str, text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text()
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        words = [word for number, word in enumerate(words) if number or "=" not in word]
        match words:
            case ["make", target, *_]:
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), line
            case [program, *arguments] if program.startswith("scripts/"):
                assert (ROOT / program).is_file(), line
            case ["datakit" | "datakit-lab" as program, *arguments]:
                assert_options_exist(program, arguments, line)


def assert_options_exist(program: str, arguments: list[str], line: str) -> None:
    """Compare a command line with what ``--help`` of that command offers."""
    command: list[str] = [program]
    help_ = help_of(command)
    while arguments and re.search(rf"^[ │]+{re.escape(arguments[0])}\s", help_, re.MULTILINE) and " COMMAND " in help_:
        command.append(arguments.pop(0))
        help_ = help_of(command)
    assert " COMMAND " not in help_ or not arguments or arguments[0].startswith("-"), f"{line}: no such command"
    for option in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_), f"{line}: no option {option}"


def help_of(command: list[str]) -> str:
    path = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [path, *command[1:], "--help"],
        env={"COLUMNS": "200", "TERM": "dumb", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
