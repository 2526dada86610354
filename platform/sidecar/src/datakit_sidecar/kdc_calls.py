"""Calls to KDCs under a deadline of their own.

libkrb5 1.20 waits 27 s for one silent KDC and takes no limit. So a worker thread makes the call and the caller waits
as long as it likes. A call that is given up goes on in its worker, which ends with it; how many such workers there may
be is bounded. What comes of it is not lost: a KDC counts a wrong key whether anybody still waits for the answer or not.
libkrb5 releases Python's lock while it waits.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import krb5

from datakit_sidecar.errors import KdcSilent, SidecarError
from datakit_sidecar.kerberos import new_context

T = TypeVar("T")
_MOST_HUNG: Final = 4


Outcome = Callable[[], T]
"""Returns a call's result, or raises its error."""


class _Job(Generic[T]):
    def __init__(self, call: Callable[[krb5.Context], T], late: Callable[[Outcome[T]], None]) -> None:
        self._call = call
        self._late = late
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._given_up = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def work(self, context: Callable[[], krb5.Context]) -> None:
        try:
            self._result = self._call(context())
        except SidecarError as error:
            # it is kept until things go well; the frames behind it would keep keys and contexts with it
            error.__context__ = None
            self._error = error.with_traceback(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self._error = error
        with self._lock:
            self._ended.set()
            given_up = self._given_up
        if given_up:
            self._late(self.outcome)

    def wait(self, seconds: float) -> bool:
        if not self._ended.wait(seconds):
            with self._lock:
                self._given_up = not self._ended.is_set()
        return not self._given_up

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set where there is no error


class KdcCalls:
    """Makes one call after the other, each with a deadline.

    :param name: whose calls, for the threads' names and messages.
    :param timeout: seconds for each call.
    :param most_hung: how many given-up calls may still wait; further ones are refused at once.
    """

    def __init__(self, name: str, timeout: float, *, most_hung: int = _MOST_HUNG) -> None:
        self._name = name
        self._timeout = timeout
        self._most_hung = most_hung
        self._hung: list[threading.Thread] = []
        self._worker: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()

    def run(
        self,
        what: str,
        call: Callable[[krb5.Context], T],
        late: Callable[[Outcome[T]], None] = lambda _: None,
        *,
        kdcs: tuple[str, ...] = (),
    ) -> T:
        """Make a call and return its result.

        :param what: what is asked for, for the message.
        :param late: gets the outcome, in the worker, if it comes after the deadline; exactly then the error that was
            raised is ``in_flight``.
        :raises KdcSilent: the deadline passed, or too many earlier calls still wait.
        :raises SidecarError: whatever the call raises.
        """
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        if len(self._hung) >= self._most_hung:
            cause = f"{len(self._hung)} earlier calls still wait for an answer"
            raise self._silent(what, cause, kdcs, in_flight=False)
        if self._worker is None or not self._worker.is_alive():
            self._jobs = queue.SimpleQueue()
            self._worker = threading.Thread(target=_work, args=(self._jobs,), name=f"kdc {self._name}", daemon=True)
            self._worker.start()
        job = _Job(call, late)
        self._jobs.put(job)  # type: ignore[arg-type]
        if job.wait(self._timeout):
            return job.outcome()
        self._jobs.put(None)  # the worker ends when its call does
        self._hung.append(self._worker)
        self._worker = None
        raise self._silent(what, f"no answer within {self._timeout:g} s", kdcs, in_flight=True)

    def close(self) -> None:
        """Let the worker end after the call it is in."""
        self._jobs.put(None)

    def _silent(self, what: str, cause: str, kdcs: tuple[str, ...], *, in_flight: bool) -> SidecarError:
        return KdcSilent(
            f"the KDC is silent: {what}; KDCs: {', '.join(kdcs) or 'those that DNS names'}",
            subject=self._name,
            cause=f"{cause}; a firewall drops packets to port 88, or the KDC hangs",
            fix="check from here: nc -zvu KDC 88; put a KDC that answers first in kerberos.kdcs",
            in_flight=in_flight,
        )


def _work(jobs: queue.SimpleQueue[_Job[object] | None]) -> None:
    """Work until told to end. The context is this thread's own: libkrb5's are not for two threads at once."""
    context = functools.cache(new_context)
    while (job := jobs.get()) is not None:
        job.work(context)
        del job  # an idle worker would hold on to what the last call held
