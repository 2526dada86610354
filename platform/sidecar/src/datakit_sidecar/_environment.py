"""Configuration by environment variables, for one principal: the same tree as a file's, so the same checks apply."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from datakit_sidecar._document import Node, Problems

PREFIX: Final = "DATAKIT_SIDECAR_"
NEVER: Final = (
    "a secret never stands in the configuration: put it into a file in the folder that vault.credentials names"
)

# Environment variable, without the prefix → the key it stands for.
_VARIABLES: Final = {
    "VAULT_KIND": "vault.kind",
    "VAULT_URL": "vault.url",
    "VAULT_CREDENTIALS": "vault.credentials",
    "VAULT_DOMAIN": "vault.domain",
    "VAULT_CA_FILE": "vault.ca_file",
    "VAULT_PROXY": "vault.proxy",
    "VAULT_TIMEOUT": "vault.timeout",
    "VAULT_EVERY": "vault.every",
    "VAULT_ALLOW_HTTP": "vault.allow_http",
    "REALM": "kerberos.realm",
    "KDCS": "kerberos.kdcs",
    "KRB5_CONF": "kerberos.krb5_conf",
    "PRINCIPAL": "principals.0.name",
    "KEYTAB_SECRET": "principals.0.keytab.secret",
    "KEYTAB_FIELD": "principals.0.keytab.field",
    "PASSWORD_SECRET": "principals.0.password.secret",
    "PASSWORD_FIELD": "principals.0.password.field",
    "SERVICES": "principals.0.services",
    "SHARE": "principals.0.share",
    "TICKETS": "publish.tickets",
    "MODE": "publish.mode",
    "UID": "publish.uid",
    "GID": "publish.gid",
    "ADDRESS": "health.address",
    "LISTEN": "health.port",
    "MINIMUM_LIFE": "health.minimum_life",
    "AUDIT_FILE": "audit.file",
}
_LISTS: Final = frozenset({"KDCS", "SERVICES"})
_KUBERNETES: Final = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""What Kubernetes sets in every container if a Service is named ``datakit-sidecar``."""


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that configure the sidecar, without their prefix and without ``…CONFIG``."""
    names = (name.removeprefix(PREFIX) for name in environment if name.startswith(PREFIX))
    return {name: environment[PREFIX + name] for name in names if name != "CONFIG" and not _KUBERNETES.fullmatch(name)}


def read(variables: Mapping[str, str], problems: Problems) -> Node:
    """Return the tree that a file with the same content would give; unknown variables are noted."""
    root: dict[str, Node] = {}
    for name, text in variables.items():
        where = PREFIX + name
        if name not in _VARIABLES:
            near = get_close_matches(name, _VARIABLES, n=1, cutoff=0.6)
            problems.add(
                where,
                "there is no such variable",
                cause=f"did you mean {PREFIX}{near[0]}?" if near else None,
                fix=NEVER
                if re.search(r"PASSWORD$|SECRET$|TOKEN|KEY$", name)
                else f"choose one of: {', '.join(PREFIX + known for known in sorted(_VARIABLES))}",
            )
            continue
        items = [Node(item, where) for item in text.split(",") if item] if name in _LISTS else None
        _place(root, _VARIABLES[name].split("."), Node(items if items is not None else text, where), where)
    principal = root.pop("principals", None)
    if principal is not None and isinstance(principal.value, dict):
        root["principals"] = Node([principal.value["0"]], principal.where)
    return Node(root, "the environment")


def _place(root: dict[str, Node], keys: list[str], leaf: Node, where: str) -> None:
    for key in keys[:-1]:
        below = root.setdefault(key, Node({}, "the environment", {})).value
        assert isinstance(below, dict)  # noqa: S101 - only leaves are anything else
        root = below
    root[keys[-1]] = Node(leaf.value, where)
