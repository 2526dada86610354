"""What we depend on: pinned completely, with hashes, free of any registry's host, and with its licence noted."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = ("datakits/sdk", "lab", "platform/sidecar", "platform/vault")
OURS = {"datakit", "datakit-lab", "datakit-sidecar", "datakit-vault"}
PIN = re.compile(
    r"^(?P<requirement>[A-Za-z0-9._-]+==[^\\\n]+)(?P<hashes>(?:\\\n +--hash=sha256:[0-9a-f]{64} *)*)", re.MULTILINE
)


def pins(name: str) -> dict[str, tuple[str, str]]:
    """Return package → (version, hashes) of one file in locks/, for this Python and platform."""
    text = (ROOT / "locks" / name).read_text(encoding="utf-8")
    found: dict[str, tuple[str, str]] = {}
    for match in PIN.finditer(text):
        requirement = Requirement(match["requirement"])
        if requirement.marker is None or requirement.marker.evaluate():
            version = str(requirement.specifier).removeprefix("==")
            found[canonicalize_name(requirement.name)] = (version, match["hashes"])
    return found


def asked() -> list[Requirement]:
    """Return what our pyproject files ask for, extras and the development group included."""
    texts = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    for member in MEMBERS:
        project = tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
        texts += project["dependencies"]
        texts += [text for extra in project.get("optional-dependencies", {}).values() for text in extra]
    requirements = [Requirement(text) for text in texts]
    return [requirement for requirement in requirements if requirement.name not in OURS]


def test_every_dependency_is_pinned_to_a_version_that_fits() -> None:
    locked = pins("requirements.txt")
    wrong = [
        str(r) for r in asked() if (pin := locked.get(canonicalize_name(r.name))) is None or pin[0] not in r.specifier
    ]
    assert wrong == [], "run scripts/lock"


def test_every_dependency_is_in_the_licence_notes() -> None:
    notes = (ROOT / "THIRD_PARTY_LICENSES.md").read_text(encoding="utf-8").lower()
    unnoted = {r.name for r in asked() if not re.search(rf"(?<![\w-]){re.escape(r.name.lower())}(?![\w-])", notes)}
    assert {name for name in unnoted if not name.startswith("types-")} == set()


def test_every_pin_has_hashes() -> None:
    for name in ("requirements.txt", "build.txt"):
        locked = pins(name)
        assert locked
        assert [package for package, (_, hashes) in locked.items() if not hashes] == []


def test_what_is_installed_is_what_is_pinned() -> None:
    from importlib.metadata import distributions

    locked = pins("requirements.txt")
    installed: dict[str, str] = {canonicalize_name(found.metadata["Name"]): found.version for found in distributions()}
    differ = {
        name: (installed[name], version)
        for name, (version, _) in locked.items()
        if installed.get(name, version) != version
    }
    assert differ == {}, "run scripts/setup"


def test_no_file_of_ours_names_a_package_registry() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    hosts = re.compile(
        r"(--(extra-)?index-url|index-url\s*=|registry\s*=\s*\W?https?:|resolved\W+https?:|https?://[^\s/]+/simple\b)"
    )
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if hosts.search(line):
                found.append(f"{name}:{number}")
    assert found == []


def test_this_python_is_one_that_we_support() -> None:
    assert (3, 11) <= sys.version_info[:2] <= (3, 13)
