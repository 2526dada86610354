"""``datakit-lab kdc``, ``sqlserver``, ``postgres`` …: one server alone, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datakit_lab._commands import Life, data_sets, duration, end_on_sigterm, until_interrupted


def kdc(
    directory: Annotated[Path | None, typer.Option(help="Where the realm lives; a passing one if left out.")] = None,
    port: Annotated[int, typer.Option(help="Loopback port, 0 for a free one.")] = 10088,
    realm: Annotated[str, typer.Option(help="Name of the realm.")] = "LAB.TEST",
    ticket_life: Life = "10h",
    principal: Annotated[list[str] | None, typer.Option(help="User or service to create; repeatable.")] = None,
) -> None:
    """Run only a KDC, in the foreground, with the principals and one keytab of them all."""
    from datakit_lab.kdc import Kdc

    end_on_sigterm()
    with Kdc(directory, port=port, realm=realm, ticket_life=duration(ticket_life)) as server:
        names = [name for name in principal or ["svc-datakit"] if not server.has_principal(name)]
        for name in names:
            server.add_principal(name)
        keytab = server.keytab(server.directory / "lab.keytab", *(principal or ["svc-datakit"]))
        until_interrupted(
            [f"{realm} answers on port {server.port}.", f"KRB5_CONFIG={server.krb5_conf}", f"keytab: {keytab}"]
        )


def sqlserver(
    port: Annotated[int, typer.Option(help="Loopback port, 0 for a free one.")] = 11433,
    data: Annotated[str, typer.Option(help="Data sets, separated by commas: airline, tpch, nasty.")] = "airline",
    keytab: Annotated[Path | None, typer.Option(help="Keys of MSSQLSvc/HOST:PORT; without, no Kerberos.")] = None,
    principal: Annotated[
        list[str] | None, typer.Option(help="Who may read with a ticket, user@REALM; repeatable.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="The password of the SQL login datakit; without, a new one is printed.")
    ] = None,
    certificates: Annotated[
        Path | None, typer.Option(help="Folder of server.pem and server.key; without, new ones for this run.")
    ] = None,
    fault: Annotated[list[str] | None, typer.Option(help="A fault that waits from the start; repeatable.")] = None,
    control: Annotated[Path | None, typer.Option(help="Socket for load, mutate and faults.")] = None,
) -> None:
    """Run only the SQL Server double, in the foreground. It is a double for laptops and tests, not SQL Server."""
    import contextlib
    import secrets
    import tempfile

    from datakit_lab.certificates import ServerCertificate, issue_certificate
    from datakit_lab.control import serve
    from datakit_lab.double import DATABASE, SQL_LOGIN, run_double

    end_on_sigterm()
    chosen = data_sets(data)
    password = password_file.read_text(encoding="utf-8") if password_file else secrets.token_urlsafe(12)
    with contextlib.ExitStack() as stack:
        if certificates is None:
            certificate = issue_certificate(
                Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="datakit-lab-")))
            )
        else:
            certificate = ServerCertificate.in_folder(certificates)
        double = stack.enter_context(
            run_double(
                port=port,
                data=chosen,
                password=password,
                principals=principal or [],
                keytab=keytab,
                certificate=certificate,
                faults=fault or [],
            )
        )
        if control is not None:
            stack.enter_context(serve(control, double.handlers()))
        lines = [f"The double of SQL Server answers on port {double.server.port}.", f"database: {DATABASE}"]
        if password_file is None:
            lines.append(f"SQL login: {SQL_LOGIN}, password: {password}")
        until_interrupted(lines)


def postgres(
    directory: Annotated[Path | None, typer.Option(help="Where the data lives; a passing one if left out.")] = None,
    port: Annotated[int, typer.Option(help="Loopback port, 0 for a free one.")] = 15432,
) -> None:
    """Run only a PostgreSQL, in the foreground."""
    from datakit_lab.postgres import Postgres

    end_on_sigterm()
    with Postgres(directory, port=port) as server:
        until_interrupted([f"PostgreSQL answers on port {server.port}.", f'psql "{server.dsn()}"'])


def registry(
    directory: Annotated[Path | None, typer.Option(help="Where images are kept; a passing one if left out.")] = None,
    port: Annotated[int, typer.Option(help="Loopback port, 0 for a free one.")] = 15000,
    user: Annotated[
        str | None, typer.Option(help="Let only this user in, with a new password that is printed; else everybody.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="With a certificate of an authority of its own.")] = False,
) -> None:
    """Run only a registry of images, in the foreground: Debian's docker-registry."""
    import contextlib
    import secrets
    import tempfile

    from datakit_lab.certificates import issue_certificate
    from datakit_lab.registry import Registry

    end_on_sigterm()
    with contextlib.ExitStack() as stack:
        password = secrets.token_urlsafe(12)
        certificate = None
        if tls:
            folder = directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="datakit-lab-")))
            certificate = issue_certificate(folder / "certificates", Registry.names())
        users = {user: password} if user else None
        server = stack.enter_context(Registry(directory, port=port, users=users, certificate=certificate))
        lines = [f"The registry answers at {server.name}.", f"export DATAKIT_REGISTRY={server.name}"]
        if not server.name_resolves():
            lines.append("A Docker engine finds it with this line in /etc/hosts: 127.0.0.1 registry.localhost")
        if certificate is not None:
            lines.append(f"export DATAKIT_REGISTRY_CA={certificate.authority}")
        if user:
            lines.append(f"user: {user}, password: {password}")
        until_interrupted(lines)


def kubernetes(
    directory: Annotated[
        Path | None, typer.Option(help="Where kubeconfig and certificates are put; a passing one if left out.")
    ] = None,
    port: Annotated[int, typer.Option(help="Loopback port of the API, 0 for a free one.")] = 16443,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Namespace to create besides default; repeatable.")
    ] = None,
    own_network: Annotated[
        bool, typer.Option("--own-network", help="Each pod has its own network, with this machine's servers. As root.")
    ] = False,
) -> None:
    """Run a double of Kubernetes, in the foreground: the API of pods, and the pods on the local Docker engine."""
    from datakit_lab.kubernetes import KubernetesDouble

    end_on_sigterm()
    namespaces = tuple(namespace or ())
    with KubernetesDouble(directory, port=port, namespaces=namespaces, own_network=own_network) as double:
        until_interrupted(
            [f"The double of Kubernetes answers at {double.url}.", f"export KUBECONFIG={double.kubeconfig}"]
        )
