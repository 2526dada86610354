"""The configuration: what it takes, and what it says about everything else."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import yaml
from datakit_sidecar import configuration
from datakit_sidecar.errors import InvalidSettings
from datakit_sidecar.settings import Settings
from hypothesis import given
from hypothesis import strategies as st

SMALLEST = """\
vault: {kind: secret-server, url: "https://vault.corp.example/SecretServer", credentials: /run/bootstrap}
kerberos: {realm: CORP.EXAMPLE}
principals:
  - name: svc-datakit
    keytab: {secret: /Kerberos/svc-datakit}
    services: ["MSSQLSvc/sql01.corp.example:1433"]
"""


def refused(text: str) -> str:
    with pytest.raises(InvalidSettings) as caught:
        configuration.parse(text)
    return str(caught.value)


def test_the_smallest_configuration_is_a_vault_and_a_principal() -> None:
    settings = configuration.parse(SMALLEST)

    (principal,) = settings.principals
    assert principal.name == "svc-datakit@CORP.EXAMPLE"
    assert principal.share == "service-tickets"
    assert principal.file_name == "svc-datakit"
    assert settings.publish.mode == 0o600
    assert settings.health.address == "127.0.0.1"
    assert not settings.publish.allow_disk


def test_the_realm_may_come_from_the_principal() -> None:
    text = SMALLEST.replace("kerberos: {realm: CORP.EXAMPLE}\n", "").replace(
        "svc-datakit\n", "svc-datakit@A.EXAMPLE\n", 1
    )

    settings = configuration.parse(text)

    assert settings.kerberos is not None
    assert settings.kerberos.realm == "A.EXAMPLE"


def test_secrets_without_a_principal_need_no_realm() -> None:
    text = SMALLEST.partition("kerberos")[0] + "secrets: [{secret: 42, as: finance-db}]\n"

    settings = configuration.parse(text)

    assert settings.kerberos is None
    assert settings.secrets[0].fields == ("password",)


def test_a_slash_of_a_principal_is_no_folder() -> None:
    settings = configuration.parse(SMALLEST.replace("name: svc-datakit", "name: HTTP/web01.corp.example@CORP.EXAMPLE"))

    assert settings.principals[0].file_name == "HTTP_web01.corp.example"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("realm:", "relm:"), ["2:12: kerberos has no key 'relm'", "did you mean 'realm'?"]),
        (("services:", "spns:"), ["6:5: principals[0] has no key 'spns'"]),
        (("kerberos: {realm: CORP.EXAMPLE}\n", ""), ["there is no realm", "kerberos.realm: CORP.EXAMPLE"]),
        (("https://", "http://"), ["1:35: vault.url", "not encrypted", "allow_http"]),
        (("kind: secret-server", "kind: hashicorp"), ["1:15: vault.kind", "secret-server, platform"]),
        (("credentials: /run/bootstrap", "credentials: bootstrap"), ["no absolute path"]),
        (("/Kerberos/svc-datakit", "svc-datakit"), ["5:22: principals[0].keytab.secret", "full path"]),
        (("MSSQLSvc/sql01.corp.example:1433", "sql01.corp.example"), ["no service principal name", "setspn -L"]),
        (("MSSQLSvc/sql01.corp.example:1433", "krbtgt/CORP.EXAMPLE"), ["share: tgt"]),
        (('services: ["MSSQLSvc/sql01.corp.example:1433"]', "share: service-tickets"), ["names no service"]),
        (("name: svc-datakit", "name: CORP\\svc-datakit"), ["not DOMAIN\\name"]),
        (("    keytab: {secret: /Kerberos/svc-datakit}\n", ""), ["neither a keytab nor a password"]),
        (("svc-datakit}", "svc-datakit}\n    password: {secret: 1}"), ["both a keytab and a password"]),
        (
            ("principals:\n  - name", "principals:\n    name"),
            ["principals takes a list", "begin each item with a dash"],
        ),
        (
            ("CORP.EXAMPLE}", "CORP.EXAMPLE, timeout: 10}"),
            ["kerberos.timeout: '10' is no duration (the unit is missing)"],
        ),
        (("CORP.EXAMPLE}", "CORP.EXAMPLE, renew_at: 2}"), ["kerberos.renew_at", "0.1 to 0.9"]),
        (("CORP.EXAMPLE}", "CORP.EXAMPLE, enctypes: [aes256]}"), ["did you mean 'aes256-cts-hmac-sha"]),
        (("CORP.EXAMPLE}", "CORP.EXAMPLE, kdcs: ['dc1:88:99']}"), ["no host"]),
        (("CORP.EXAMPLE}", "CORP.EXAMPLE, kdcs: [dc1], krb5_conf: /etc/krb5.conf}"), ["kerberos.kdcs has no effect"]),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_next_step(change: tuple[str, str], words: list[str]) -> None:
    text = SMALLEST.replace(*change)
    assert text != SMALLEST

    message = refused(text)

    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("publish: {mode: 0644}", ["publish.mode: '0644'", "0400, 0440, 0600, 0640"]),
        ("publish: {tickets: /run/a, secrets: /run/a}", ["a folder each"]),
        ("publish: {tickets: /run/../etc}", ["no absolute path"]),
        ("publish: {uid: root}", ["no whole number", "names are not looked up"]),
        ("health: {port: 70000}", ["health.port: '70000' is no port"]),
        ("health: {minimum_life: -5m}", ["no duration"]),
        ("audit: {rotate_at: 10}", ["audit.rotate_at: '10' is no size"]),
        ("secrets: [{secret: 1, as: a}, {secret: 2, as: a}]", ["the folder 'a' is there twice"]),
        ("secrets: [{secret: 1, as: ../../etc}]", ["cannot be a file's name"]),
        ("secrets: [{secret: 1, as: a, fields: [../x]}]", ["cannot be a file's name"]),
        ("secrets: [{secret: 1}]", ["secrets[0].as is missing"]),
        ("vault: {}", ["the key 'vault' is there twice", "the first one is at line 1"]),
        ("sekrets: []", ["the configuration has no key 'sekrets'", "did you mean 'secrets'?"]),
    ],
)
def test_a_mistake_elsewhere_is_named_too(more: str, words: list[str]) -> None:
    message = refused(f"{SMALLEST}{more}\n")

    assert all(word in message for word in words), message
    assert "sidecar.yaml:7:" in message


def test_the_same_principal_twice_is_refused_however_it_is_written() -> None:
    again = "  - {name: svc-datakit@CORP.EXAMPLE, keytab: {secret: 7}, share: tgt}\n"

    message = refused(SMALLEST + again)

    assert "'svc-datakit@CORP.EXAMPLE' is there twice" in message
    assert "the first one is at sidecar.yaml:4:11" in message


def test_two_principals_of_one_file_name_are_refused() -> None:
    others = "".join(
        f"  - {{name: {name}@CORP.EXAMPLE, keytab: {{secret: 7}}, share: tgt}}\n" for name in ("HTTP/a", "HTTP_a")
    )

    assert "the file name 'HTTP_a' is there twice" in refused(SMALLEST + others)


def test_all_mistakes_are_told_at_once_in_their_order() -> None:
    with pytest.raises(InvalidSettings) as caught:
        configuration.parse("vault: {kind: x, url: 'http://v', credentials: /c}\nhealth: {port: x}\naudit: {keep: y}\n")

    places = [error.subject for error in (caught.value, *caught.value.others)]
    assert places == sorted(places, key=lambda place: [int(part) for part in str(place).split(":")[1:]])
    assert len(places) >= 3


@pytest.mark.parametrize("key", ["password", "client_secret", "token"])
def test_a_secret_in_the_configuration_is_refused_and_not_shown(key: str) -> None:
    message = refused(SMALLEST.replace("{kind", f"{{{key}: h0nter2, kind"))

    assert "a secret never stands in the configuration" in message
    assert "h0nter2" not in message


def test_a_password_where_a_reference_belongs_is_not_shown() -> None:
    text = SMALLEST.replace("keytab: {secret: /Kerberos/svc-datakit}", "password: h0nter2")

    message = refused(text)

    assert "principals[0].password needs keys with values, not a text" in message
    assert "h0nter2" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("- a\n", "needs keys with values, not a list"),
        ("vault:\n\tkind: x\n", "indented with a tab"),
        ("vault: [\n", "not valid YAML"),
        ("a: &a [*a]\n", "an alias contains itself"),
        ("[" * 60 + "]" * 60, "nested more than 20 levels"),
        ("a: \x07\n", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("? [a]\n: b\n", "a key must be text"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(text: str, words: str) -> None:
    assert words in refused(text)


def test_aliases_do_not_grow_without_end() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))

    assert "more than 20 aliases" in refused(bomb)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"x" * (2 << 20)])
def test_a_file_that_is_no_text_of_a_sane_size_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_bytes(content)

    with pytest.raises(InvalidSettings, match=r"UTF-8|larger than"):
        configuration.load(path, {})


def test_a_missing_file_says_how_to_name_it() -> None:
    with pytest.raises(InvalidSettings, match="DATAKIT_SIDECAR_CONFIG"):
        configuration.load(Path("/nowhere/sidecar.yaml"), {})


# The environment ---------------------------------------------------------------------------------------------------

VARIABLES = {
    "DATAKIT_SIDECAR_VAULT_KIND": "secret-server",
    "DATAKIT_SIDECAR_VAULT_URL": "https://vault.corp.example/SecretServer",
    "DATAKIT_SIDECAR_VAULT_CREDENTIALS": "/run/bootstrap",
    "DATAKIT_SIDECAR_REALM": "CORP.EXAMPLE",
    "DATAKIT_SIDECAR_KDCS": "dc1.corp.example,dc2.corp.example:88",
    "DATAKIT_SIDECAR_PRINCIPAL": "svc-datakit",
    "DATAKIT_SIDECAR_KEYTAB_SECRET": "/Kerberos/svc-datakit",
    "DATAKIT_SIDECAR_SERVICES": "MSSQLSvc/sql01.corp.example:1433",
}


def from_environment(**changes: str) -> Settings:
    return configuration.load(None, VARIABLES | {f"DATAKIT_SIDECAR_{name}": text for name, text in changes.items()})


def test_variables_configure_one_principal() -> None:
    settings = from_environment()

    assert settings.source == "the environment"
    assert settings.principals[0].services == ("MSSQLSvc/sql01.corp.example:1433",)
    assert settings.kerberos is not None
    assert settings.kerberos.kdcs["CORP.EXAMPLE"] == ("dc1.corp.example", "dc2.corp.example:88")


def test_an_unknown_variable_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(InvalidSettings) as caught:
        from_environment(SERVICE="x")

    assert caught.value.subject == "DATAKIT_SIDECAR_SERVICE"
    assert "DATAKIT_SIDECAR_SERVICES?" in str(caught.value)


def test_a_secret_in_a_variable_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidSettings) as caught:
        from_environment(VAULT_PASSWORD="h0nter2")

    assert "a secret never stands in the configuration" in str(caught.value)
    assert "h0nter2" not in str(caught.value)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(InvalidSettings, match=r"DATAKIT_SIDECAR_MODE: publish\.mode"):
        from_environment(MODE="0777")


def test_variables_that_kubernetes_sets_for_a_service_of_this_name_are_not_ours() -> None:
    settings = from_environment(
        SERVICE_HOST="10.0.0.1", SERVICE_PORT="80", PORT="tcp://10.0.0.1:80", PORT_80_TCP_ADDR="x"
    )

    assert settings.health.port == 8089


def test_a_file_and_variables_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(SMALLEST)

    with pytest.raises(InvalidSettings, match="a configuration comes from one place"):
        configuration.load(path, VARIABLES)
    assert configuration.load(None, {"DATAKIT_SIDECAR_CONFIG": str(path)}).source == str(path)


# Whatever else -----------------------------------------------------------------------------------------------------

_SCALARS = st.one_of(st.text(max_size=20), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False))
_KEYS = st.sampled_from(
    sorted(set(re.findall(r"[a-z_]+", SMALLEST)) | {"secrets", "publish", "health", "mode", "port"})
)
_TREES = st.recursive(
    _SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(_KEYS | st.text(max_size=5), below, max_size=5),
)


@given(_TREES)
def test_no_tree_crashes_the_reader(tree: object) -> None:
    with contextlib.suppress(InvalidSettings):
        configuration.parse(yaml.safe_dump(tree))


@given(st.text(max_size=200))
def test_no_text_crashes_the_reader(text: str) -> None:
    with contextlib.suppress(InvalidSettings):
        configuration.parse(text)
