"""The server's side of Integrated Authentication: Kerberos tokens accepted with a keytab."""

from __future__ import annotations

from pathlib import Path


class KerberosRefused(Exception):
    """A ticket was not accepted; the text says why."""


class Acceptor:
    """Accepts one client's tokens, raw Kerberos or wrapped in SPNEGO.

    :param keytab: a file with the keys of ``MSSQLSvc/host:port``.
    :raises KerberosRefused: the keytab is missing or holds no key.
    """

    def __init__(self, keytab: Path) -> None:
        import gssapi
        from gssapi.raw.misc import GSSError

        try:
            # A laptop's double needs no replay cache, and a shared one in /var/tmp makes parallel tests wait.
            credentials = gssapi.Credentials(usage="accept", store={"keytab": f"FILE:{keytab}", "rcache": "none:"})
        except GSSError as reason:
            raise KerberosRefused(f"no key in {keytab}: {reason}") from reason
        self._context = gssapi.SecurityContext(creds=credentials, usage="accept")

    def step(self, token: bytes) -> tuple[str | None, bytes]:
        """Take the client's token; return the principal when done (else None) and the token to answer with.

        :raises KerberosRefused: the token is no Kerberos, or the ticket is not for a key in the keytab.
        """
        from gssapi.raw.misc import GSSError

        if token.startswith(b"NTLMSSP"):
            raise KerberosRefused("the client fell back to NTLM, which this server does not speak")
        try:
            answer = self._context.step(token) or b""
            # when there is an error token, gssapi keeps the error itself for the next look at the context
            done = self._context.complete
            principal = str(self._context.initiator_name) if done else None
        except GSSError as reason:
            raise KerberosRefused(str(reason)) from reason
        return principal, answer
