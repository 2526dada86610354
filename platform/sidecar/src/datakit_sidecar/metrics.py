"""The metrics, in Prometheus' text format, written by hand.

Why not the client library: these are fifteen families read off one board, and the process that holds the keytab should
import as little as it can.
The format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from datakit_sidecar.status import BUCKETS, Board

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "datakit_sidecar_"
_Sample = tuple[Mapping[str, str], float]


def render(board: Board, *, now: float, audit_lines: int, audit_lost: int) -> str:
    """Return the page of metrics.

    :param now: seconds since 1970.
    """
    ready = not board.reasons()
    page = _Page()
    with board.open():
        page.add("ready", "gauge", "1 if every ticket and secret is published and lives long enough.", [({}, ready)])
        page.add("start_time_seconds", "gauge", "When the sidecar started, since 1970.", [({}, board.started_at)])
        tickets = board.tickets.items()
        page.add(
            "ticket_seconds_left",
            "gauge",
            "Life left of a published ticket; 0 if it has expired or was never published.",
            [
                ({"principal": name, "service": service}, max(0.0, each.ends.get(service, 0.0) - now))
                for name, each in tickets
                for service in each.wanted
            ],
        )
        page.add(
            "tickets_issued_total",
            "counter",
            "Ticket-granting tickets got with the key.",
            [({"principal": name}, each.issues) for name, each in tickets],
        )
        page.add(
            "tickets_renewed_total",
            "counter",
            "Ticket-granting tickets got by renewal.",
            [({"principal": name}, each.renewals) for name, each in tickets],
        )
        page.add(
            "key_version",
            "gauge",
            "Version of the key in use (kvno).",
            [({"principal": name}, each.kvno) for name, each in tickets if each.kvno is not None],
        )
        page.add(
            "last_rotation_time_seconds",
            "gauge",
            "When a new key or secret last replaced another, since 1970.",
            [
                *(({"principal": name}, each.rotated_at) for name, each in tickets if each.rotated_at is not None),
                *(
                    ({"secret": name}, files.rotated_at)
                    for name, files in board.secrets.items()
                    if files.rotated_at is not None
                ),
            ],
        )
        page.add(
            "secret_age_seconds",
            "gauge",
            "Time since the present value of a secret was published.",
            [
                ({"secret": name}, now - files.published_at)
                for name, files in board.secrets.items()
                if files.published_at is not None
            ],
        )
        page.add(
            "failures_total",
            "counter",
            "Failures by what was asked (kdc, vault, key, publish) and cause.",
            [({"what": what, "cause": cause}, count) for (what, cause), count in sorted(board.failures.items())],
        )
        if board.vault_checked_at is not None:
            page.add(
                "vault_checked_time_seconds", "gauge", "When the vault last answered.", [({}, board.vault_checked_at)]
            )
        page.add_histogram(
            "vault_seconds", "Time of a successful call to the vault.", board.vault_seconds, board.vault_total
        )
    page.add("audit_lines_total", "counter", "Lines of the audit log; the number of the last one.", [({}, audit_lines)])
    page.add("audit_lost_copies_total", "counter", "Lines that standard output did not take.", [({}, audit_lost)])
    return page.text()


class _Page:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, help_text: str, samples: Iterable[_Sample]) -> None:
        lines = [f"{_PREFIX}{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
        if lines:
            self._head(name, kind, help_text)
            self._lines += lines

    def add_histogram(self, name: str, help_text: str, counts: list[int], total: float) -> None:
        self._head(name, "histogram", help_text)
        below = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
            below += count
            self._lines.append(f'{_PREFIX}{name}_bucket{{le="{bound}"}} {below}')
        self._lines += [f"{_PREFIX}{name}_sum {_number(total)}", f"{_PREFIX}{name}_count {below}"]

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _head(self, name: str, kind: str, help_text: str) -> None:
        self._lines += [f"# HELP {_PREFIX}{name} {help_text}", f"# TYPE {_PREFIX}{name} {kind}"]


def _labels(labels: Mapping[str, str]) -> str:
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escaped(text)}"' for name, text in labels.items()) + "}" if labels else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"
