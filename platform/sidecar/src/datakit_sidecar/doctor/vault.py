"""The vault: whether it answers, whether the bootstrap credential is good, and what it may read."""

from __future__ import annotations

from collections.abc import Iterator

from datakit_vault import Secret, Vault
from datakit_vault.errors import VaultError

from datakit_sidecar.doctor.finding import Finding, State
from datakit_sidecar.settings import Settings


def examine_vault(settings: Settings, values: dict[str, Secret[bytes]]) -> Iterator[Finding]:
    """Log in and read everything that the sidecar would read.

    :param values: gets the key material, by principal.
    """
    with Vault(settings.vault) as vault:
        subject = f"vault {settings.vault.host}"
        try:
            base = vault.login()
        except VaultError as error:
            yield Finding.of(subject, error)
            return
        yield Finding(subject, State.GOOD, f"it answers and takes the credential ({base})")
        for principal in settings.principals:
            key = principal.key
            subject = f"secret {key.secret}"
            try:
                values[principal.name] = vault.read(key.secret, key.field)
            except VaultError as error:
                yield Finding.of(subject, error)
            else:
                yield Finding(subject, State.GOOD, f"the field {key.field!r} may be read, for {principal.name}")
        for secret in settings.secrets:
            subject = f"secret {secret.secret}"
            try:
                record = vault.record(secret.secret)
                for name in secret.fields:
                    vault.read(record, name).wipe()
            except VaultError as error:
                yield Finding.of(subject, error)
            else:
                yield Finding(subject, State.GOOD, f"{', '.join(secret.fields)} may be read, for {secret.folder}")
