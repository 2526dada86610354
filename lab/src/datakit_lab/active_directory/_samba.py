"""Makes a directory of Samba's and changes it; run by path, with Debian's Python, which alone has Samba's modules.

A script of its own that stays, and not ``samba-tool``: that takes a second for each change, and passwords as arguments,
which every process can read. Usage: ``_samba.py SMB_CONF``. A line of stdin is a call, ``["name", {arguments}]``; a
line of stdout is its answer, ``{"result": …}`` or ``{"error": "…"}``. It ends with its stdin.
"""

import json
import logging
import os
import sys
from typing import Any

import ldb
import samba
from samba import dckeytab, dsdb  # noqa: F401 - dckeytab gives Net its export_keytab
from samba.auth import system_session
from samba.net import Net
from samba.param import LoadParm
from samba.provision import ProvisioningError, provision
from samba.samdb import SamDB

_TICKS_PER_SECOND = 10_000_000  # of Windows, which counts 100 ns
_NEVER = 0x7FFF_FFFF_FFFF_FFFF
_AES_ONLY = 0x18  # msDS-SupportedEncryptionTypes, [MS-KILE] 2.2.7: AES128 and AES256


class Directory:
    """The accounts of one directory; every public method is a call."""

    def __init__(self, smb_conf: str) -> None:
        self._lp = LoadParm(smb_conf)
        self._sam: Any = None

    def create(self) -> None:
        """Make the directory as ``smb.conf`` describes it: without DNS, which nothing here asks."""
        provision(
            logging.getLogger("provision"),
            system_session(self._lp),
            smbconf=self._lp.configfile,
            lp=self._lp,
            realm=self._lp.get("realm"),
            domain=self._lp.get("workgroup"),
            hostname=self._lp.get("netbios name"),
            hostip="127.0.0.1",
            serverrole="active directory domain controller",
            dom_for_fun_level=dsdb.DS_DOMAIN_FUNCTION_2008_R2,  # from here on accounts have AES keys
            dns_backend="NONE",
            batch_mode=True,
        )

    def add(self, account: str, password: str, services: list[str]) -> None:
        """Create a service account: AES only, and its password does not age."""
        sam = self._database()
        sam.newuser(account, password)
        flags = int(self._read(account, "userAccountControl"))
        self._replace(account, "userAccountControl", flags | dsdb.UF_DONT_EXPIRE_PASSWD)
        self._replace(account, "msDS-SupportedEncryptionTypes", _AES_ONLY)
        if services:
            self.add_services(account, services)

    def add_services(self, account: str, services: list[str]) -> None:
        """Register service names on an account; one that another account holds is refused."""
        self._modify(account, "servicePrincipalName", services, ldb.FLAG_MOD_ADD)

    def set_password(self, account: str, password: str) -> None:
        """Reset a password, as an administrator does; whether the account is disabled stays as it is."""
        self._modify(account, "unicodePwd", f'"{password}"'.encode("utf-16-le"), ldb.FLAG_MOD_REPLACE)

    def expire_password(self, account: str) -> None:
        """Demand a new password before the next ticket."""
        flags = int(self._read(account, "userAccountControl"))
        self._replace(account, "userAccountControl", flags & ~dsdb.UF_DONT_EXPIRE_PASSWD)
        self._replace(account, "pwdLastSet", 0)

    def set_enabled(self, account: str, enabled: bool) -> None:
        """Enable or disable an account."""
        flags = int(self._read(account, "userAccountControl"))
        disabled = dsdb.UF_ACCOUNTDISABLE
        self._replace(account, "userAccountControl", flags & ~disabled if enabled else flags | disabled)

    def set_expiry(self, account: str, when: float | None) -> None:
        """End an account at ``when``, seconds since 1970; None for never."""
        self._replace(account, "accountExpires", _NEVER if when is None else samba.unix2nttime(int(when)))

    def unlock(self, account: str) -> None:
        """Forget wrong tries, and the lock that came of them."""
        self._replace(account, "lockoutTime", 0)

    def set_lockout(self, threshold: int, seconds: int) -> None:
        """Lock accounts after so many wrong tries within ``seconds``, for ``seconds``; 0 tries for never."""
        span = -seconds * _TICKS_PER_SECOND
        message = ldb.Message(ldb.Dn(self._database(), self._database().domain_dn()))
        for name, value in (
            ("lockoutThreshold", threshold),
            ("lockoutDuration", span),
            ("lockOutObservationWindow", span),
        ):
            message[name] = ldb.MessageElement(str(value), ldb.FLAG_MOD_REPLACE, name)
        self._database().modify(message)

    def state(self, account: str) -> dict[str, int]:
        """Return the counters of an account, 0 where there is none yet."""
        names = ("badPwdCount", "lockoutTime", "msDS-KeyVersionNumber")
        return {name: int(self._read(account, name) or 0) for name in names}

    def export(self, account: str, path: str) -> None:
        """Append the present keys of an account to a keytab."""
        self._find(account)  # says that the account is missing, where the export writes nothing
        Net(None, self._lp).export_keytab(keytab=path, principal=f"{account}@{self._lp.get('realm')}")

    def _database(self) -> Any:
        if self._sam is None:
            self._sam = SamDB(session_info=system_session(self._lp), lp=self._lp)
        return self._sam

    def _find(self, account: str, *attributes: str) -> Any:
        sam = self._database()
        found = sam.search(
            sam.domain_dn(),
            scope=ldb.SCOPE_SUBTREE,
            expression=f"(sAMAccountName={ldb.binary_encode(account)})",
            attrs=list(attributes),
        )
        if len(found) != 1:
            raise LookupError(f"the directory has no account {account}")
        return found[0]

    def _read(self, account: str, attribute: str) -> str:
        found = self._find(account, attribute)
        return str(found[attribute][0]) if attribute in found else ""

    def _replace(self, account: str, attribute: str, value: int) -> None:
        self._modify(account, attribute, str(value), ldb.FLAG_MOD_REPLACE)

    def _modify(self, account: str, attribute: str, value: str | bytes | list[str], how: int) -> None:
        message = ldb.Message(self._find(account).dn)
        message[attribute] = ldb.MessageElement(value, how, attribute)
        self._database().modify(message)


def main() -> None:
    """Answer calls until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Samba's libraries print as they like
    logging.basicConfig(level=logging.WARNING)
    directory = Directory(sys.argv[1])
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": getattr(directory, name)(**arguments)}
        except (ldb.LdbError, LookupError, OSError, RuntimeError, ProvisioningError) as error:
            answer = {"error": str(error.args[-1] if error.args else error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


main()
