"""Whatever answers: a result or one of our errors, and never a secret in it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from datakit_vault import FieldInfo, Reference, Request, Response, RetryPolicy, Secret, Vault, errors
from datakit_vault._answers import read_record, without_values
from hypothesis import example, given, settings
from hypothesis import strategies as st

from .conftest import StubTransport, stub_settings
from .test_canary import all_that_an_error_tells

CANARY = "canaryvalue"
_folder = tempfile.TemporaryDirectory(prefix="datakit-vault-fuzz-")  # removed when the process ends
FOLDER = Path(_folder.name)
SETTINGS = stub_settings(FOLDER)
ONCE = RetryPolicy(attempts=1)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([CANARY, "password", "keytab", "None", "RequiresCheckout", "API_AccessDenied", 1, 1000]),
)
keys = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            "id", "name", "items", "slug", "fieldName", "itemValue", "isFile", "isPassword", "fileAttachmentId",
            "filename", "active", "checkOutEnabled", "checkOutChangePasswordEnabled", "requiresComment",
            "lastPasswordChangeAttempt", "autoChangeNextPassword", "errorCode", "message", "error", "secretState",
            "isCheckedOut", "isActive", "role", "access_token", "expires_in", "vaults",
        ]
    ),
)  # fmt: skip
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=8)),
    max_leaves=25,
)
items = st.fixed_dictionaries(
    {"slug": st.sampled_from(["password", "keytab"]), "itemValue": st.just(CANARY)},
    optional={"isFile": scalars, "filename": scalars, "fileAttachmentId": scalars, "fieldName": scalars},
)
RECORD_KEYS = (
    "active",
    "checkOutEnabled",
    "checkOutChangePasswordEnabled",
    "requiresComment",
    "checkedOut",
    "lastPasswordChangeAttempt",
    "autoChangeNextPassword",
)
records = st.fixed_dictionaries(
    {"id": st.just(1000), "name": st.text(max_size=9), "items": st.lists(st.one_of(items, documents), max_size=4)},
    optional=dict.fromkeys(RECORD_KEYS, scalars),
)
SHOWN = ("name", "slug", "fieldName", "filename")
"""Keys whose text is shown on purpose; everywhere else a text may be a secret."""


def encoded(document: Any) -> bytes:
    """Return a document as JSON, without the canary where everything is shown on purpose."""

    def spare(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: spare(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [spare(each, key) for each in value]
        return "shown" if key in SHOWN and value == CANARY else value

    return json.dumps(spare(document)).encode()


bodies = st.one_of(
    st.one_of(documents, records).map(encoded),
    records.map(encoded).map(lambda body: body[: len(body) // 2]),
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b"<html>", b"null", b'"' + CANARY.encode() + b'"', b"[" * 5000, b'"\\ud800"', b"\xef\xbb\xbf{}"]
    ),
)
statuses = st.sampled_from([200, 200, 200, 200, 201, 204, 301, 400, 401, 403, 404, 409, 429, 500, 503, 599])
headers = st.fixed_dictionaries(
    {"content-type": st.sampled_from(["application/json", "text/html", "application/octet-stream", ""])},
    optional={"retry-after": st.text(max_size=10), "content-encoding": st.just("identity")},
)
answers = st.tuples(statuses, headers, bodies, st.booleans())


class AnyAnswer(StubTransport):
    """Logs in, then gives the drawn answers in turn, over and over."""

    def __init__(self, drawn: list[tuple[int, dict[str, str], bytes, bool]], *, login: bool) -> None:
        super().__init__(self._next)
        self._drawn = drawn
        self._login = login
        self._given = 0

    def _next(self, request: Request) -> Response:
        if self._login and "oauth2" in request.url:
            return Response(200, {}, Secret(b'{"access_token": "canaryvaluetoken", "expires_in": 60}'))
        status, names, body, framed = self._drawn[self._given % len(self._drawn)]
        self._given += 1
        return Response(status, names, Secret(body), framed)


@settings(max_examples=200, deadline=None)
@given(
    drawn=st.lists(answers, min_size=1, max_size=4),
    login=st.sampled_from([True, True, True, False]),
    reference=st.sampled_from(["1000", "/Kerberos/svc"]),
    field=st.sampled_from(["password", "keytab", "other"]),
    changes=st.fixed_dictionaries({}, optional={"checkout": st.booleans(), "comment": st.just("why")}),
)
def test_no_answer_makes_the_client_crash_or_tell(
    drawn: list[Any], login: bool, reference: str, field: str, changes: dict[str, Any]
) -> None:
    vault = Vault(stub_settings(FOLDER, **changes), transport=AnyAnswer(drawn, login=login), retry=ONCE)
    asked = Reference.parse(reference)
    for act in (vault.record, vault.access, lambda r: vault.read(r, field), lambda r: vault.read_text(r, field)):
        failure: errors.VaultError | None = None
        try:
            act(asked)  # type: ignore[operator]
        except errors.VaultError as error:
            failure = error
        if failure is not None:
            assert CANARY not in all_that_an_error_tells(failure)
            assert failure.exit_code in (75, 77, 78)


texts = st.text(alphabet='ab"\\{}:,itemValue\n\x00é')


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["slug", "itemValue", "x"]), st.text(alphabet='ab"\\{}:,itemValue\n\x00é'), max_size=3
        ),
        max_size=4,
    )
)
@example([{"x": '"itemValue": "decoy"', "itemValue": 'real\\"'}])
@example([{"x": "\\", "itemValue": "\\"}, {"x": '\\"itemValue":"a'}])
def test_exactly_the_values_are_taken_out_of_a_body(found: list[dict[str, str]]) -> None:
    for spaced in (None, (",", ":")):
        body = json.dumps({"items": found}, separators=spaced).encode()
        cleaned = json.loads(without_values(Secret(body), b"key"))
        for before, after in zip(found, cleaned["items"], strict=True):
            assert {k: v for k, v in before.items() if k != "itemValue"} == {
                k: v for k, v in after.items() if k != "itemValue"
            }
            assert ("itemValue" in before) == ("itemValue" in after)
            if "itemValue" in before:
                assert after["itemValue"] != before["itemValue"]


@given(st.text(max_size=30), st.text(max_size=30))
def test_marks_differ_exactly_when_values_do(one: str, other: str) -> None:
    def field(value: str) -> FieldInfo:
        body = json.dumps({"id": 1, "name": "n", "items": [{"slug": "s", "itemValue": value}]}).encode()
        record = read_record(Reference(1), Secret(body), b"key")
        assert record is not None
        return record.fields[0]

    assert (field(one).marker == field(other).marker) == (one == other)


def test_the_fuzzed_client_also_succeeds_sometimes() -> None:
    record = {"id": 1000, "name": "n", "items": [{"slug": "password", "itemValue": CANARY}]}
    drawn = [(200, {}, json.dumps(record).encode(), True), (200, {}, b'"value"', True)]
    vault = Vault(SETTINGS, transport=AnyAnswer(drawn, login=True), retry=ONCE)
    assert vault.read_text(Reference(1000), "password").reveal() == "value"


@given(st.binary(max_size=60))
def test_no_bytes_make_a_credential_file_crash(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings_ = stub_settings(Path(folder))
        (Path(folder) / "password").write_bytes(data)
        stub = StubTransport(lambda _: Response(200, {}, Secret(b'{"access_token": "t"}')))
        with contextlib.suppress(errors.CredentialsMissing):
            assert Vault(settings_, transport=stub).login()
