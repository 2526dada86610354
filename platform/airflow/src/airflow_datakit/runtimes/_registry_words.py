"""How registries and engines say what is wrong: the same words reach us through Docker and through Kubernetes."""

from __future__ import annotations

from typing import Final

from datakit.errors import ConfigurationError

_DENIED: Final = ("unauthorized", "denied", "authentication", "forbidden", "no basic auth")
_MISSING: Final = ("manifest unknown", "not found", "no such image", "name unknown", "invalid reference format")
_OF_ANOTHER: Final = ("is valid for", "is not valid for any names", "doesn't contain any ip sans", "expired or is not")


def is_denied(text: str) -> bool:
    """Whether the registry wants a login, or another one."""
    return any(word in text.lower() for word in _DENIED)


def is_missing(text: str) -> bool:
    """Whether the registry has no such image."""
    return any(word in text.lower() for word in _MISSING)


def is_untrusted(text: str) -> bool:
    """Whether the registry's certificate was refused, for whatever reason."""
    return "x509" in text.lower() or "certificate" in text.lower()


def certificate_of_another(text: str, subject: str) -> ConfigurationError | None:
    """Return the error of a certificate that is trusted or not, but in any case is another name's or another day's."""
    if not any(word in text.lower() for word in _OF_ANOTHER):
        return None
    return ConfigurationError(
        f"the registry's certificate is not one for this name and day: {text}",
        subject=subject,
        cause="the environment calls the registry otherwise than its certificate does, or the certificate has expired",
        fix="compare registry in the environment with what the message says of the certificate",
    )
