"""TLS as TDS wants it: the handshake wrapped in PRELOGIN packets, and perhaps only the login encrypted."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class TlsMode(Enum):
    """What the server answers to a client's wish.

    ``OFF``: no encryption at all. ``ON``: as the client asks; one that asks for none still has its login encrypted,
    as with SQL Server. ``REQUIRED``: everything is encrypted ("Force Encryption").
    """

    OFF = "off"
    ON = "on"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Tls:
    """The server's encryption: mode, certificate chain and key (PEM files)."""

    mode: TlsMode
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext | None:
        """Return the server's TLS context; None when encryption is off.

        :raises ValueError: the mode needs a certificate and there is none.
        """
        if self.mode is TlsMode.OFF:
            return None
        if self.certificate is None:
            raise ValueError(f"TLS mode {self.mode.value} needs a certificate; datakit_lab.sqlserver.tls makes one")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # TDS 7.4 ends at TLS 1.2: after 1.3's handshake a server still sends tickets, which no client expects here.
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        return context

    def strict_context(self) -> ssl.SSLContext | None:
        """Return the context for clients that begin with TLS (TDS 8.0, ``Encrypt=strict``)."""
        context = self.context()
        if context is not None:
            context.maximum_version = ssl.TLSVersion.TLSv1_3
            context.set_alpn_protocols(["tds/8.0"])
        return context
