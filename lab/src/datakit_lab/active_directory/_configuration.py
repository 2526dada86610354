"""The files that the domain controller and its clients read."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from datakit_lab.network import LOOPBACK, own_names

# No list of encryption types, as on most machines: libkrb5 then takes AES and, where an account has nothing else, RC4.
_KRB5_CONF: Final = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostnames = false
    rdns = false
    default_ccache_name = FILE:{directory}/ccache_%{{uid}}
    renew_lifetime = {renewable_life}s
    forwardable = false

[realms]
    {realm} = {{
        kdc = {address}:{port}
    }}

[domain_realm]
{domain_realm}
"""

# Every folder is named, so that nothing of Debian's Samba is read or written. kpasswd port 0: nobody changes passwords
# over the network. auth_json_audit 3 writes good and refused tries to the log. nosync: a lost lab is made anew.
_SMB_CONF: Final = """\
[global]
    server role = active directory domain controller
    realm = {realm}
    workgroup = {domain}
    netbios name = DC
    server services = kdc
    interfaces = {address}/8
    bind interfaces only = yes
    krb5 port = {port}
    kpasswd port = 0
    kdc:user ticket lifetime = {ticket_hours}
    kdc:service ticket lifetime = {ticket_hours}
    kdc:renewal lifetime = {renewable_hours}
    ldb:nosync = true
    log level = 1 auth_json_audit:3
    disable netbios = yes
    private dir = {directory}/private
    lock directory = {directory}/lock
    state directory = {directory}/state
    cache directory = {directory}/cache
    pid directory = {directory}/pid
    binddns dir = {directory}/bind-dns
    ncalrpc dir = {directory}/ncalrpc
    ntp signd socket directory = {directory}/ntp-signd
    winbindd socket directory = {directory}/winbindd
    usershare path =

[sysvol]
    path = {directory}/state/sysvol
    read only = no

[netlogon]
    path = {directory}/state/sysvol/{dns_domain}/scripts
    read only = no
"""


def krb5_conf(realm: str, port: int, directory: Path, renewable_life: timedelta, hosts: tuple[str, ...]) -> str:
    """Return the configuration for clients and services of the realm."""
    domains = [*dict.fromkeys([*own_names(), *hosts, f".{realm.lower()}", realm.lower()])]
    return _KRB5_CONF.format(
        realm=realm,
        directory=directory,
        address=LOOPBACK,
        port=port,
        renewable_life=int(renewable_life.total_seconds()),
        domain_realm="\n".join(f"    {domain} = {realm}" for domain in domains),
    )


def smb_conf(realm: str, port: int, directory: Path, ticket_hours: int, renewable_hours: int) -> str:
    """Return the configuration of the domain controller."""
    return _SMB_CONF.format(
        realm=realm,
        domain=realm.partition(".")[0],
        dns_domain=realm.lower(),
        directory=directory,
        address=LOOPBACK,
        port=port,
        ticket_hours=ticket_hours,
        renewable_hours=renewable_hours,
    )
