"""When to ask again, and the clock that waits."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from datakit_vault.errors import TemporaryError

T = TypeVar("T")


class Clock(Protocol):
    """What the client needs of time; the module :mod:`time` is one."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""
        ...

    def time(self) -> float:
        """Return seconds since 1970, for ``Retry-After`` dates."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Wait. It may raise, to end a call early."""
        ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after which pauses a temporary error is tried again.

    The pause before try *n* is chosen at random below ``first * 2**(n-1)`` (full jitter: many clients that failed at
    once do not come back at once), and is never shorter than what the vault asks for in ``Retry-After``.

    :ivar attempts: tries in all; 1 never tries again.
    :ivar first: upper bound of the first pause, seconds.
    :ivar longest: upper bound of any pause, seconds. If the vault asks for a longer one, the error is raised at once.
    :ivar total: no try begins when this many seconds have passed since the first one began.
    :ivar random: returns a number from 0 to 1.
    """

    attempts: int = 4
    first: float = 0.5
    longest: float = 10.0
    total: float = 60.0
    random: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def pause(self, failures: int, retry_after: float | None) -> float | None:
        """Return the seconds to wait after this many failures, or None to give up.

        :param failures: tries that have failed so far, 1 or more.
        :param retry_after: what the vault asked for.
        """
        if failures >= self.attempts or (retry_after or 0) > self.longest:
            return None
        jitter = self.random() * min(self.longest, self.first * 2.0 ** min(failures - 1, 30))
        return max(jitter, retry_after or 0)

    def run(self, act: Callable[[], T], clock: Clock) -> T:
        """Call ``act`` until it succeeds, fails for good, or the policy gives up; then raise its last error."""
        began = clock.monotonic()
        failures = 0
        while True:
            try:
                return act()
            except TemporaryError as error:
                failures += 1
                pause = self.pause(failures, getattr(error, "retry_after", None))
                if pause is None or clock.monotonic() + pause - began > self.total:
                    raise
            clock.sleep(pause)
