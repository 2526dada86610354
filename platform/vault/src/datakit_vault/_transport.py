"""The one seam to the network: a request goes in, an answer comes out, and neither prints what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from datakit_vault._secret import Secret


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    :ivar method: ``GET`` or ``POST``.
    :ivar url: whole, with its query; never holds a secret.
    :ivar token: for ``Authorization: Bearer``.
    :ivar body: of a POST, with its type.
    """

    method: str
    url: str
    token: Secret[str] | None = None
    body: Secret[bytes] | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer, read whole.

    :ivar headers: names in lower case.
    :ivar body: at most as long as the settings allow.
    :ivar framed: whether its end is known (``Content-Length`` or chunks), so that a dropped connection is noticed.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: Secret[bytes]
    framed: bool = True

    @property
    def is_html(self) -> bool:
        """Whether a person was meant to read it: a login page, a proxy's notice."""
        return "html" in self.headers.get("content-type", "").lower()


class Transport(Protocol):
    """Sends requests; must be safe to call from several threads."""

    def send(self, request: Request) -> Response:
        """Send a request and return the answer, whatever its status; redirects are answers too.

        :raises TemporaryError: it cannot be reached, or the answer was late or cut off.
        :raises ConfigurationError: its certificate is refused, or the answer is too long.
        """
        ...

    def close(self) -> None:
        """Close idle connections."""
        ...
