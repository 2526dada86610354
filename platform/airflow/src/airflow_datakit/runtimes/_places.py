"""Where a container of a datakit has what: the same on Docker and in Kubernetes, as docs/sidecar.md has it."""

from __future__ import annotations

from typing import Final

REPORT: Final = "/airflow/xcom/return.json"
SHARED: Final = "/run/datakit/shared"
"""The volume in memory into which the sidecar publishes."""
TICKETS: Final = f"{SHARED}/tickets"
SECRETS: Final = f"{SHARED}/secrets"
BOOTSTRAP: Final = "/run/datakit/bootstrap"
"""The vault's credential, in the sidecar's container alone."""
KRB5_CONF: Final = "krb5.conf"
"""What the sidecar publishes beside the tickets, for who reads them."""
