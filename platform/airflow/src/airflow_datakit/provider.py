"""What Airflow asks a provider: who it is, and which options it adds to ``airflow.cfg``."""

from __future__ import annotations

from typing import Any

from airflow_datakit import __version__


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description (entry point ``apache_airflow_provider``)."""
    return {
        "package-name": "airflow-provider-datakit",
        "name": "Datakit",
        "description": "Datakits in Airflow: one DAG on a process, on Docker and on Kubernetes",
        "versions": [__version__],
        "secrets-backends": ["airflow_datakit.secrets.DelineaSecretsBackend"],
        "config": {
            "datakit": {
                "description": "Datakits, warehouses and the environment that this Airflow runs them in",
                "options": {
                    "environment": {
                        "description": "The environment; the variable DATAKIT_ENVIRONMENT wins over it",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "prod",
                        "default": None,
                    },
                    "home": {
                        "description": "The folder that holds datakits/ and warehouses/; the variable DATAKIT_HOME "
                        "wins over it, and without either it is looked for from the DAGs folder upwards",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/usr/local/airflow/include/datakit",
                        "default": None,
                    },
                },
            }
        },
    }
