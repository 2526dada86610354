"""The command, as a person and a script use it: in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from datakit_vault.testing import FakeVault

from .conftest import KEYTAB

CANARY = "canary\x1b[31m-4711\nsecond line ä"


class Command:
    """``datakit-vault`` with the double in its environment."""

    def __init__(self, fake: FakeVault, folder: Path) -> None:
        credentials = fake.credentials_folder(folder / "credentials")
        self.environment = {
            **os.environ,
            "COLUMNS": "160",
            "DATAKIT_VAULT_KIND": fake.kind,
            "DATAKIT_VAULT_URL": fake.url,
            "DATAKIT_VAULT_CREDENTIALS": str(credentials),
            "DATAKIT_VAULT_ALLOW_HTTP": "1",
        }

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "datakit_vault", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "datakit_vault", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def on_a_terminal(self, *arguments: str) -> tuple[int, str]:
        """Run with stdout as a terminal; return exit code and what it showed."""
        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "datakit_vault", *arguments],
            stdout=terminal,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self.environment,
        )
        os.close(terminal)
        shown = b""
        while True:
            try:
                data = os.read(controller, 65536)
            except OSError:  # Linux's way to say that the other side is closed
                break
            if not data:
                break
            shown += data
        os.close(controller)
        return process.wait(), shown.decode().replace("\r\n", "\n")


@pytest.fixture
def command(fake: FakeVault, tmp_path: Path) -> Command:
    fake.set_field("/Kerberos/svc", "password", CANARY)
    return Command(fake, tmp_path)


def test_get_lists_fields_and_no_value(command: Command) -> None:
    for arguments in ((), ("--json",)):
        result = command("get", "/Kerberos/svc", *arguments)
        assert (0, "") == (result.returncode, result.stderr)
        assert "keytab.bin" in result.stdout
        assert "canary" not in result.stdout
    assert [field["slug"] for field in json.loads(result.stdout)["fields"]] == ["username", "password", "keytab"]


def test_get_reads_a_field_without_showing_it(fake: FakeVault, command: Command) -> None:
    result = command("get", "1000", "password")
    assert (0, True) == (result.returncode, "password can be read: it is a text" in result.stdout)
    assert "canary" not in result.stdout + result.stderr
    assert fake.requests[-1].path.endswith("/fields/password")
    assert json.loads(command("get", "1000", "keytab", "--json").stdout)["read"] == "keytab"


def test_a_value_is_shown_on_a_terminal_without_commanding_it(command: Command) -> None:
    code, shown = command.on_a_terminal("get", "1000", "password", "--reveal")
    assert (0, "canary\\x1b[31m-4711\nsecond line ä\n") == (code, shown)


def test_of_a_binary_file_the_terminal_shows_what_identifies_it(command: Command) -> None:
    code, shown = command.on_a_terminal("get", "1000", "keytab", "--reveal")
    assert (0, f"{len(KEYTAB)} bytes, SHA-256 {sha256(KEYTAB).hexdigest()}\n") == (code, shown)


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_value_goes_into_no_pipe_and_no_json_and_is_not_even_read(
    fake: FakeVault, command: Command, extra: tuple[str, ...]
) -> None:
    result = command("get", "1000", "password", "--reveal", *extra)
    assert (78, "") == (result.returncode, result.stdout)
    assert "on a terminal only" in result.stderr
    assert fake.requests == ()
    if extra:
        assert command.on_a_terminal("get", "1000", "password", "--reveal", *extra)[0] == 78


def test_reveal_wants_one_field(command: Command) -> None:
    result = command("get", "1000", "--reveal")
    assert (78, True) == (result.returncode, "name its field" in result.stderr)


@pytest.mark.parametrize(
    ("arrangement", "code", "says"),
    [
        ({"denied": True}, 77, "may not read it"),
        ({"active": False}, 78, "deactivated"),
        ({"checkout": True}, 78, "must be checked out"),
        ({"checked_out_by_other": True}, 75, "another user has checked it out"),
    ],
)
def test_errors_have_cause_next_step_and_exit_code(
    fake: FakeVault, command: Command, arrangement: dict[str, bool], code: int, says: str
) -> None:
    fake.change("/Kerberos/svc", **arrangement)
    result = command("get", "/Kerberos/svc", "password")
    assert (code, "") == (result.returncode, result.stdout)
    assert re.search(rf"^error secret /Kerberos/svc at 127\.0\.0\.1:\d+: .*{says}", result.stderr)
    assert re.search(r"^  cause: .+\n  next:  .+", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    machine = json.loads(command("get", "/Kerberos/svc", "password", "--json").stderr)["error"]
    assert (code, "/Kerberos/svc") == (machine["exit_code"], machine["reference"])


@pytest.mark.parametrize(
    "arguments", [("get",), ("get", "1", "--wat"), ("fetch",), ("get", "svc"), ("watch", "1", "--every", "x")]
)
def test_a_mistake_on_the_command_line_is_one_error_with_the_way_to_help(
    command: Command, arguments: tuple[str, ...]
) -> None:
    result = command(*arguments)
    assert (78, "") == (result.returncode, result.stdout)
    assert result.stderr.startswith("error ")
    assert "  next:  " in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_not_set_is_listed_with_every_way_to_set_it(command: Command) -> None:
    for name in ("KIND", "URL", "CREDENTIALS"):
        del command.environment[f"DATAKIT_VAULT_{name}"]
    result = command("check", "--kind", "platform")
    assert (78, True) == (result.returncode, "error url, credentials are not set" in result.stderr)
    assert "--url or DATAKIT_VAULT_URL; --credentials or DATAKIT_VAULT_CREDENTIALS" in result.stderr


def test_check_says_that_all_is_well(command: Command) -> None:
    result = command("check", "/Kerberos/svc")
    assert (0, "") == (result.returncode, result.stderr)
    for line in (
        "✓ login: works at ",
        "✓ secret: svc, id 1000, active",
        "✓ fields: username (text), password (password), keytab (file)",
        "✓ rights: the account has View, which is enough and no more",
        "✓ rotation: reading it changes nothing",
        "0 bad, 0 doubtful, 8 looked at",
    ):
        assert line in result.stdout


def test_check_reads_no_value_and_checks_nothing_out(fake: FakeVault, command: Command) -> None:
    fake.change("/Kerberos/svc", checkout=True)
    command("check", "/Kerberos/svc", "--checkout")
    assert not fake.is_checked_out("/Kerberos/svc")
    assert not [request for request in fake.requests if "/fields/" in request.path]


@pytest.mark.parametrize(
    ("arrangement", "code", "says"),
    [
        ({"rotates_on_check_in": True}, 78, "✗ rotation: its password changes when it is checked in"),
        ({"checkout": True}, 78, "✗ checkout: needed, and not allowed here"),
        ({"role": "Owner"}, 0, "! rights: the account has Owner; View is enough"),
        ({"denied": True}, 77, "✗ secret: secret /Kerberos/svc at"),
    ],
)
def test_check_names_what_is_wrong(
    fake: FakeVault, command: Command, arrangement: dict[str, object], code: int, says: str
) -> None:
    fake.change("/Kerberos/svc", **arrangement)
    result = command("check", "/Kerberos/svc")
    assert code == result.returncode
    assert says in result.stdout
    machine = json.loads(command("check", "/Kerberos/svc", "--json").stdout)
    assert machine["ok"] == (code == 0)


def test_check_names_a_credential_that_everybody_may_read(command: Command, tmp_path: Path) -> None:
    (tmp_path / "credentials" / "password").chmod(0o644)
    result = command("check")
    assert (0, True) == (result.returncode, "! credential: every user may read password" in result.stdout)


def test_check_without_a_working_login_says_so(fake: FakeVault, command: Command) -> None:
    fake.change_password()
    result = command("check", "1000")
    assert (77, True) == (result.returncode, "✗ login: " in result.stdout)
    with fake.down():
        assert command("check").returncode == 75


@pytest.fixture
def watching(fake: FakeVault, command: Command) -> Iterator[subprocess.Popen[str]]:
    process = command.start("watch", "/Kerberos/svc", "--every", "1s", "--json")
    yield process
    process.kill()
    process.communicate()


def next_event(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    event: dict[str, object] = json.loads(process.stdout.readline())
    return event


def test_watch_prints_a_line_for_every_change_and_ends_quietly(
    fake: FakeVault, watching: subprocess.Popen[str]
) -> None:
    assert next_event(watching)["event"] == "watching"
    fake.rotate("/Kerberos/svc", "password", "another")
    event = next_event(watching)
    assert (event["event"], event["fields"]) == ("changed", ["password"])
    assert event["last_change"]
    fake.set_field("/Kerberos/svc", "keytab", KEYTAB[::-1])
    assert next_event(watching)["fields"] == ["keytab"]
    watching.send_signal(signal.SIGTERM)
    out, err = watching.communicate(timeout=30)
    assert (0, "", "") == (watching.returncode, out, err)


def test_watch_tells_an_outage_once_and_goes_on(fake: FakeVault, watching: subprocess.Popen[str]) -> None:
    next_event(watching)
    assert watching.stderr is not None
    with fake.down():
        outage = watching.stderr.readline()
        fake.rotate("/Kerberos/svc", "password", "another")
    assert next_event(watching)["event"] == "reachable again"
    assert next_event(watching)["event"] == "changed"
    fake.change("/Kerberos/svc", denied=True)
    _, err = watching.communicate(timeout=60)
    assert watching.returncode == 77
    told = [json.loads(line)["error"]["type"] for line in (outage, *err.splitlines())]
    assert told == ["Unreachable", "SecretDenied"]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_that_waits(fake: FakeVault, command: Command, sent: signal.Signals) -> None:
    fake.fault("silent", seconds=60, times=None)
    process = command.start("get", "/Kerberos/svc")
    while not fake.logins:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert (75, "") == (process.returncode, out)
    assert f"stopped by {sent.name}" in err
    assert "Traceback" not in err


def test_without_the_extra_the_command_says_what_to_install() -> None:
    program = textwrap.dedent("""
        import sys
        sys.modules["typer"] = None
        from datakit_vault.cli import main
        main(["check"])
    """)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (78, "") == (result.returncode, result.stdout)
    assert result.stderr == "error typer is not installed\n  next:  pip install 'datakit-vault[cli]'\n"


def test_the_client_imports_nothing_for_people_and_http_only_when_it_is_used() -> None:
    program = "import sys, datakit_vault; print(sorted({m.partition('.')[0] for m in sys.modules} & {%s}))"
    heavy = "'typer', 'rich', 'pydantic', 'urllib3', 'msgspec', 'click'"
    result = subprocess.run([sys.executable, "-c", program % heavy], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_a_bug_is_one_line_and_a_foreign_message_is_kept_back(command: Command, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import datakit_vault._vault as v\ndef broken(*a, **k): raise KeyError('s3cret')\nv.Vault.record = broken\n"
    )
    command.environment["PYTHONPATH"] = str(tmp_path)
    result = command("get", "1000")
    assert (70, "") == (result.returncode, result.stdout)
    assert "unexpected KeyError; this is a bug" in result.stderr
    assert "s3cret" not in result.stderr
    command.environment["DATAKIT_DEBUG"] = "1"
    assert "Traceback" in command("get", "1000").stderr


def test_the_console_script_and_the_module_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("datakit-vault")
    outputs = {
        subprocess.run([*words, "--version"], capture_output=True, text=True, check=True).stdout
        for words in ([str(script)], [sys.executable, "-m", "datakit_vault"])
    }
    assert 1 == len(outputs)
