"""A token server as companies' registries have one: passwords in, signed bearer tokens out, each for one scope.

https://distribution.github.io/distribution/spec/auth/jwt/
"""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from datakit_lab.certificates import ServerCertificate

SERVICE = "registry.corp.example"
ISSUER = "tokens.corp.example"


class TokenServer:
    """``with TokenServer(certificate, {"ann": "secret"}) as server``: ``server.settings`` is for the lab's registry.

    :param readers: users who get ``pull`` and nothing more, whatever they ask for.
    :param stated_life: seconds after which a client has to ask again.
    """

    def __init__(
        self,
        certificate: ServerCertificate,
        users: dict[str, str],
        *,
        readers: tuple[str, ...] = (),
        refresh_tokens: tuple[str, ...] = (),
        stated_life: int = 300,
    ) -> None:
        self._certificate = certificate
        self._key: Any = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
        self._users = users
        self._readers = readers
        self._refresh_tokens = refresh_tokens
        self.stated_life = stated_life
        self.scopes: list[str] = []

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def settings(self, bundle: Path) -> dict[str, str]:
        bundle.write_bytes(self._certificate.certificate.read_bytes())
        return {"realm": self.url, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(bundle)}

    def token(self, user: str, scopes: list[str]) -> str:
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            allowed = [each for each in actions.split(",") if each == "pull" or user not in self._readers]
            access.append({"type": kind, "name": name, "actions": allowed})
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + 300,
            "nbf": now - 30,
            "iat": now,
            "jti": str(now),
            "access": access,
        }
        leaf = x509.load_pem_x509_certificate(self._certificate.certificate.read_bytes())
        chain = [base64.b64encode(leaf.public_bytes(serialization.Encoding.DER)).decode()]
        head = {"typ": "JWT", "alg": "ES256", "x5c": chain}
        signed = b".".join(_b64(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return (signed + b"." + _b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = parse_qs(urlsplit(self.path).query)
                encoded = self.headers.get("authorization", "").removeprefix("Basic ")
                user, _, password = base64.b64decode(encoded).decode().partition(":")
                self.give(user if server._users.get(user) == password else None, asked.get("scope", []))

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                known = form.get("refresh_token", [""])[0] in server._refresh_tokens
                self.give("somebody" if known else None, form.get("scope", [""])[0].split())

            def give(self, user: str | None, scopes: list[str]) -> None:
                server.scopes += scopes
                said = (
                    {"token": server.token(user, scopes), "expires_in": server.stated_life} if user else {"errors": []}
                )
                body = json.dumps(said).encode()
                self.send_response(200 if user else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        return Handler


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
