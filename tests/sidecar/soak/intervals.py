"""Spans of time, in seconds since 1970."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

Span: TypeAlias = tuple[float, float]


def total(spans: Iterable[Span]) -> float:
    """Return how long they are together; they do not overlap."""
    return sum(end - begin for begin, end in spans)


def united(spans: Iterable[Span]) -> list[Span]:
    """Return the same time as spans that do not overlap, in order."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif end > begin:
            found.append((begin, end))
    return found


def without(spans: Iterable[Span], taken: Iterable[Span]) -> list[Span]:
    """Return what is left of the spans outside of those that are taken away."""
    left = united(spans)
    for begin, end in united(taken):
        left = [
            part
            for span in left
            for part in ((span[0], min(span[1], begin)), (max(span[0], end), span[1]))
            if part[1] > part[0]
        ]
    return left
