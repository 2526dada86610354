"""Versions: their order, and what a bump asks of the next one."""

from __future__ import annotations

import pytest
from datakit.errors import ConfigurationError
from datakit.release.semver import Bump, SemVer


def test_precedence_is_that_of_the_specification() -> None:
    ordered = (
        "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.2 1.0.10 2.0.0"
    )
    versions = [SemVer.parse(text) for text in ordered.split()]
    assert sorted(versions) == versions
    assert SemVer.parse("1.0.0+a") == SemVer.parse("1.0.0+b")


@pytest.mark.parametrize("text", ["1.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0 ", "", "1.0.0-a..b"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        SemVer.parse(text)


@pytest.mark.parametrize("tag", ["latest", "1.0.0", "v1", "sha256-00", "v1.0.0_1"])
def test_other_tags_stand_for_no_version(tag: str) -> None:
    assert SemVer.of_tag(tag) is None


@pytest.mark.parametrize(
    ("before", "bump", "lowest"),
    [
        ("1.2.3", Bump.PATCH, "1.2.4"),
        ("1.2.3", Bump.MINOR, "1.3.0"),
        ("1.2.3", Bump.MAJOR, "2.0.0"),
        ("0.2.3", Bump.PATCH, "0.2.4"),
        ("0.2.3", Bump.MINOR, "0.2.4"),
        ("0.2.3", Bump.MAJOR, "0.3.0"),
    ],
)
def test_a_bump_raises_what_it_has_to(before: str, bump: Bump, lowest: str) -> None:
    assert str(SemVer.parse(before).raised(bump)) == lowest


@pytest.mark.parametrize(
    ("version", "bump", "enough"),
    [
        ("1.2.4", Bump.PATCH, True),
        ("1.2.4", Bump.MINOR, False),
        ("1.3.0-rc.1", Bump.MINOR, True),
        ("1.3.0", Bump.MAJOR, False),
        ("2.0.0-rc.1", Bump.MAJOR, True),
        ("1.2.3-rc.1", Bump.PATCH, False),
        ("5.0.0", Bump.PATCH, True),
    ],
)
def test_a_version_is_enough_or_not(version: str, bump: Bump, enough: bool) -> None:
    assert SemVer.parse(version).allows(bump, SemVer.parse("1.2.3")) is enough
