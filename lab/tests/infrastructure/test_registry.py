"""The lab's registry: a real one, which keeps what is pushed and wants passwords and TLS if asked to."""

from __future__ import annotations

import base64
import json
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from datakit_lab.certificates import issue_certificate
from datakit_lab.errors import LabUnavailable
from datakit_lab.network import accepts
from datakit_lab.registry import Registry


def ask(url: str, *, login: str | None = None, context: ssl.SSLContext | None = None) -> int:
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=context) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_content_stays_when_it_is_killed_and_goes_when_it_is_closed() -> None:
    with Registry() as server:
        body = urllib.request.Request(f"http://{server.host}/v2/a/blobs/uploads/", method="POST")
        with urllib.request.urlopen(body) as session:
            location = session.headers["Location"]
        digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        put = urllib.request.Request(
            f"{location}&digest={digest}",
            data=b"{}",
            headers={"Content-Type": "application/octet-stream"},
            method="PUT",
        )
        urllib.request.urlopen(put).close()
        port = server.port
        server.kill()
        server.start()
        assert server.port == port
        with urllib.request.urlopen(f"http://{server.host}/v2/a/blobs/{digest}") as response:
            assert json.loads(response.read()) == {}
        folder = server.directory
    assert not folder.exists()
    assert not accepts(port)


def test_a_user_needs_the_password() -> None:
    with Registry(users={"ann": "sesame"}) as server:
        url = f"http://{server.host}/v2/"
        assert [ask(url), ask(url, login="ann:wrong"), ask(url, login="ann:sesame")] == [401, 401, 200]
        assert "sesame" not in "".join(path.read_text() for path in server.directory.iterdir() if path.is_file())


def test_tls_is_that_of_the_authority(tmp_path: Path) -> None:
    certificate = issue_certificate(tmp_path, Registry.names())
    with Registry(certificate=certificate) as server:
        url = f"https://{server.host}/v2/"
        assert ask(url, context=ssl.create_default_context(cafile=str(certificate.authority))) == 200
        with pytest.raises(urllib.error.URLError):
            ask(url)


def test_the_command_runs_one_and_says_how_to_reach_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "datakit_lab", "registry", "--port", "0", "--directory", str(tmp_path / "kept")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        said = running.stdout.readline()
        try:
            port = int(said.strip().rstrip(".").rpartition(":")[2])
            assert said == f"The registry answers at registry.localhost:{port}.\n"
            assert ask(f"http://127.0.0.1:{port}/v2/") == 200
        finally:
            running.send_signal(signal.SIGTERM)
        running.wait(30)
    assert not accepts(port)
    assert (tmp_path / "kept").is_dir()


def test_a_port_that_somebody_has_is_told() -> None:
    with Registry() as first, pytest.raises(LabUnavailable) as raised:
        Registry(port=first.port).start()
    assert "ended at once" in str(raised.value) or "did not become ready" in str(raised.value)
