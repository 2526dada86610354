"""``environments/NAME.yaml``: where source systems and warehouses are, and how datakits run there.

Never a secret: only references, which name files under the secrets folder (:mod:`datakit.credentials`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from datakit.model._base import Model, text_like
from datakit.model.manifest import KebabName

SECRET_REFERENCE: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
"""What a :data:`SecretReference` looks like."""

SecretReference = Annotated[
    str,
    text_like(
        SECRET_REFERENCE.pattern,
        "REFERENCE/FIELD, which names a secret and never holds one, such as airline-reader/password",
    ),
]
"""``REFERENCE/FIELD``: the file ``/run/datakit/secrets/REFERENCE/FIELD``."""


class SourceSystem(Model):
    """Where one source system is, and who reads it."""

    host: Annotated[str, Field(min_length=1, description="Fully qualified name: the SPN is built from it")]
    port: Annotated[int, Field(gt=0, lt=65536)] = 1433
    database: Annotated[str, Field(min_length=1)]
    principal: Annotated[
        str | None,
        text_like(
            r"^[^@/\s]+(/[^@\s]+)?@[^@\s]+$",
            "a Kerberos principal with its realm, such as svc-airline@CORP.EXAMPLE",
            description="The Kerberos principal that connects, user@REALM",
        ),
    ] = None
    server_spn: Annotated[
        str | None, Field(description="The service principal name, where it is not MSSQLSvc/host:port")
    ] = None
    encrypt: Annotated[Literal["yes", "strict", "no"], Field(description="TLS; no is for laboratories")] = "yes"
    trust_server_certificate: Annotated[bool, Field(description="Accept any certificate; for laboratories")] = False
    host_name_in_certificate: str | None = None
    read_only_intent: Annotated[bool, Field(description="ApplicationIntent=ReadOnly: let a replica answer")] = False
    user: Annotated[
        str | None, Field(description="SQL login, only where Kerberos cannot be had; its password is a secret")
    ] = None
    password: SecretReference | None = None


class Environment(Model):
    """One environment: ``local``, ``int``, ``qa``, ``prod`` …"""

    name: KebabName
    runtime: Annotated[Literal["process", "docker", "kubernetes"], Field(description="How datakits run here")]
    sources: dict[KebabName, SourceSystem] = Field({}, description="Connection name → where it is")
    warehouses: dict[KebabName, dict[str, Any]] = Field(
        {}, description="Connection name → where it is; the keys depend on the warehouse's type"
    )
