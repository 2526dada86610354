"""What a datakit left behind, as Airflow understands it: one mapping for every runtime."""

from __future__ import annotations

import json
import signal
from typing import Any, Final, NoReturn

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSkipException
from datakit.errors import AccessDenied, ConfigurationError, DatakitError, NothingToDo, TemporaryError

LARGEST_REPORT: Final = 1 << 20
"""Bytes. A report is a page of JSON; a datakit that leaves more would fill Airflow's database."""

OF_THE_PROTOCOL: Final = frozenset(
    {0, *(kind.exit_code for kind in (TemporaryError, AccessDenied, ConfigurationError, NothingToDo))}
)
"""The exit codes that a datakit chooses; any other happened to it."""

Report = dict[str, Any]

SIGNALS: Final = 128
"""Above it, an exit code is that of a shell whose command was ended by a signal."""


def parse_report(data: bytes | str | None) -> tuple[Report | None, str | None]:
    """Return the run report, or what is wrong with it."""
    if not data:
        return None, "the datakit left no run report"
    if len(data) > LARGEST_REPORT:
        return None, f"the run report has {len(data):,} bytes, more than the {LARGEST_REPORT:,} that are taken"
    try:
        report = json.loads(data)
    except ValueError as error:
        return None, f"the run report is not JSON: {error}"
    if not isinstance(report, dict) or "status" not in report:
        return None, "the run report is no JSON object with a status"
    return report, None


def conclude(
    exit_code: int, report: Report | None, problem: str | None, *, what: str, hint: str | None = None
) -> Report:
    """Return the report of a run that succeeded; raise what Airflow does with any other.

    :param problem: what is wrong with the report, where there is none.
    :param what: the run, for people.
    :param hint: what the runtime knows of a run that ended otherwise than the protocol has it.
    :raises AirflowSkipException: there was nothing to do (99).
    :raises AirflowFailException: a retry cannot help (77, 78).
    :raises AirflowException: a retry may help (75), or is safe (any other).
    """
    if exit_code == 0 and report is not None:
        return report
    if exit_code == 0:
        raise AirflowException(
            f"{what} ended well, but {problem}\n"
            "Likely cause: the image does not follow the run protocol, or writes the report elsewhere\n"
            "Next step: let it write JSON to DATAKIT_REPORT; a retry is safe"
        )
    text = _text(exit_code, report, problem, what, hint)
    if exit_code == NothingToDo.exit_code:
        raise AirflowSkipException(text)
    if exit_code in (AccessDenied.exit_code, ConfigurationError.exit_code):
        raise AirflowFailException(text)
    raise AirflowException(text)


def fail(error: DatakitError) -> NoReturn:
    """Fail the task for what is wrong outside of a datakit: with a retry only where one may help."""
    raise (AirflowException if error.retryable else AirflowFailException)(str(error)) from None


def _text(exit_code: int, report: Report | None, problem: str | None, what: str, hint: str | None) -> str:
    lines = [f"{what} {_meaning(exit_code)}"]
    error = (report or {}).get("error")
    if isinstance(error, dict):
        subject = f"{error['subject']}: " if error.get("subject") else ""
        lines.append(f"{error.get('type', 'error')}: {subject}{error.get('what', '')}")
        lines += [f"Likely cause: {error['cause']}"] if error.get("cause") else []
        lines += [f"Next step: {error['fix']}"] if error.get("fix") else []
    else:
        lines += [f"Likely cause: {hint}"] if hint else []
        lines += [f"Also: {problem}; its log above is what there is"] if problem else []
    return "\n".join(lines)


def _meaning(exit_code: int) -> str:
    match exit_code:
        case NothingToDo.exit_code:
            return "had nothing to do (99)"
        case TemporaryError.exit_code:
            return "ended with 75: a retry may help"
        case AccessDenied.exit_code:
            return "ended with 77: access denied, a retry cannot help"
        case ConfigurationError.exit_code:
            return "ended with 78: configuration or contract, a retry cannot help"
        case 137:
            return "was killed (137): out of memory, or by hand"
        case code if code > SIGNALS:
            return f"was ended by a signal ({code}: {_signal(code - SIGNALS)})"
        case code:
            return f"ended with {code}: a bug of the datakit"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
