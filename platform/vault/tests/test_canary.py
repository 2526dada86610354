"""Nothing that a program prints by accident shows a value, a token or a credential."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datakit_vault import Reference, RetryPolicy, Vault, errors
from datakit_vault.testing import FAULTS, FakeVault

SVC = Reference.parse("/Kerberos/svc")
VALUES = {"password": "canary-value-4711", "notes": "canary-notes-4711", "keytab": b"\x05\x02canary-keytab-4711"}
ACCOUNT = "canary-account-4711"
CANARY = "canary-"


@pytest.fixture
def everything_logged() -> Any:
    """Collects every log line of every library, at every level."""
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield sink
    root.removeHandler(handler)
    root.setLevel(level)


class Exposed:
    """A double whose every secret begins with the canary, its tokens too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        numbers = iter(range(1000))
        monkeypatch.setattr(
            "datakit_vault.testing._fake.secrets.token_urlsafe", lambda _: f"canary-token-{next(numbers)}"
        )
        self.fake = FakeVault(password=ACCOUNT)
        self.fake.add_secret("/Kerberos/svc", VALUES)


@pytest.fixture
def exposed(monkeypatch: pytest.MonkeyPatch) -> Any:
    double = Exposed(monkeypatch)
    with double.fake:
        yield double.fake


def all_that_an_error_tells(error: BaseException) -> str:
    """Return all that a crash reporter could get hold of: tracebacks with the variables of every frame of ours."""
    told = [str(error), repr(error), repr(error.args), repr(vars(error)), repr(getattr(error, "__notes__", None))]
    told.append(repr(pickle.dumps(error)))
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is not None:
            trace = each.__traceback__.tb_next if each.__traceback__ and each is error else each.__traceback__
            summary = traceback.TracebackException(type(each), each, trace, capture_locals=True, compact=False)
            told.append("".join(summary.format()))
            pending += [each.__cause__, each.__context__]
    return "\n".join(told)


ARRANGEMENTS: dict[str, Callable[[FakeVault], None]] = {
    "denied": lambda fake: fake.change("/Kerberos/svc", denied=True),
    "rotates": lambda fake: fake.change("/Kerberos/svc", rotates_on_check_in=True),
    "comment": lambda fake: fake.change("/Kerberos/svc", requires_comment=True),
    "down": lambda fake: fake.stop(),
    "password": lambda fake: (fake.expire_tokens(), fake.change_password()),
}


@pytest.mark.parametrize("matching", ["oauth2", "/api/v2/", "/fields/"])
@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_makes_an_error_or_a_log_tell(
    exposed: FakeVault, tmp_path: Path, everything_logged: io.StringIO, fault: str, matching: str
) -> None:
    exposed.fault(fault, matching=matching, times=None, seconds=0.1 if fault == "slow" else 2)
    vault = Vault(exposed.settings(tmp_path, timeout=0.5), retry=RetryPolicy(attempts=1))
    with pytest.raises(errors.VaultError) as caught:
        vault.read(SVC, "password")
    assert CANARY not in all_that_an_error_tells(caught.value)
    assert CANARY not in everything_logged.getvalue()
    assert CANARY not in repr(exposed.requests)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_no_refusal_tells(exposed: FakeVault, tmp_path: Path, everything_logged: io.StringIO, arrangement: str) -> None:
    vault = Vault(exposed.settings(tmp_path), retry=RetryPolicy(attempts=1))
    vault.login()
    ARRANGEMENTS[arrangement](exposed)
    with pytest.raises(errors.VaultError) as caught:
        vault.read(SVC, "password")
    assert CANARY not in all_that_an_error_tells(caught.value)
    assert CANARY not in everything_logged.getvalue()


def test_what_a_client_holds_and_returns_does_not_print_it(
    exposed: FakeVault, tmp_path: Path, everything_logged: io.StringIO
) -> None:
    with Vault(exposed.settings(tmp_path)) as vault:
        record = vault.record(SVC)
        value, text = vault.read(SVC, "keytab"), vault.read_text(SVC, "notes")
        printed = [repr(each) for each in (vault, record, value, text, vault.settings, vars(vault), vars(vault._login))]
        printed += [repr(vault._login._grant), repr(vars(vault._transport))]
        assert not [each for each in printed if CANARY in each]
        assert CANARY.encode() in value.reveal()
    assert CANARY not in everything_logged.getvalue()


def test_nothing_of_it_reaches_a_disk(exposed: FakeVault, tmp_path: Path) -> None:
    settings = exposed.settings(tmp_path / "credentials")
    with Vault(settings) as vault:
        vault.read(SVC, "keytab")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"username", "password"}


@pytest.mark.parametrize("message", ["canary-value-4711", 'canary-value-4711"}', "<b>canary-value-4711</b>"])
@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_a_server_that_quotes_secrets_in_its_errors_is_not_quoted(tmp_path: Path, message: str, status: int) -> None:
    from .conftest import StubTransport, response, stub_settings

    body = {"message": message, "errorCode": message, "error": message, "modelState": {"x": message}}

    def answer(request: Any) -> Any:
        if request.method == "POST":
            return response(200, {"access_token": "canary-token", "expires_in": 60})
        return response(status, body)

    vault = Vault(stub_settings(tmp_path), transport=StubTransport(answer), retry=RetryPolicy(attempts=1))
    with pytest.raises(errors.VaultError) as caught:
        vault.record(SVC)
    assert CANARY not in all_that_an_error_tells(caught.value)
