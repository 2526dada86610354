"""What goes wrong in a soak, for how long, and what may be unready because of it.

A fault of the vault excuses nothing: tickets and secrets that are published stay as good as they are. A KDC that is
away excuses what it lasts and what the sidecar needs to come back; a rotation, what lies between its two sides.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final

from datakit_sidecar.testing import SidecarProcess

from ..stage import Account, Stage

PAUSE: Final = 1.0
"""Seconds between two tries at a KDC that is away: the sidecar's shortest pause, which is also the longest where
tickets live for seconds."""
DEADLINE: Final = 1.0
"""Seconds after which the sidecar gives up a call to a KDC, as the stage configures it."""
LOOK: Final = 1.0
"""Seconds between two looks at the vault, as the stage configures it."""
RESTING: Final = 5.0
"""Seconds beyond a ticket's renewable life after which the sidecar has used its key again."""
WORK: Final = 1.0
"""Seconds for the exchanges themselves, on a machine that does other things too."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that may go wrong.

    :ivar begin: makes a context within which it is wrong.
    :ivar seconds: the shortest and the longest time it lasts.
    :ivar recovery: seconds after its end within which the sidecar may still be unready; None excuses nothing at all.
    :ivar weight: how often it is chosen.
    :ivar account: whose key it changes; the next change waits until the sidecar must have used its key again.
    :ivar alone: whether nothing else may be wrong meanwhile.
    """

    name: str
    begin: Callable[[], AbstractContextManager[object]]
    seconds: tuple[float, float]
    recovery: float | None = None
    weight: int = 2
    account: str | None = None
    alone: bool = False


@dataclass(slots=True)
class Faults:
    """All faults of a stage and its sidecar."""

    stage: Stage
    sidecar: SidecarProcess
    random: Random
    rotations: int = 0
    early_keys: int = 0
    secret_number: int = 1
    most_tries: int = 0
    rested: dict[str, float] = field(default_factory=dict)
    known: list[Fault] = field(init=False)

    def __post_init__(self) -> None:
        stage = self.stage
        away = PAUSE + WORK
        rotating = LOOK + PAUSE + WORK
        self.known = [
            Fault("KDC stopped", self._kdc_stopped, (0.5, 8), away, weight=4),
            Fault("KDC silent", lambda: stage.kdc.silent(), (0.5, 8), DEADLINE + away, weight=4),
            Fault("KDC flapping", self._kdc_flapping, (0, 0), away),
            Fault("vault down", stage.vault.down, (0.5, 6)),
            Fault("vault slow", partial(self._vault, "slow", seconds=0.05), (1, 6)),
            Fault("vault silent", lambda: self._vault("silent", seconds=5), (1, 6)),
            Fault("vault busy (503)", lambda: self._vault("unavailable", retry_after=1), (1, 6)),
            Fault("vault denies", lambda: self._vault("denied"), (1, 5)),
            Fault("vault answers HTML", lambda: self._vault("html"), (1, 5), weight=1),
            Fault("vault forgot its tokens", self._tokens_gone, (0, 0)),
            *(
                Fault(
                    f"key of {account.name} changed in {where} first",
                    partial(self._key, account, vault_first=vault_first),
                    # an early key has to be looked at, refused, and the former one taken before the realm changes
                    (2 * LOOK + WORK, 6) if vault_first else (0, 5),
                    rotating,
                    weight=3,
                    account=account.name,
                    alone=vault_first,
                )
                for account in stage.accounts
                for vault_first, where in ((False, "the realm"), (True, "the vault"))
            ),
            Fault("database password rotated", self._secret, (0, 0)),
            Fault("SIGHUP", lambda: self._signal(signal.SIGHUP), (0, 0)),
            Fault("SIGUSR1", lambda: self._signal(signal.SIGUSR1), (0, 0)),
        ]

    def choose(self) -> tuple[list[Fault], float]:
        """Return what goes wrong next, and for how long: one fault, or two at once."""
        now = time.monotonic()
        possible = [each for each in self.known if each.account is None or self.rested.get(each.account, 0) <= now]
        first = self._one_of(possible)
        chosen = [first]
        others = [each for each in possible if not each.alone and each.name.split(" ")[0] != first.name.split(" ")[0]]
        if not first.alone and self.random.random() < 0.3:
            chosen.append(self._one_of(others))
        shortest = max(fault.seconds[0] for fault in chosen)
        longest = max(fault.seconds[1] for fault in chosen)
        return chosen, self.random.uniform(shortest, longest)

    def _one_of(self, faults: list[Fault]) -> Fault:
        (chosen,) = self.random.choices(faults, [fault.weight for fault in faults])
        return chosen

    @contextmanager
    def _kdc_stopped(self) -> Iterator[None]:
        self.stage.kdc.stop()
        try:
            yield
        finally:
            self.stage.kdc.start()

    @contextmanager
    def _kdc_flapping(self) -> Iterator[None]:
        for _ in range(4):
            with self._kdc_stopped():
                pass
        yield

    @contextmanager
    def _vault(self, name: str, *, seconds: float = 0.2, retry_after: float | None = None) -> Iterator[None]:
        self.stage.vault.fault(name, times=None, seconds=seconds, retry_after=retry_after)
        try:
            yield
        finally:
            self.stage.vault.clear_faults()

    @contextmanager
    def _tokens_gone(self) -> Iterator[None]:
        self.stage.vault.expire_tokens()
        yield

    @contextmanager
    def _key(self, account: Account, *, vault_first: bool) -> Iterator[None]:
        password, kvno, value = self.stage.new_key(account)
        in_realm = partial(self.stage.change_key, account, password, kvno)
        in_vault = partial(self.stage.vault.rotate, account.secret, account.field, value)
        first, second = (in_vault, in_realm) if vault_first else (in_realm, in_vault)
        first()
        try:
            yield
        finally:
            self.most_tries = max(self.most_tries, self.stage.failed_tries(account))
            second()
            self.rested[account.name] = time.monotonic() + self.stage.renewable_life.total_seconds() + RESTING
            self.rotations += 1
            self.early_keys += vault_first

    @contextmanager
    def _secret(self) -> Iterator[None]:
        self.secret_number += 1
        self.stage.rotate_secret(self.secret_number)
        yield

    @contextmanager
    def _signal(self, number: signal.Signals) -> Iterator[None]:
        self.sidecar.signal(number)
        yield


@contextmanager
def together(faults: list[Fault]) -> Iterator[None]:
    """Within, all of them are wrong; they begin in order and end the other way round."""
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault.begin())
        yield


def recovery_of(faults: list[Fault]) -> float | None:
    """Return how long after their end the sidecar may be unready because of any of them; None if not at all."""
    times = [fault.recovery for fault in faults if fault.recovery is not None]
    return sum(times) if times else None
