"""A double of the vault, for tests and laptops: a real HTTP server with the documented endpoints, in this process.

::

    with FakeVault() as fake, Vault(fake.settings(tmp_path)) as vault:
        fake.add_secret("/Kerberos/svc", {"keytab": b"…", "password": "…"})
        fake.fault("throttled", times=2, retry_after=1)
        vault.read(Reference.parse("/Kerberos/svc"), "keytab")

Secrets live in memory only. It is not Delinea: it knows one account, no folders' permissions and no templates. What it
answers is what Delinea documents, and what clients of others were seen to rely on.
"""

from datakit_vault.testing._fake import FakeVault
from datakit_vault.testing._faults import FAULTS, Fault
from datakit_vault.testing._server import LoggedRequest

__all__ = ["FAULTS", "FakeVault", "Fault", "LoggedRequest"]
