"""krb5.conf: made from the settings with defaults that are safe in a container, and held in memory.

libkrb5 reads its configuration from a file only. A sealed memfd is one, without a disk and without a folder that
somebody could write to.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from datakit_sidecar.errors import InvalidSettings
from datakit_sidecar.settings import KerberosSettings

# rdns, dns_canonicalize_hostnames: the name asked for is the name used; DNS would turn an alias into another SPN.
# kdc_timesync = 0: libkrb5 would otherwise correct a wrong clock in silence for this process, but not for readers.
# forwardable, proxiable: nobody here passes a ticket on.
# udp_preference_limit is left alone: with UDP first a silent KDC costs 1 s, with TCP first 10 s.
_TEMPLATE: Final = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = {dns}
    dns_lookup_realm = false
    dns_canonicalize_hostnames = false
    rdns = false
    kdc_timesync = 0
    forwardable = false
    proxiable = false
    ticket_lifetime = {ticket_life}s
    renew_lifetime = {renewable_life}s
    permitted_enctypes = {enctypes}
{more}
[realms]
{realms}
[domain_realm]
{domains}"""


def generate(settings: KerberosSettings) -> str:
    """Return the text of a krb5.conf."""
    with_kdcs = {realm: kdcs for realm, kdcs in settings.kdcs.items() if kdcs}
    without = {settings.realm, *settings.domains.values()} - with_kdcs.keys()
    domains = {settings.realm.lower(): settings.realm, f".{settings.realm.lower()}": settings.realm} | dict(
        settings.domains
    )
    return _TEMPLATE.format(
        realm=settings.realm,
        dns="true" if without else "false",
        ticket_life=int(settings.ticket_life),
        renewable_life=int(settings.renewable_life),
        enctypes=" ".join(settings.enctypes),
        # libkrb5 1.22 takes RC4 only with this; older ones ignore it
        more="    allow_rc4 = true\n" if "arcfour-hmac" in settings.enctypes else "",
        realms="".join(_realm(realm, kdcs) for realm, kdcs in with_kdcs.items()),
        domains="".join(f"    {domain} = {realm}\n" for domain, realm in domains.items()),
    )


def _realm(realm: str, kdcs: Iterable[str]) -> str:
    lines = "".join(f"        kdc = {kdc}\n" for kdc in kdcs)
    return f"    {realm} = {{\n{lines}    }}\n"


def install(settings: KerberosSettings) -> str:
    """Let libkrb5 in this process use the settings; return the text in use.

    Call it before the first thread is started: the environment belongs to the whole process.

    :raises InvalidSettings: ``krb5_conf`` names a file that cannot be read. libkrb5 would accept it in silence.
    """
    if settings.krb5_conf is not None:
        text = _read(settings.krb5_conf)
        os.environ["KRB5_CONFIG"] = str(settings.krb5_conf)
    else:
        text = generate(settings)
        os.environ["KRB5_CONFIG"] = f"/proc/self/fd/{_hold(text)}"
    # what a client would fall back to is not for us: only our own MEMORY caches and keytabs are used
    for name in ("KRB5CCNAME", "KRB5_KTNAME", "KRB5_CLIENT_KTNAME", "KRB5_TRACE", "KRB5_KDC_PROFILE"):
        os.environ.pop(name, None)
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidSettings(
            f"the Kerberos configuration cannot be read: {error.strerror}",
            subject=str(path),
            fix="correct kerberos.krb5_conf, or remove it and name realm and kdcs",
        ) from None


def _hold(text: str) -> int:
    descriptor = os.memfd_create("krb5.conf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, text.encode())
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
