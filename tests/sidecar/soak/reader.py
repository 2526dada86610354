"""A reader, as a process of its own: it does over and over what a datakit does before it connects, and connects.

``python -m tests.sidecar.soak.reader JOB`` reads the job, a JSON file, and appends what it finds to ``job["log"]`` as
JSON lines: failures as they happen, spans without a valid ticket as they end, and counts each second.

It needs no KDC: ``job["krb5_conf"]`` names one that nobody listens at.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import gssapi
from datakit.credentials.tickets import describe_ticket
from gssapi.raw.misc import GSSError

from ..stage import number_of_secret

_PAUSE_SECONDS: Final = 0.02
_ABOUT_TO_END: Final = 0.3
"""Seconds of life with which a ticket may end between the look at it and its use."""


@dataclass(slots=True)
class Reader:
    """:ivar unserved: since when a cache has held no valid ticket."""

    job: dict[str, Any]
    log: IO[str]
    acceptor: gssapi.Credentials
    reads: int = 0
    opened: int = 0
    secret_number: int = 0
    said_at: float = 0.0
    unserved: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Read until killed."""
        while True:
            for cache in self.job["caches"]:
                self._try(f"cache {cache}", lambda cache=cache: self._read_cache(cache))
            self._try("secret", self._read_secret)
            if time.time() > self.said_at + 1:
                self.said_at = time.time()
                self._say(counts={"reads": self.reads, "opened": self.opened}, unserved=self.unserved)
            time.sleep(_PAUSE_SECONDS)

    def _try(self, what: str, read: Any) -> None:
        self.reads += 1
        try:
            read()
        except Exception as error:  # noqa: BLE001 - whatever it is, a reader failed
            self._say(failure=f"{what}: {type(error).__name__}: {error}")

    def _read_secret(self) -> None:
        number = number_of_secret(Path(self.job["secret"]).read_text(encoding="utf-8"))
        if number < self.secret_number:
            raise ValueError(f"secret {number} came after {self.secret_number}")
        self.secret_number = number

    def _read_cache(self, cache: str) -> None:
        found = describe_ticket(f"FILE:{cache}")
        assert found is not None
        now = time.time()
        for service in self.job["services"]:
            end = max((each.ends.timestamp() for each in found.tickets if each.name == service), default=0.0)
            self._note(f"{cache} {service}", served=end > now, now=now)
            if end > now + _ABOUT_TO_END:
                try:
                    self._open(cache, service)
                except GSSError:
                    if time.time() < end:  # else this process had to wait for a processor
                        raise

    def _note(self, what: str, *, served: bool, now: float) -> None:
        if not served:
            self.unserved.setdefault(what, now)
        elif (begin := self.unserved.pop(what, None)) is not None:
            self._say(span=(begin, now))

    def _open(self, cache: str, service: str) -> None:
        """Connect as a driver does, and accept it as the server does, with the service's own key."""
        name = gssapi.Name(f"{service}@{self.job['realm']}".encode(), gssapi.NameType.kerberos_principal)
        credentials = gssapi.Credentials(usage="initiate", store={b"ccache": f"FILE:{cache}".encode()})
        token = gssapi.SecurityContext(name=name, creds=credentials, usage="initiate").step()
        server = gssapi.SecurityContext(creds=self.acceptor, usage="accept")
        server.step(token)
        self.opened += 1

    def _say(self, **what: Any) -> None:
        self.log.write(json.dumps({"at": time.time(), **what}) + "\n")
        self.log.flush()


def main() -> None:
    """Read the job and begin."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.environ["KRB5_CONFIG"] = job["krb5_conf"]
    os.environ["KRB5RCACHENAME"] = "none:"
    acceptor = gssapi.Credentials(usage="accept", store={b"keytab": f"FILE:{job['keytab']}".encode()})
    with Path(job["log"]).open("a", encoding="utf-8") as log:
        Reader(job, log, acceptor).run()


if __name__ == "__main__":
    main()
