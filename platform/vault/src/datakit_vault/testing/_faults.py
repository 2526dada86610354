"""How the double misbehaves: one fault for each way in which a vault, or the network before it, lets clients down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FAULTS: Final[dict[str, str]] = {
    "denied": "400 API_AccessDenied, as for a secret that the account may not read",
    "not-found": "404",
    "expired-token": "401 once; the token is worthless from then on",
    "throttled": "429, with Retry-After if retry_after is set",
    "unavailable": "503, with Retry-After if retry_after is set",
    "html": "200 with an HTML page, as from a login page or a proxy",
    "redirect": "302 to a login page",
    "garbage": "200 with bytes that are no JSON",
    "truncated": "the connection breaks in the middle of the answer",
    "cut-json": "200 with half of the answer, and a Content-Length that says so",
    "slow": "the answer comes a byte at a time, one every `seconds`",
    "silent": "no answer for `seconds`",
    "reset": "the connection is reset instead of an answer",
    "large": "an answer of 100 MB",
    "large-chunked": "an answer of 100 MB that does not say how long it is",
}
"""Every fault by name, and what it does."""


@dataclass(slots=True)
class Fault:
    """A fault that waits for requests.

    :ivar name: one of :data:`FAULTS`.
    :ivar times: how many requests it spoils; None spoils all until it is cleared.
    :ivar matching: only requests whose path holds this text; ``oauth2`` for logins.
    :ivar seconds: for ``slow`` and ``silent``.
    :ivar retry_after: what ``Retry-After`` says: seconds, or a date.
    """

    name: str
    times: int | None = 1
    matching: str = "/api/"
    seconds: float = 0.2
    retry_after: float | str | None = None

    def __post_init__(self) -> None:
        if self.name not in FAULTS:
            raise ValueError(f"{self.name!r} is no fault; choose one of: {', '.join(FAULTS)}")

    def applies(self, path: str) -> bool:
        """Whether it spoils a request of this path."""
        return self.times != 0 and self.matching in path


@dataclass(frozen=True, slots=True)
class Answer:
    """What the double answers, before a fault spoils it."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def page(title: str) -> Answer:
    """Return an HTML page with status 200."""
    html = f"<!DOCTYPE html><html><head><title>{title}</title></head><body><form>…</form></body></html>"
    return Answer(200, html.encode(), "text/html; charset=utf-8")


def _waiting(fault: Fault) -> tuple[tuple[str, str], ...]:
    return () if fault.retry_after is None else (("Retry-After", str(fault.retry_after)),)


INSTEAD: Final[dict[str, Callable[[Fault], Answer]]] = {
    "denied": lambda _: Answer(400, b'{"errorCode": "API_AccessDenied", "message": "Access Denied"}'),
    "not-found": lambda _: Answer(404, b'{"message": "Not found"}'),
    "expired-token": lambda _: Answer(401, b'{"message": "Authentication failed or expired token."}'),
    "throttled": lambda fault: Answer(429, b'{"message": "Too many requests"}', headers=_waiting(fault)),
    "unavailable": lambda fault: Answer(503, b"Service Unavailable", "text/plain", _waiting(fault)),
    "html": lambda _: page("Sign in"),
    "redirect": lambda _: Answer(302, b"", "text/html", (("Location", "/SecretServer/Login.aspx"),)),
    "garbage": lambda _: Answer(200, b'{"items": [\xff\xfe, NaN'),
}
"""Faults that answer something else."""
