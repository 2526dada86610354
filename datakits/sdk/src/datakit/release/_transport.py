"""HTTP to one registry: TLS, logins, bearer tokens, retries; and what its answers mean for a person.

Why not a client library: the one that is kept well, ``oras`` (0.2.43), compares nothing that it fetched with its
digest, lists no attachment where a registry lacks the referrers API, bounds no request in time, and puts every failure
into a ``ValueError``. The protocol is small (https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md).
"""

from __future__ import annotations

import base64
import ipaddress
import re
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError

from datakit.credentials.secrets import Secret
from datakit.errors import ConfigurationError, DatakitError, RegistryUnavailable
from datakit.release._answers import Answer, NoTlsError, broken, login_refused, refusal
from datakit.release._login import Login

Body = bytes | Callable[[], Iterable[bytes]]
"""Bytes, or what makes a fresh stream of them for every try."""

_TRIES: Final = 4
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 20.0
_TIMEOUT: Final = urllib3.Timeout(connect=10, read=60)
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS: Final = 4
_LARGEST_ERROR: Final = 64 * 1024
_LOGIN_LIFE: Final = 60.0
"""Seconds after which a password is read again, although nobody refused it: a credential helper is slow."""
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')


class Transport:
    """Requests to one registry; thread-safe.

    :param host: ``HOST[:PORT]``, without a scheme. Plain HTTP is spoken to this machine only, where TLS is not.
    :param find_login: called at the first refusal, and again after a password may have changed.
    :param ca_file: the authority that signed its certificate; else that of ``/etc/docker/certs.d/HOST``, else the
        machine's own.
    :param pause: sleeps between tries.
    """

    def __init__(
        self,
        host: str,
        *,
        find_login: Callable[[], Login | None],
        ca_file: Path | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.host = host
        self._find_login = find_login
        self._pause = pause
        self._tokens: dict[str, tuple[Secret[str], float]] = {}
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._scheme: str | None = None
        self._basic: tuple[Secret[str] | None, float] = (None, 0.0)
        self._context = _tls(host, ca_file)
        self._pools: dict[tuple[str | None, str | None], urllib3.PoolManager] = {}

    def send(
        self,
        method: str,
        path: str,
        *,
        repository: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        good: Iterable[int] = (200,),
        stream: bool = False,
        largest: int = 8 * 1024 * 1024,
        again: bool = True,
        also_from: str | None = None,
    ) -> Answer:
        """Send a request, log in where asked to, follow redirects, and try again what may pass by itself.

        :param path: below ``/v2/``, or a whole URL that the registry gave.
        :param repository: what it is about; names the bearer token's scope, and the subject of errors.
        :param good: statuses that are answers; any other is an error.
        :param largest: bytes of an answer that is read whole.
        :param again: whether a failure may be tried again here.
        :param also_from: another repository that it reads.
        :raises RegistryUnavailable: it cannot be reached, is overloaded, or broke off, at every try.
        :raises RegistryDenied: the login or the account is refused.
        :raises ConfigurationError: its certificate is refused, or it refuses the request.
        """
        accepted = frozenset(good)
        scope = _scope(method, repository, also_from)
        tries = _TRIES if again else 1
        for number in range(1, tries + 1):
            last = number == tries
            try:
                answer = self._authorised(method, path, scope, headers or {}, body, stream=stream, largest=largest)
            except RegistryUnavailable:
                if last:
                    raise
                self._pause(_FIRST_PAUSE * 4 ** (number - 1))
                continue
            if answer.status in accepted:
                return answer
            if answer.status not in _RETRIED or last:
                raise self._refusal(answer, repository, writes=method not in ("GET", "HEAD"), tries=number)
            self._pause(_wanted_pause(answer.headers, _FIRST_PAUSE * 4 ** (number - 1)))
        raise AssertionError("the last try returns or raises")

    def chunks(self, answer: Answer, size: int) -> Iterator[bytes]:
        """Yield the pieces of a streamed answer.

        :raises RegistryUnavailable: it broke off before its end.
        """
        if answer.stream is None:
            raise TypeError("the answer was read whole")
        try:
            with answer.stream as response:
                yield from response.stream(size)
        except (HTTPError, OSError) as error:
            raise broken(error, self.host) from None

    def close(self) -> None:
        """Close idle connections."""
        for pool in self._pools.values():
            pool.clear()

    # One try

    def _authorised(
        self,
        method: str,
        path: str,
        scope: tuple[str, ...],
        headers: Mapping[str, str],
        body: Body | None,
        *,
        stream: bool,
        largest: int,
    ) -> Answer:
        url = self._own(path) if "://" in path else f"{self._base()}/v2/{path}"
        authorization = self._authorization(scope)
        answer = self._follow(method, url, headers, body, authorization, stream=stream, largest=largest)
        if answer.status != 401:
            return answer
        challenge = answer.headers.get("www-authenticate", "")
        authorization = self._answer_challenge(challenge, scope, had=authorization)
        if authorization is None:
            return answer
        return self._follow(method, url, headers, body, authorization, stream=stream, largest=largest)

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        authorization: Secret[str] | None,
        *,
        stream: bool,
        largest: int,
    ) -> Answer:
        for _ in range(_REDIRECTS):
            own = urlsplit(url).netloc == self.host
            sent = dict(headers)
            if authorization is not None and own:  # nobody else gets the registry's login
                sent["Authorization"] = authorization.reveal()
            answer = self._once(method, url, sent, body, stream=stream, largest=largest)
            if answer.status not in (301, 302, 303, 307, 308) or method not in ("GET", "HEAD"):
                return answer
            url = urljoin(url, answer.headers.get("location", ""))
            _refuse_plain(url)
        raise ConfigurationError(f"the registry redirects more than {_REDIRECTS} times", subject=self.host)

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None, *, stream: bool, largest: int
    ) -> Answer:
        content = body() if callable(body) else body
        try:
            response = self._pool(url).request(
                method,
                _reachable(url),
                body=content,
                headers={
                    "User-Agent": "datakit",
                    "Accept-Encoding": "identity",
                    "Host": urlsplit(url).netloc,
                    **headers,
                },
                timeout=_TIMEOUT,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            kept = {name.lower(): value for name, value in response.headers.items()}
            if stream and response.status < 300:
                return Answer(response.status, kept, b"", url, response)
            with response:
                limit = largest if response.status < 300 else _LARGEST_ERROR
                data = response.read(limit + 1) if method != "HEAD" else b""
                if len(data) > limit and response.status < 300:
                    raise ConfigurationError(f"the answer is longer than {limit:,} bytes", subject=url)
                return Answer(response.status, kept, data, url)
        except (HTTPError, OSError) as error:
            raise broken(error, urlsplit(url).netloc) from None

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Return the connections for a URL: through the proxy that the environment names, if it names one."""
        parts = urlsplit(url)
        name = parts.hostname or ""
        bypass = is_loopback(parts.netloc) or urllib.request.proxy_bypass(parts.netloc)
        proxy = None if bypass else urllib.request.getproxies().get(parts.scheme)
        known_as = name if name.endswith(".localhost") else None
        with self._lock:
            if (proxy, known_as) not in self._pools:
                settings: dict[str, Any] = {"ssl_context": self._context, "maxsize": 8}
                if known_as:
                    settings["server_hostname"] = known_as
                made = urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)
                self._pools[proxy, known_as] = made
            return self._pools[proxy, known_as]

    def _base(self) -> str:
        """Return scheme and host. A registry on this machine is asked whether it speaks TLS."""
        with self._asking:
            if self._scheme is None:
                self._scheme = "https" if not is_loopback(self.host) or self._speaks_tls() else "http"
        return f"{self._scheme}://{self.host}"

    def _own(self, url: str) -> str:
        """Return a URL that the registry gave. Behind a proxy that ends TLS it may think that it has none."""
        parts = urlsplit(url)
        if parts.netloc == self.host:
            return urlunsplit(parts._replace(scheme=urlsplit(self._base()).scheme))
        _refuse_plain(url)
        return url

    def _speaks_tls(self) -> bool:
        try:
            self._once("GET", f"https://{self.host}/v2/", {}, None, stream=False, largest=_LARGEST_ERROR)
        except NoTlsError:
            return False
        return True

    # Logins

    def _authorization(self, scope: tuple[str, ...]) -> Secret[str] | None:
        with self._lock:
            known = (self._tokens.get(" ".join(scope), (None, 0.0)), self._basic)
        return next((kept for kept, ends in known if kept is not None and time.monotonic() < ends), None)

    def _answer_challenge(
        self, challenge: str, scope: tuple[str, ...], *, had: Secret[str] | None
    ) -> Secret[str] | None:
        """Return what the registry asks for; None if there is nothing new to show it."""
        kind = challenge.partition(" ")[0].lower()
        if kind == "bearer":
            token, seconds = self._fetch_token(dict(_CHALLENGE.findall(challenge)), scope)
            with self._lock:
                self._tokens[" ".join(scope)] = token, time.monotonic() + seconds * 0.9
            return token
        login = self._find_login()
        if kind != "basic" or login is None or login.is_identity_token:
            return None
        basic = _basic(login)
        with self._lock:
            self._basic = basic, time.monotonic() + _LOGIN_LIFE
        # one that was refused is sent again only if it has changed: accounts get locked by repetition
        return None if had is not None and had.reveal() == basic.reveal() else basic

    def _fetch_token(self, details: Mapping[str, str], scope: tuple[str, ...]) -> tuple[Secret[str], float]:
        """Ask the token server that the registry names (https://distribution.github.io/distribution/spec/auth/)."""
        realm = details.get("realm", "")
        if urlsplit(realm).scheme not in ("http", "https"):
            raise ConfigurationError("the registry names no token server", subject=self.host)
        _refuse_plain(realm)
        login = self._find_login()
        query = [("service", details["service"])] if "service" in details else []
        query += [("scope", each) for each in scope]
        if login is not None and login.is_identity_token:
            form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", login.password.reveal()),
                ("client_id", "datakit"),
            ]
            form += [(name, value) for name, value in query if name == "service"] + [("scope", " ".join(scope))]
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._once("POST", realm, headers, urlencode(form).encode(), stream=False, largest=_LARGEST_ERROR)
        else:
            headers = {"Authorization": _basic(login).reveal()} if login is not None else {}
            answer = self._once(
                "GET", f"{realm}?{urlencode(query)}", headers, None, stream=False, largest=_LARGEST_ERROR
            )
        if answer.status in (400, 401, 403):
            raise login_refused(self.host, login, f"its token server answered {answer.status}")
        if answer.status != 200:
            raise RegistryUnavailable(
                f"the registry's token server answered {answer.status}",
                subject=urlsplit(realm).netloc,
                fix="try again in a while",
            )
        said = answer.json()
        token = said.get("token") or said.get("access_token") if isinstance(said, dict) else None
        if not isinstance(token, str) or not token:
            raise ConfigurationError("the registry's token server gave no token", subject=urlsplit(realm).netloc)
        seconds = said.get("expires_in")
        return Secret(f"Bearer {token}"), float(seconds) if isinstance(seconds, int | float) else 60.0

    def _refusal(self, answer: Answer, repository: str, *, writes: bool, tries: int) -> DatakitError:
        if answer.status == 401:
            subject = f"{self.host}/{repository}" if repository else self.host
            return login_refused(self.host, self._find_login(), "it answered 401", subject)
        return refusal(answer, self.host, repository, writes=writes, tries=tries)


def is_loopback(host: str) -> bool:
    """Whether ``HOST[:PORT]`` is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _reachable(url: str) -> str:
    """Return where to connect: names below ``localhost`` are this machine, also where the resolver does not know it.

    RFC 6761, section 6.3; Debian resolves only ``localhost`` itself.
    """
    parts = urlsplit(url)
    if not (parts.hostname or "").endswith(".localhost"):
        return url
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"127.0.0.1{port}"))


def _refuse_plain(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.netloc):
        raise ConfigurationError(
            "the registry sends its clients to a place without TLS",
            subject=f"{parts.scheme}://{parts.netloc}",
            fix="let it name an https:// address",
        )


def _tls(host: str, ca_file: Path | None) -> ssl.SSLContext:
    installed = Path("/etc/docker/certs.d") / host / "ca.crt"
    chosen = ca_file or (installed if installed.is_file() else None)
    try:
        return ssl.create_default_context(cafile=str(chosen) if chosen else None)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it holds no certificate"
        raise ConfigurationError(
            f"the authority's certificate cannot be read: {reason}",
            subject=str(chosen),
            fix="give a file with the authority's certificate in PEM",
        ) from None


def _scope(method: str, repository: str, also_from: str | None) -> tuple[str, ...]:
    if not repository:
        return ()
    actions = "pull" if method in ("GET", "HEAD") else "pull,push"
    more = (f"repository:{also_from}:pull",) if also_from else ()
    return (f"repository:{repository}:{actions}", *more)


def _basic(login: Login) -> Secret[str]:
    pair = f"{login.user}:{login.password.reveal()}".encode()
    return Secret(f"Basic {base64.b64encode(pair).decode()}")


def _wanted_pause(headers: Mapping[str, str], otherwise: float) -> float:
    """Return the seconds to wait: what the registry asks for, within reason."""
    wanted = headers.get("retry-after", "")
    return min(float(wanted), _LONGEST_PAUSE) if wanted.isdigit() else otherwise
