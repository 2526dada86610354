"""Secrets that do not print, references and settings."""

from __future__ import annotations

import copy
import gc
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from datakit_vault import Reference, Secret, VaultSettings, errors
from hypothesis import given
from hypothesis import strategies as st

CANARY = "canary-4711"


@pytest.mark.parametrize("secret", [Secret(CANARY), Secret(CANARY.encode())])
def test_nothing_that_python_prints_shows_a_secret(secret: Secret[Any]) -> None:
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>40}",
        f"{secret!r}",
        f"{[secret]}",
        f"{secret} {secret!r}",
    ]
    shown += [repr(secret.__dir__()), repr(vars(type(secret))), str(secret.exposed)]
    assert not [text for text in shown if CANARY in text]
    assert secret.reveal() in (CANARY, CANARY.encode())


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy, lambda secret: secret.__getstate__()])
def test_a_secret_is_neither_pickled_nor_copied(act: Any) -> None:
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        act(Secret(CANARY))


def test_a_dataclass_with_a_secret_shows_and_copies_none() -> None:
    @dataclass
    class Holder:
        secret: Secret[str]

    assert CANARY not in repr(Holder(Secret(CANARY)))
    with pytest.raises(TypeError):
        asdict(Holder(Secret(CANARY)))


def test_wiping_fills_the_memory_with_zeros_even_while_somebody_looks() -> None:
    held = bytearray(b"keytab")
    secret = Secret.adopt(held)
    with secret.exposed() as view:
        assert bytes(view) == b"keytab"
        with pytest.raises(TypeError):
            view[0] = 0  # type: ignore[index]
        secret.wipe()
        assert bytes(view) == bytes(6)
    assert held == bytes(6)
    secret.wipe()
    with pytest.raises(ValueError, match="was wiped"):
        secret.reveal()
    with pytest.raises(ValueError, match="was wiped"), secret.exposed():
        pass


def test_a_forgotten_secret_is_wiped() -> None:
    held = bytearray(b"keytab")
    Secret.adopt(held)
    gc.collect()
    assert held == bytes(6)


def test_secrets_are_compared_by_value_and_only_with_secrets() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != Secret(b"a")
    assert Secret("a") != "a"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Secret("a"))
    wiped = Secret("a")
    wiped.wipe()
    assert wiped != Secret("\x00")


def test_only_an_empty_secret_is_false() -> None:
    assert (bool(Secret("")), bool(Secret(b"")), bool(Secret(b"\x00"))) == (False, False, True)


@given(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.binary()))
def test_a_secret_gives_back_exactly_what_it_was_given(value: Any) -> None:
    secret: Secret[Any] = Secret(value)
    assert secret.reveal() == value
    with secret.exposed() as view:
        assert bytes(view) == (value.encode() if isinstance(value, str) else value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("42", "42"),
        ("id:42", "42"),
        (42, "42"),
        ("/Kerberos/svc-datakit", "/Kerberos/svc-datakit"),
        ("\\Kerberos\\svc-datakit", "/Kerberos/svc-datakit"),
        ("/svc", "/svc"),
        ("/Folder with spaces/ü & co", "/Folder with spaces/ü & co"),
        ("\\Databases\\prod/reader", "\\Databases\\prod/reader"),
    ],
)
def test_a_reference_is_an_id_or_a_full_path(text: str | int, shown: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == shown
    assert Reference.parse(str(reference)) == reference


def test_a_path_is_sent_with_the_vaults_separators() -> None:
    assert Reference.parse("/Kerberos/svc").vault_path == "\\Kerberos\\svc"
    assert Reference.parse("\\a/b\\c").vault_path == "\\a/b\\c"
    assert Reference.parse(7).vault_path == ""


@pytest.mark.parametrize(
    "text",
    ["", " ", "svc-datakit", "0", "-1", "1.5", "id:", "id:x", "id:0", "²", "٤٢", "9" * 40, "/", "//", "/a//b", "/a/",
     "/a/ /b", "/a\n", "/a\x00b", "\\", "\\a\\", "/" + "x" * 1000, "Kerberos/svc", True, None, 4.2, ["/a"], 0, -5],
)  # fmt: skip
def test_anything_else_is_refused_with_what_to_write(text: Any) -> None:
    with pytest.raises(errors.InvalidReference) as refusal:
        Reference.parse(text)
    assert "its full path" in str(refusal.value.fix)
    assert len(str(refusal.value)) < 500


def test_a_bare_name_is_refused_because_it_could_be_anybodys() -> None:
    with pytest.raises(errors.InvalidReference, match="two folders may hold secrets of one name"):
        Reference.parse("svc-datakit")


@given(st.text())
def test_no_text_makes_a_reference_crash(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except errors.InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference


def settings(**changes: Any) -> VaultSettings:
    return VaultSettings(
        **{
            "kind": "secret-server",
            "url": "https://vault.corp.example/SecretServer",
            "credentials": Path("/x"),
            **changes,
        }
    )


def test_settings_do_not_change_and_their_url_ends_without_a_slash() -> None:
    chosen = settings(url="https://vault.corp.example:8443/SecretServer/")
    assert (chosen.base, chosen.host) == ("https://vault.corp.example:8443/SecretServer", "vault.corp.example:8443")
    with pytest.raises(FrozenInstanceError):
        chosen.url = "https://other.example"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "conjur"}, "choose one of: secret-server, platform"),
        ({"url": "http://vault.corp.example"}, "anybody on the way could read"),
        ({"url": "vault.corp.example"}, "write https://"),
        ({"url": "ftp://vault.corp.example"}, "write https://"),
        ({"url": "https://"}, "write https://"),
        ({"url": "https://vault:port"}, "is no URL"),
        ({"url": "https://[::1"}, "is no URL"),
        ({"url": "https://vault.corp.example/?a=b"}, "query or a fragment"),
        ({"url": "https://vault.corp.example/a b"}, "cannot be used"),
        ({"url": "https://vault.corp.example/\n"}, "cannot be used"),
        ({"url": "https://vâult.corp.example"}, "in ASCII"),
        ({"url": None}, "cannot be used"),
        ({"proxy": "proxy:3128"}, "proxy"),
        ({"kind": "platform", "domain": "CORP"}, "no domains"),
        ({"timeout": 0}, "more than 0"),
        ({"max_bytes": -1}, "more than 0"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.InvalidSettings, match=says.replace("?", r"\?")):
        settings(**changes)


@pytest.mark.parametrize("name", ["url", "proxy"])
def test_a_credential_in_a_url_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(errors.InvalidSettings) as refusal:
        settings(**{name: "https://svc:hunter2@vault.corp.example"})
    assert "hunter2" not in str(refusal.value)
    assert "holds a user's name or password" in str(refusal.value)


def test_http_is_possible_if_asked_for() -> None:
    assert settings(url="http://127.0.0.1:8080/x", allow_http=True).base == "http://127.0.0.1:8080/x"
