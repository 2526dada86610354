"""These tests run in Airflow's venv, with an Airflow home of their own, which has to be named before any import."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

if find_spec("airflow") is None:  # the repository's other tests run without it
    collect_ignore_glob = ["tests/*"]
else:
    _home = Path(tempfile.mkdtemp(prefix="datakit-airflow-"))
    os.environ |= {
        "AIRFLOW_HOME": str(_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(_home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    }
    for _name in [name for name in os.environ if name.startswith("DATAKIT_") or name in {"KRB5CCNAME", "KRB5_CONFIG"}]:
        del os.environ[_name]  # a person who looks around in a lab may have these set
