"""``datakit-sidecar doctor``: what keeps a sidecar from being ready, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator

from datakit_vault import Secret

from datakit_sidecar.doctor.configuration import examine_configuration
from datakit_sidecar.doctor.finding import Finding, State
from datakit_sidecar.doctor.kerberos import examine_kdcs, examine_principals
from datakit_sidecar.doctor.places import examine_audit, examine_folders, examine_process
from datakit_sidecar.doctor.vault import examine_vault
from datakit_sidecar.settings import Settings

__all__ = ["Finding", "State", "examine"]


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield what was found, good and bad, from the machine outwards.

    It publishes nothing and leaves a running sidecar alone. Each principal's key is used once at the most, and one that
    is refused is remembered as the sidecar would: a wrong key counts as one try, however often the doctor is asked.
    """
    yield Finding("configuration", State.GOOD, settings.source)
    yield from examine_process()
    yield from examine_folders(settings)
    yield from examine_audit(settings)
    values: dict[str, Secret[bytes]] = {}
    yield from examine_vault(settings, values)
    if settings.kerberos is not None:
        yield from examine_configuration(settings.kerberos)
        if settings.principals:
            yield from examine_kdcs(settings.kerberos, settings.principals[0].name)
        yield from examine_principals(settings, values)
