"""docs/sidecar.md says what the code does: every key, variable, metric, event and command, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from datakit_sidecar import _environment, configuration
from datakit_sidecar._document import Section

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/sidecar.md").read_text(encoding="utf-8")
SOURCE = {path: path.read_text() for path in (ROOT / "platform/sidecar/src/datakit_sidecar").rglob("*.py")}


def part(heading: str) -> str:
    """Return the text under a heading."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def first_cells(text: str) -> list[str]:
    """Return the names in the first column of the tables."""
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def snippet(name: str) -> str:
    found = re.search(rf"```yml {re.escape(name)}\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found[1]


def test_the_example_is_a_configuration() -> None:
    settings = configuration.parse(snippet("sidecar.yaml"))

    assert settings.principals[0].name == "svc-datakit@CORP.EXAMPLE"


def test_the_pod_is_one_and_asks_what_the_command_answers() -> None:
    pod = yaml.safe_load(snippet("pod.yaml"))

    (sidecar,) = pod["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["exec"]["command"][:2] == ["datakit-sidecar", "healthcheck"]


@pytest.mark.parametrize("name", ["vault", "kerberos", "principals", "secrets", "publish", "health", "audit"])
def test_every_key_is_documented_and_no_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, list[str]] = {}
    finish = Section.finish

    def noting(section: Section) -> None:
        known[re.sub(r"\[\d+\]", "", section.path)] = list(section._known)
        finish(section)

    monkeypatch.setattr(Section, "finish", noting)
    configuration.parse(snippet("sidecar.yaml"))

    assert sorted(set(known[name])) == sorted(first_cells(part(f"`{name}`")))


def test_every_variable_is_documented_and_no_other() -> None:
    documented = dict(re.findall(r"^\| `DATAKIT_SIDECAR_(\w+)` \| `?([\w.\[\]]+)", PAGE, re.MULTILINE))

    del documented["CONFIG"]
    assert {name: path.replace("[0]", ".0") for name, path in documented.items()} == _environment._VARIABLES


def test_every_metric_is_documented_and_no_other() -> None:
    source = next(text for path, text in SOURCE.items() if path.name == "metrics.py")
    made = set(re.findall(r'page\.add(?:_histogram)?\(\s*"(\w+)"', source))

    assert made == set(first_cells(part("Metrics")))


def test_every_event_is_documented_and_no_other() -> None:
    written = {name for text in SOURCE.values() for name in re.findall(r'audit\.write(?:_last)?\(\s*"([\w.]+)"', text)}
    written |= {name for text in SOURCE.values() for name in re.findall(r'"((?:secret|ticket)\.\w+)"', text)}

    assert written == set(first_cells(part("The audit log")))


def test_every_command_and_option_exists(house: Any) -> None:
    for command in re.findall(r"`datakit-sidecar ([a-z-]+)", PAGE):
        assert house.command(command, "--help").returncode == 0, command
    help_ = house.command("verify-audit", "--help").stdout + house.command("healthcheck", "--help").stdout
    for option in ("--head", "--alone", "--port", "--live", "--address"):
        assert option in help_


def test_every_error_message_in_the_checklist_is_one_that_is_given() -> None:
    said = "".join(SOURCE.values()) + "".join(
        path.read_text() for path in (ROOT / "datakits/sdk/src/datakit/credentials").glob("*.py")
    )
    said = re.sub(r'"\s*\n\s*f?"', "", said)
    quoted = re.findall(r"^\| \*(.+?)\* \|", part("When something is wrong"), re.MULTILINE)
    phrases = [each.strip("*") for row in quoted for each in row.split("*, *")]

    missing = [phrase for phrase in phrases if phrase not in said]
    # libkrb5's own words, and ones with names in them
    assert missing == ["Matching credential not found", "keys of X, and none of Y"]
