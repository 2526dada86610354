"""What a registry's refusals mean, in a person's words."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from urllib3.exceptions import (
    HTTPError,
    IncompleteRead,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
    TimeoutError,  # noqa: A004  # urllib3's own
)

from datakit.errors import ConfigurationError, DatakitError, RegistryDenied, RegistryUnavailable
from datakit.release._login import Login

_FULL: Final = ("no space left", "file too large", "disk quota", "insufficient storage")


class NoTlsError(RegistryUnavailable):
    """What answers on the port speaks no TLS."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. Small ones are read whole; ``stream`` is a large one, still to be read."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    stream: urllib3.BaseHTTPResponse | None = None

    def json(self) -> Any:
        """Return what the body says.

        :raises ConfigurationError: it is no JSON: something that is no registry answered.
        """
        try:
            return json.loads(self.body)
        except ValueError:
            raise ConfigurationError(
                "what answered is no registry: the answer is not JSON",
                subject=self.url,
                cause="a proxy or a login page is in between" if b"<html" in self.body[:500].lower() else None,
                fix="check the registry's name, HTTPS_PROXY and NO_PROXY",
            ) from None

    @property
    def said(self) -> str:
        """The registry's own words, as the specification wraps them: codes and messages; empty if there are none."""
        try:
            errors = json.loads(self.body)["errors"]
            parts = [
                f"{each.get('code', '')}: {each.get('message', '')}{_detail(each.get('detail'))}" for each in errors
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            return ""
        return "; ".join(parts)[:500]


def refusal(answer: Answer, host: str, repository: str, *, writes: bool, tries: int = 1) -> DatakitError:
    """Return the error for an answer that is not the one that was hoped for."""
    subject = f"{host}/{repository}" if repository else host
    said = f" ({answer.said})" if answer.said else ""
    match answer.status:
        case 403:
            return RegistryDenied(
                f"the registry does not let this account {'write' if writes else 'read'} here{said}",
                subject=subject,
                cause="the account has no role in that project"
                + (", or the repository takes no new tags" if writes else ""),
                fix="ask who runs the registry for the right to " + ("push" if writes else "pull"),
            )
        case 404:
            return ConfigurationError(
                f"the registry knows no such place{said}",
                subject=subject,
                cause="this registry wants projects or repositories to be created first" if writes else None,
                fix="check the registry's name and path" + (", or have the repository created" if writes else ""),
            )
        case 413:
            return ConfigurationError(
                "what stands before the registry refuses requests of that size",
                subject=subject,
                fix="raise the limit of a request's body in the proxy before the registry",
            )
        case 429:
            return RegistryUnavailable(
                f"the registry takes no more requests for now{said}",
                subject=subject,
                cause="a limit on requests was reached" + (f", also after {tries} tries" if tries > 1 else ""),
                fix="wait as long as it wants, then run it again",
            )
        case status if status >= 500 or status == 408:
            full = any(word in answer.body.decode(errors="replace").lower() for word in _FULL)
            return RegistryUnavailable(
                f"the registry answered {status}{said}" + (f", {tries} times" if tries > 1 else ""),
                subject=subject,
                cause="its disk is full" if full or status == 507 else None,
                fix="free space there, then run it again" if full else "see the registry's log, then run it again",
            )
        case status:
            return ConfigurationError(
                f"the registry refused the request with {status}{said}",
                subject=subject,
                fix="compare what it says with what it is configured to take",
            )


def login_refused(host: str, login: Login | None, what: str, subject: str | None = None) -> RegistryDenied:
    """Return the error for a login that was refused, or is missing."""
    subject = subject or host
    if login is None:
        return RegistryDenied(
            f"the registry wants a login, and there is none for it ({what})",
            subject=subject,
            fix=f"docker login {host}; or --username with --password-file",
        )
    who = "an identity token" if login.is_identity_token else f"the login of {login.user}"
    return RegistryDenied(
        f"the registry refuses {who} from {login.origin} ({what})",
        subject=subject,
        cause="the password has expired or was changed",
        fix=f"log in again: docker login {host}" if login.origin.endswith("config.json") else "correct it there",
    )


def broken(error: HTTPError | OSError, host: str) -> DatakitError:
    """Return the error for a request that got no whole answer."""
    if isinstance(error, ProxyError):
        return RegistryUnavailable(
            "the proxy on the way to the registry does not let the request through",
            subject=host,
            fix="check HTTPS_PROXY; name the registry in NO_PROXY if it is in this network",
        )
    if isinstance(error, SSLError):
        return _tls_failure(error, host)
    if isinstance(error, NameResolutionError):
        return RegistryUnavailable("the registry's name is not known here", subject=host, fix="check name and DNS")
    if isinstance(error, NewConnectionError):
        return RegistryUnavailable("nobody answers there", subject=host, fix="check name and port; is it running?")
    if isinstance(error, TimeoutError):
        return RegistryUnavailable("the registry does not answer in time", subject=host, fix="run it again")
    if isinstance(error, ProtocolError | IncompleteRead | OSError):
        return RegistryUnavailable("the registry broke off in the middle", subject=host, fix="run it again")
    return RegistryUnavailable(f"the request failed: {type(error).__name__}", subject=host, fix="run it again")


def _tls_failure(error: SSLError, host: str) -> DatakitError:
    reason = error.args[0] if error.args else error
    text = str(reason)
    if isinstance(reason, ssl.SSLCertVerificationError):
        if "ostname" in reason.verify_message or "IP address" in reason.verify_message:
            return ConfigurationError(
                f"the registry's certificate is for another name: {reason.verify_message}",
                subject=host,
                fix="use the name in its certificate",
            )
        return ConfigurationError(
            f"the registry's certificate is not trusted: {reason.verify_message}",
            subject=host,
            cause="a private authority signed it, which this machine does not know",
            fix=f"give the authority's: --ca-file, DATAKIT_REGISTRY_CA, or /etc/docker/certs.d/{host}/ca.crt",
        )
    if any(
        words in text.upper().replace(" ", "_") for words in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER")
    ):
        return NoTlsError(
            "what answers there speaks no TLS",
            subject=host,
            cause="it is a registry without TLS, which is only taken on this machine",
            fix="give it a certificate",
        )
    return RegistryUnavailable(f"no TLS connection was made: {text}", subject=host, fix="check what listens there")


def _detail(detail: Any) -> str:
    """Return what a registry adds: docker-registry puts the operating system's words there."""
    words = detail if isinstance(detail, str) else json.dumps(detail) if detail else ""
    return f" {words}" if words else ""
