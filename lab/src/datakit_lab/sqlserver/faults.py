"""Faults on request: what a network and a busy SQL Server do to a client, at a time that a test chooses.

A fault is set in Python (``server.faults.add(Fault(...))``) or by any client while the server runs, with the batch

    EXEC lab_fault 'drop after 5000'

and the same text in ``--fault`` on the command line. The grammar is

    ACTION [at login | at query] [after ROWS] [matching TEXT] [times N | always]

    ACTION = drop | stall SECONDS | error NUMBER      (or ``clear``, alone, which forgets all faults)

``after`` counts rows of the result sets of one batch; the rows before it arrive whole. A fault applies once unless
told otherwise. ``matching`` takes the rest of the text: only a batch that holds it (case-insensitive) is struck.
A client whose application name is ``datakit-lab`` is never struck at login, so that faults can be cleared.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from typing import Final, Literal

from datakit_lab.sqlserver.backend import SqlError

CONTROL_APPLICATION: Final = "datakit-lab"

_MESSAGES: Final[dict[int, tuple[int, str]]] = {
    1205: (
        13,
        (
            "Transaction (Process ID 55) was deadlocked on lock resources with another process and has been chosen as "
            "the deadlock victim. Rerun the transaction."
        ),
    ),
    1222: (16, "Lock request time out period exceeded."),
    3960: (16, "Snapshot isolation transaction aborted due to update conflict."),
    4060: (11, 'Cannot open database "{database}" requested by the login. The login failed.'),
    10928: (
        20,
        (
            "Resource ID : 1. The request limit for the database is 60 and has been reached. See "
            "'http://go.microsoft.com/fwlink/?LinkId=267637' for assistance."
        ),
    ),
    18456: (14, "Login failed for user '{user}'."),
    40197: (20, "The service has encountered an error processing your request. Please try again. Error code 40197."),
    40501: (20, "The service is currently busy. Retry the request after 10 seconds."),
    40613: (17, "Database '{database}' on server '{server}' is not currently available. Please retry later."),
}
_LOGIN_ERRORS: Final = frozenset({4060, 18456})
_GRAMMAR = re.compile(
    r"""(?:(?P<drop>drop)|stall\s+(?P<seconds>\d+(?:\.\d+)?)|error\s+(?P<number>\d+))
        (?:\s+at\s+(?P<where>login|query))?
        (?:\s+after\s+(?P<rows>\d+)(?:\s+rows)?)?
        (?:\s+(?:times\s+(?P<times>\d+)|(?P<always>always)))?
        (?:\s+matching\s+(?P<match>.+?))?
        (?:\s+(?:times\s+(?P<times2>\d+)|(?P<always2>always)))?\s*""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    :ivar action: ``drop`` the connection, ``stall`` for ``seconds``, or answer with ``error`` ``number``.
    :ivar where: at login, or in a query.
    :ivar after_rows: rows of the batch's results that still arrive.
    :ivar matching: only batches that hold this text.
    :ivar times: how often it applies; None for always.
    """

    action: Literal["drop", "stall", "error"]
    where: Literal["login", "query"] = "query"
    seconds: float = 0.0
    number: int = 0
    after_rows: int = 0
    matching: str = ""
    times: int | None = 1

    def error(self, **names: str) -> SqlError:
        """Return the error to raise, in SQL Server's words where they are known."""
        severity, text = _MESSAGES.get(self.number, (16, f"Error {self.number}, asked for by lab_fault."))
        return SqlError(self.number, text.format_map(_Names(names)), severity=severity)


class _Names(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return key


def parse_fault(text: str) -> Fault:
    """Read a fault from its text.

    :raises ValueError: the text is not in the grammar of this module.
    """
    found = _GRAMMAR.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{text!r} is no fault; write drop | stall SECONDS | error NUMBER [at login | at query] [after ROWS] "
            "[matching TEXT] [times N | always], or clear"
        )
    number = int(found["number"] or 0)
    times = found["times"] or found["times2"]
    always = found["always"] or found["always2"]
    where = found["where"].lower() if found["where"] else "login" if number in _LOGIN_ERRORS else "query"
    return Fault(
        action="drop" if found["drop"] else "stall" if found["seconds"] else "error",
        where="login" if where == "login" else "query",
        seconds=float(found["seconds"] or 0),
        number=number,
        after_rows=int(found["rows"] or 0),
        matching=(found["match"] or "").strip(),
        times=None if always else int(times or 1),
    )


class Faults:
    """The faults that wait; safe to use from any thread while the server runs."""

    def __init__(self, *faults: Fault) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = list(faults)

    def add(self, fault: Fault | str) -> None:
        """Set a fault, or read one from text.

        :raises ValueError: the text is no fault.
        """
        ready = parse_fault(fault) if isinstance(fault, str) else fault
        with self._lock:
            self._waiting.append(ready)

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._waiting.clear()

    def command(self, text: str) -> None:
        """Do what a text of ``lab_fault`` asks: set a fault or ``clear``.

        :raises ValueError: the text is no fault.
        """
        if text.strip().lower() == "clear":
            self.clear()
        else:
            self.add(text)

    def take(self, where: Literal["login", "query"], text: str = "") -> tuple[Fault, ...]:
        """Return the faults that strike now, in the order of their rows, and count them as used."""
        struck: list[Fault] = []
        with self._lock:
            left: list[Fault] = []
            for fault in self._waiting:
                if fault.where != where or fault.matching.lower() not in text.lower():
                    left.append(fault)
                    continue
                struck.append(fault)
                if fault.times is None:
                    left.append(fault)
                elif fault.times > 1:
                    left.append(replace(fault, times=fault.times - 1))
            self._waiting = left
        return tuple(sorted(struck, key=lambda fault: fault.after_rows))

    def give_back(self, unused: list[Fault]) -> None:
        """Put faults back that did not strike: the batch ended before their row."""
        if not unused:
            return
        with self._lock:
            # those that apply always never left
            self._waiting = [replace(fault, times=1) for fault in unused if fault.times is not None] + self._waiting
