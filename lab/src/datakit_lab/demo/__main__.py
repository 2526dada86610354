"""``python -m datakit_lab.demo``: tell the whole story; ``… down``: end what a demo with KEEP=1 left running.

``RUNTIME`` is ``process`` or ``docker``; with ``KEEP=1`` everything stays up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console

from datakit_lab.demo.airflow import Airflow
from datakit_lab.demo.places import Containers, Place, Processes
from datakit_lab.demo.story import Demo
from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.state import LabState

_AGAIN_SECONDS: Final = 5


def main() -> None:
    """Do what the command line asks."""
    hear_interrupts()
    try:
        if sys.argv[1:] == ["down"]:
            _down()
        else:
            _tell()
    except LabError as error:
        Console(stderr=True).print(f"demo: {error}", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _tell() -> None:
    root = Path.cwd()
    state = LabState(root / ".lab")
    airflow = _airflow(root, state)
    if state.running:
        raise LabError("a lab runs already in .lab; the demo wants a fresh one", fix="make demo-down")
    _down()  # what a demo that was killed has left
    keep = os.environ.get("KEEP", "") not in {"", "0"}
    place = _place(os.environ.get("RUNTIME", "process"), state)
    console = Console(width=None if sys.stdout.isatty() else 150)
    demo = Demo(console, root, place, airflow)
    kept = done = False
    try:
        demo.bring_the_lab_up()
        demo.show_the_credentials()
        demo.start_airflow()
        first = demo.load_and_rotate("First load: January to November, and meanwhile new keys and a new password")
        demo.let_the_source_live()
        second = demo.load("Second load: only what changed")
        demo.show("First load", first)
        demo.show("Second load", second)
        demo.prove_equality()
        if not keep:
            demo.clean_up()
        demo.verify_the_audit_log()
        demo.say_how_to_look_around(kept=keep)
        kept, done = keep, True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not done:
            console.print("\ndemo: ending what was started", highlight=False)
        if not kept:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever is impatient would leave the half of it running
            _end(airflow, place)


def _down() -> None:
    root = Path.cwd()
    state = LabState(root / ".lab")
    place: Place = Processes(state)
    with contextlib.suppress(LabError):  # where no engine answers, nothing is left in one
        place = Containers(state)
    _end(_airflow(root, state), place)


def _end(airflow: Airflow, place: Place) -> None:
    """End everything that still runs, also if the end of one part fails."""
    with contextlib.ExitStack() as last_first:
        if place.state.running:
            last_first.callback(subprocess.run, ["datakit-lab", "down"], check=False)
        last_first.callback(place.stop)
        last_first.callback(airflow.stop)


def _place(runtime: str, state: LabState) -> Place:
    match runtime:
        case "process":
            return Processes(state)
        case "docker":
            try:
                return Containers(state)
            except LabError as error:
                raise LabUnavailable(
                    error.what, fix=f"{error.fix}; or without one: make demo RUNTIME=process"
                ) from None
        case _:
            raise LabError(f"RUNTIME is {runtime!r}", fix="RUNTIME=process, or RUNTIME=docker")


def _airflow(root: Path, state: LabState) -> Airflow:
    return Airflow(state.directory / "airflow", logs=state.logs, tree=root, commands=root / ".venv-airflow/bin")


def hear_interrupts() -> None:
    """Let whatever ends the demo raise KeyboardInterrupt, again and again until the alarm is turned off."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    # what is raised while Python finalises an object, such as a connection that was read, is printed and forgotten
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
