"""A small, typed client of Delinea Secret Server and Delinea Platform.

::

    with Vault(VaultSettings(kind="secret-server", url=…, credentials=Path("/run/datakit/bootstrap"))) as vault:
        keytab = vault.read(Reference.parse("/Kerberos/svc-datakit"), "keytab")

It knows nothing of ours and needs one HTTP library, because the long-lived process that holds the vault's credential
should start at once and stay small. Tests use :class:`datakit_vault.testing.FakeVault`.
"""

from datakit_vault import errors
from datakit_vault._record import FieldInfo, SecretAccess, SecretRecord
from datakit_vault._reference import Reference
from datakit_vault._retry import Clock, RetryPolicy
from datakit_vault._secret import Secret
from datakit_vault._settings import VaultSettings
from datakit_vault._transport import Request, Response, Transport
from datakit_vault._vault import Vault

__version__ = "0.1.0"

__all__ = [
    "Clock",
    "FieldInfo",
    "Reference",
    "Request",
    "Response",
    "RetryPolicy",
    "Secret",
    "SecretAccess",
    "SecretRecord",
    "Transport",
    "Vault",
    "VaultSettings",
    "__version__",
    "errors",
]
