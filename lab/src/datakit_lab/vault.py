"""The double of the vault as the lab runs it: a process of its own, HTTPS, and commands over a control socket.

Its secrets live in the memory of that process only; they come over the socket, which lets in this user only.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from datakit_lab.control import Handler, call
from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.network import holder_of, port_is_free
from datakit_lab.processes import ChildProcess

if TYPE_CHECKING:
    from datakit_vault.testing import FakeVault

    from datakit_lab.certificates import ServerCertificate

Kind = Literal["secret-server", "platform"]


def start_vault(
    *,
    port: int,
    certificates: Path,
    credentials: Path,
    control: Path,
    log: Path,
    kind: Kind = "secret-server",
) -> ChildProcess:
    """Start the double in a process of its own; ``control`` exists once it answers.

    :param certificates: the folder of :func:`datakit_lab.certificates.issue_certificate`.
    :param credentials: a folder into which it writes the account's credential, for this user only.
    """
    options = {
        "--port": port,
        "--kind": kind,
        "--certificates": certificates,
        "--credentials": credentials,
        "--control": control,
    }
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "datakit_lab", "vault", *words]
    return ChildProcess("the vault double", command, log=log, env=os.environ)


@contextmanager
def run_vault(
    *,
    port: int = 0,
    kind: Kind = "secret-server",
    certificate: ServerCertificate | None = None,
    credentials: Path,
) -> Iterator[FakeVault]:
    """Within, a double answers on the loopback ``port`` (0 for a free one), by the name of ``localhost``.

    :param certificate: switches TLS on.
    :param credentials: where it writes the account's credential.
    :raises LabError: the port is taken.
    """
    from datakit_vault.testing import FakeVault

    if port and not port_is_free(port):
        raise LabError(f"port {port} is taken by {holder_of(port)}", fix="end that, or choose another: --port")
    fake = FakeVault(
        kind=kind,
        host="localhost",
        port=port,
        certificate=None if certificate is None else certificate.certificate,
        key=None if certificate is None else certificate.key,
    )
    fake.credentials_folder(credentials)
    with fake:
        yield fake


def handlers(fake: FakeVault) -> dict[str, Handler]:
    """Return what the control socket understands; :class:`VaultControl` is the other side."""

    def add(arguments: dict[str, Any]) -> dict[str, Any]:
        return {"id": fake.add_secret(arguments["secret"], _values(arguments["fields"]), **arguments["flags"])}

    def put(arguments: dict[str, Any]) -> dict[str, Any]:
        give = fake.rotate if arguments["rotate"] else fake.set_field
        for slug, value in _values(arguments["fields"]).items():
            give(arguments["secret"], slug, value)
        return {}

    def change(arguments: dict[str, Any]) -> dict[str, Any]:
        fake.change(arguments["secret"], **arguments["flags"])
        return {}

    def remove(arguments: dict[str, Any]) -> dict[str, Any]:
        fake.remove(arguments["secret"])
        return {}

    def fault(arguments: dict[str, Any]) -> dict[str, Any]:
        fake.fault(**arguments)
        return {}

    def clear(_: dict[str, Any]) -> dict[str, Any]:
        fake.clear_faults()
        fake.start()
        return {}

    def stop(_: dict[str, Any]) -> dict[str, Any]:
        fake.stop()
        return {}

    def requests(_: dict[str, Any]) -> dict[str, Any]:
        return {"requests": [asdict(request) for request in fake.requests]}

    commands = {
        "add": add,
        "put": put,
        "change": change,
        "remove": remove,
        "fault": fault,
        "clear": clear,
        "stop": stop,
        "requests": requests,
    }
    return {name: _refusing(handler) for name, handler in commands.items()}


def _refusing(handler: Handler) -> Handler:
    """Turn what the double refuses into a message for a person."""

    def handle(arguments: dict[str, Any]) -> dict[str, Any]:
        from datakit_vault.errors import VaultError

        try:
            return handler(arguments)
        except VaultError as error:
            raise LabError(error.what, fix=error.fix) from None
        except (KeyError, ValueError) as error:
            raise LabError(str(error.args[0])) from None

    return handle


class VaultControl:
    """Tells a running double of the vault what to do.

    Its methods raise :class:`LabUnavailable` if it does not answer, and :class:`LabError` if it refuses.

    :param path: its control socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add_secret(self, path: str, fields: Mapping[str, str | bytes], **flags: Any) -> int:
        """Add a secret and return its id; bytes are files. Flags: see :meth:`FakeVault.change`."""
        return int(self._call("add", secret=path, fields=_portable(fields), flags=flags)["id"])

    def rotate(self, secret: str | int, field: str, value: str | bytes) -> None:
        """Give a field another value, as the vault's own password change does."""
        self._call("put", secret=secret, fields=_portable({field: value}), rotate=True)

    def set_field(self, secret: str | int, field: str, value: str | bytes) -> None:
        """Give a field another value, as a person who edits it does."""
        self._call("put", secret=secret, fields=_portable({field: value}), rotate=False)

    def change(self, secret: str | int, **flags: Any) -> None:
        """Set flags of a secret; see :meth:`FakeVault.change`."""
        self._call("change", secret=secret, flags=flags)

    def remove(self, secret: str | int) -> None:
        """Delete a secret."""
        self._call("remove", secret=secret)

    def fault(self, name: str, **options: Any) -> None:
        """Spoil coming requests; see :meth:`FakeVault.fault`."""
        self._call("fault", name=name, **options)

    def stop(self) -> None:
        """Refuse connections until :meth:`clear`."""
        self._call("stop")

    def clear(self) -> None:
        """End every fault, and accept connections again."""
        self._call("clear")

    def requests(self) -> list[dict[str, Any]]:
        """Return every request so far, as :class:`datakit_vault.testing.LoggedRequest` holds them."""
        found: list[dict[str, Any]] = self._call("requests")["requests"]
        return found

    def _call(self, command: str, **arguments: Any) -> dict[str, Any]:
        try:
            return call(self._path, command, **arguments)
        except LabUnavailable:
            problem = LabUnavailable(f"the vault double does not answer at {self._path}", fix="datakit-lab status")
        raise problem


def _portable(fields: Mapping[str, str | bytes]) -> dict[str, list[str]]:
    """Return fields as JSON can carry them: ``[kind, value]``."""
    return {
        slug: ["text", value] if isinstance(value, str) else ["file", base64.b64encode(value).decode()]
        for slug, value in fields.items()
    }


def _values(fields: Mapping[str, list[str]]) -> dict[str, str | bytes]:
    return {slug: value if kind == "text" else base64.b64decode(value) for slug, (kind, value) in fields.items()}
