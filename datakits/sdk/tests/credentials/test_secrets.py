"""Secret files: read at each use, never shown; a rotated password costs no restart."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from datakit.credentials import Login, Secret, read_secret
from datakit.errors import CredentialsNotReady, LoginRefused, SecretUnavailable
from datakit_lab.testing import LabSecrets

REFERENCE = "finance-db/password"


class Server:
    """Lets in whoever has its password, and keeps what it was tried with."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.tried: list[str] = []

    def connect(self, password: Secret[str]) -> str:
        self.tried.append(password.reveal())
        if password.reveal() != self.password:
            raise LoginRefused("wrong password", subject="db.lab.test")
        return f"connection {len(self.tried)}"


@pytest.fixture
def login(lab_secrets: LabSecrets) -> Login:
    lab_secrets.publish(REFERENCE, "first")
    return Login(REFERENCE)


def until(condition: object, what: str) -> None:
    assert callable(condition)
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail(f"never: {what}")


def test_a_secret_is_read_anew_each_time_and_without_its_last_newline(lab_secrets: LabSecrets) -> None:
    lab_secrets.publish(REFERENCE, "first\n")
    assert "first" == read_secret(REFERENCE).reveal()
    lab_secrets.publish(REFERENCE, "second\n\n")
    assert "second\n" == read_secret(REFERENCE).reveal()


def test_a_secret_shows_itself_nowhere() -> None:
    secret = Secret("hunter2")
    for text in (repr(secret), str(secret), f"{secret}", f"{secret:>20}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert "hunter2" not in text
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled or copied"):
            act(secret)
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "is not there"), (b"", "is empty"), (b"\n", "is empty"), (b"\x05\x02\xff\xfe", "is no UTF-8 text")],
)
def test_a_secret_that_cannot_be_used_is_named_without_its_bytes(
    lab_secrets: LabSecrets, content: bytes | None, says: str
) -> None:
    if content is not None:
        lab_secrets.publish(REFERENCE, "x").write_bytes(content)
    with pytest.raises(SecretUnavailable, match=says) as caught:
        read_secret(REFERENCE)
    assert str(lab_secrets.folder / REFERENCE) in str(caught.value)
    assert "xff" not in repr(caught.value) + repr(caught.value.__cause__)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_secret_of_another_user_names_uid_and_folder(tmp_path: Path) -> None:
    folder = Path("/tmp", f"datakit-{os.getpid()}-{tmp_path.name}")
    (folder / "finance-db").mkdir(mode=0o755, parents=True)
    path = folder / REFERENCE
    path.write_text("hunter2")
    path.chmod(0o600)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.environ["DATAKIT_SECRETS"] = str(folder)
        try:
            read_secret(REFERENCE)
        except SecretUnavailable as error:
            os._exit(0 if "uid 65534" in str(error) and str(path) in str(error) else 3)
        os._exit(4)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    path.unlink()
    path.parent.rmdir()
    folder.rmdir()
    assert 0 == status


def test_each_connection_takes_the_password_of_that_moment(lab_secrets: LabSecrets, login: Login) -> None:
    server = Server("first")
    login.connect(server.connect)
    server.password = "second"
    lab_secrets.publish(REFERENCE, "second")
    login.connect(server.connect)
    assert ["first", "second"] == server.tried


def test_a_password_that_is_rotated_between_reading_and_connecting_is_read_again(
    lab_secrets: LabSecrets, login: Login
) -> None:
    server = Server("second")

    def rotated_meanwhile(password: Secret[str]) -> str:
        lab_secrets.publish(REFERENCE, "second")
        return server.connect(password)

    assert "connection 2" == login.connect(rotated_meanwhile)
    assert ["first", "second"] == server.tried


def test_a_wrong_password_is_tried_once_and_stays_a_refusal(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "100ms")
    server = Server("another")
    with pytest.raises(LoginRefused, match="wrong password"):
        login.connect(server.connect)
    assert ["first"] == server.tried


@pytest.mark.parametrize("has_worked", [True, False])
def test_after_a_refusal_another_password_is_waited_for(
    has_worked: bool,
    lab_secrets: LabSecrets,
    login: Login,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "1h")
    caplog.set_level(logging.INFO, "datakit.credentials")
    server = Server("first")
    if has_worked:
        login.connect(server.connect)
        server.tried.clear()
    server.password = "second"
    with ThreadPoolExecutor() as pool:
        run = pool.submit(login.connect, server.connect)
        until(lambda: "wrong password; waiting for the sidecar" in caplog.text, "told")
        lab_secrets.publish(REFERENCE, "second")
        assert "connection 2" == run.result(60)
    assert ["first", "second"] == server.tried
    assert "second" not in caplog.text


def test_a_password_that_worked_and_has_no_successor_yet_is_temporary(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "100ms")
    server = Server("first")
    login.connect(server.connect)
    server.password = "second"
    with pytest.raises(CredentialsNotReady, match=r"db\.lab\.test.*wrong password"):
        login.connect(server.connect)
    assert ["first", "first"] == server.tried


def test_a_secret_that_is_not_published_yet_is_waited_for(
    lab_secrets: LabSecrets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "1h")
    server = Server("first")
    with ThreadPoolExecutor() as pool:
        run = pool.submit(Login(REFERENCE).connect, server.connect)
        until(lambda: "is not there; waiting for the sidecar" in caplog.text, "told")
        lab_secrets.publish(REFERENCE, "first")
        run.result(60)
    assert ["first"] == server.tried


def test_a_wait_for_a_secret_ends_when_it_is_told_to(
    lab_secrets: LabSecrets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "1h")
    stop = threading.Event()
    with ThreadPoolExecutor() as pool:
        run = pool.submit(Login(REFERENCE).connect, Server("x").connect, stop=stop)
        until(lambda: "waiting for the sidecar" in caplog.text, "told")
        stop.set()
        assert isinstance(run.exception(60), CredentialsNotReady)


def test_where_no_sidecar_publishes_a_missing_secret_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAKIT_SECRETS", raising=False)
    monkeypatch.setattr("datakit.credentials.secrets._DEFAULT_FOLDER", str(tmp_path / "nowhere" / "secrets"))
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "1h")
    with pytest.raises(SecretUnavailable, match="is not there"):
        Login(REFERENCE).connect(Server("x").connect)
