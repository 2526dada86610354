"""PostgreSQL as a warehouse, by password or by Kerberos. See ``docs/warehouses.md`` for its types and guarantees."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from datakit.errors import DriverMissing
from datakit.model._base import Model
from datakit.model.environment import SecretReference
from datakit.model.manifest import Duration
from datakit.warehouses import Warehouse, adapter

__all__ = ["PostgresConnection", "open_warehouse"]


class PostgresConnection(Model):
    """Where a PostgreSQL warehouse is: its section of ``environments/NAME.yaml``."""

    host: Annotated[
        str,
        Field(
            min_length=1,
            description="Host name; with gssapi the name that its service principal has",
            examples=["postgres.corp.example"],
        ),
    ]
    port: Annotated[int, Field(gt=0, lt=65536)] = 5432
    database: Annotated[str, Field(min_length=1, examples=["NAME"])]
    user: Annotated[
        str, Field(min_length=1, description="The role that loads; it creates schemas and tables", examples=["loader"])
    ]
    password: Annotated[
        SecretReference | None,
        Field(
            description="The secret that holds the password; read at every connection", examples=["NAME-db/password"]
        ),
    ] = None
    gssapi: Annotated[bool, Field(description="Connect with a Kerberos ticket, and refuse anything else")] = False
    principal: Annotated[
        str | None, Field(description="With gssapi: whose tickets they must be, user@REALM; checked before connecting")
    ] = None
    krbsrvname: Annotated[str, Field(description="With gssapi: the service's name, the part before the host")] = (
        "postgres"
    )
    gssencmode: Annotated[
        Literal["disable", "prefer", "require"], Field(description="With gssapi: encryption by Kerberos instead of TLS")
    ] = "prefer"
    sslmode: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        Field(description="TLS, as libpq has it; in production verify-full with sslrootcert"),
    ] = "prefer"
    sslrootcert: Annotated[
        str | None, Field(description="File of certificate authorities, or system for those of the machine")
    ] = None
    connect_timeout: Annotated[Duration, Field(description="How long one attempt to connect may take")] = timedelta(
        seconds=10
    )
    lock_timeout: Annotated[
        Duration, Field(description="How long a commit waits for sessions that use the table, before it gives up")
    ] = timedelta(minutes=1)

    @model_validator(mode="after")
    def _one_way_in(self) -> PostgresConnection:
        if self.gssapi and self.password is not None:
            raise ValueError("give either password or gssapi: a ticket needs no password")
        if self.principal is not None and not self.gssapi:
            raise ValueError("principal is for gssapi; a login by password has none")
        return self


@adapter(PostgresConnection)
def open_warehouse(settings: PostgresConnection, /, *, where: str, base: Path) -> Warehouse:  # noqa: ARG001  # each adapter gets it
    """Open a PostgreSQL database as a warehouse. It is connected to at first use.

    :param base: folder that a relative ``sslrootcert`` starts at.

    :raises InvalidFile: the section has an unknown key, lacks one, or contradicts itself.
    :raises DriverMissing: psycopg or pgpq is not installed.
    """
    if settings.sslrootcert not in {None, "system"}:
        settings = settings.model_copy(update={"sslrootcert": str((base / str(settings.sslrootcert)).absolute())})
    try:
        from datakit.warehouses._postgres.warehouse import PostgresWarehouse
    except ImportError as error:
        raise DriverMissing.of("PostgreSQL", "postgres", error) from None
    return PostgresWarehouse(settings)
