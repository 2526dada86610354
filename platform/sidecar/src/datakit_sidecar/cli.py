"""The command ``datakit-sidecar``.

It is argparse and not the library that the other commands use: this process holds the keytab, and every package that
it does not import is one that cannot go wrong in it. Nothing heavy is imported before it is needed, because
``healthcheck`` runs every few seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from datakit_sidecar import doctor
    from datakit_sidecar.failure import Failure

EXIT_BUG: Final = 70
EXIT_TEMPORARY: Final = 75
EXIT_CONFIGURATION: Final = 78


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_CONFIGURATION, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process with its exit code."""
    options = _parser().parse_args(arguments)
    if options.command in (_run, _once):
        code = _unhindered(options)
    else:
        code = _guarded(options.command, options)
        with contextlib.suppress(BrokenPipeError):  # nobody reads the answer any more
            sys.stdout.flush()
            sys.stderr.flush()
    # a call to a silent KDC cannot be interrupted, and Python would wait for its thread at the end
    os._exit(code)


def _unhindered(options: argparse.Namespace) -> int:
    """Run a command that no reader of standard error can stop; the audit log sees to standard output.

    Neither is flushed at the end: that would wait for the thread that writes to a full pipe.
    """
    from datakit_sidecar._outlet import Outlet

    outlet = Outlet(sys.stderr)
    with contextlib.redirect_stderr(outlet):
        code = _guarded(options.command, options)
        outlet.drain()
    return code


def _guarded(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    from datakit_sidecar.errors import SidecarError

    try:
        return command(options)
    except SidecarError as error:
        return _refused(error, as_json=options.json)
    except (KeyboardInterrupt, BrokenPipeError):
        return EXIT_TEMPORARY
    except Exception as error:
        from datakit_vault.errors import VaultError

        if isinstance(error, VaultError):
            return _refused(error, as_json=options.json)
        import logging

        logging.getLogger(__name__).critical("this is a bug; please report it", exc_info=error)
        return EXIT_BUG


def _refused(error: Failure, *, as_json: bool) -> int:
    sys.stderr.write(f"{json.dumps(error.as_json()) if as_json else error}\n")
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="datakit-sidecar", description="A keytab in the vault becomes tickets and secrets in memory.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=words)
        added.set_defaults(command=run)
        added.add_argument("--json", action="store_true", help="answers and errors in JSON")
        return added

    def with_config(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="the configuration; else DATAKIT_SIDECAR_CONFIG, the other DATAKIT_SIDECAR_ variables, "
            "or /etc/datakit/sidecar.yaml",
        )
        return added

    with_config(command("run", _run, "Keep tickets and secrets until SIGTERM; SIGHUP reads the vault again."))
    once = with_config(command("once", _once, "Publish everything once and leave it (for init containers)."))
    once.add_argument("--timeout", default="60s", metavar="DURATION", help="how long to try (60s)")
    with_config(command("doctor", _doctor, "Say what keeps a sidecar from being ready, and how to fix it."))
    verify = command("verify-audit", _verify_audit, "Check an audit log: no line was changed, removed or moved.")
    verify.add_argument("file", type=Path, help="the newest file; older ones beside it are checked, too")
    verify.add_argument("--head", metavar="N:HASH", help="what the last line must be, as an earlier check printed it")
    verify.add_argument("--alone", action="store_true", help="leave the older files out")
    check = with_config(command("healthcheck", _healthcheck, "Ask a running sidecar, for probes without curl."))
    check.add_argument("--live", action="store_true", help="only whether it runs, not whether it is ready")
    check.add_argument("--address", help="instead of the configuration's")
    check.add_argument("--port", type=int, help="instead of the configuration's")
    return parser


def _run(options: argparse.Namespace) -> int:
    from datakit_sidecar import sidecar

    settings = _prepared(options)
    sidecar.run(settings, sidecar.Signals())
    return 0


def _once(options: argparse.Namespace) -> int:
    from datakit_sidecar import sidecar

    seconds = _duration(options.timeout)
    settings = _prepared(options)
    sidecar.once(settings, sidecar.Signals(), seconds=seconds)
    return 0


def _prepared(options: argparse.Namespace) -> Any:
    import logging

    from datakit_sidecar import configuration, process

    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    for missing in process.harden():
        logging.getLogger(__name__).warning("%s", missing)
    return configuration.load(options.config)


def _healthcheck(options: argparse.Namespace) -> int:
    from datakit_sidecar import health

    address, port = options.address, options.port
    if address is None or port is None:
        if options.config is None and port is not None:
            address = "127.0.0.1"
        else:
            from datakit_sidecar import configuration

            configured = configuration.load(options.config).health
            address, port = address or configured.address, port or configured.port
    page = health.ask(address, port, "/healthz" if options.live else "/readyz")
    if options.json:
        sys.stdout.write(page.text)
    elif page.status != 200:
        sys.stderr.write(f"not ready: {'; '.join(health.reasons(page))}\n")
    return 0 if page.status == 200 else EXIT_TEMPORARY


def _doctor(options: argparse.Namespace) -> int:
    from datakit_sidecar import configuration, doctor

    findings = []
    for finding in doctor.examine(configuration.load(options.config)):
        findings.append(finding)
        if not options.json:
            _show(finding)
    bad = sum(finding.state is doctor.State.BAD for finding in findings)
    doubtful = sum(finding.state is doctor.State.DOUBTFUL for finding in findings)
    if options.json:
        rows = [{"subject": f.subject, "state": str(f.state), "detail": f.detail, "fix": f.fix} for f in findings]
        _say(json.dumps({"ok": not bad, "findings": rows}, indent=2))
    else:
        _say(f"{bad} bad, {doubtful} doubtful, {len(findings)} looked at")
    return EXIT_CONFIGURATION if bad else 0


def _show(finding: doctor.Finding) -> None:
    mark = {"good": "✓", "doubtful": "!", "bad": "✗"}[finding.state]
    _say(f"{mark} {finding.subject}: {finding.detail}")
    if finding.fix and finding.state != "good":
        _say(f"    next: {finding.fix}")


def _verify_audit(options: argparse.Namespace) -> int:
    from datakit_sidecar import audit
    from datakit_sidecar.errors import AuditBroken

    found = audit.verify(options.file, with_rotated=not options.alone)
    head = f"{found.head[0]}:{found.head[1]}"
    problems = list(found.problems)
    if options.head is not None and options.head != head:
        problems.append(f"{options.file}: the last line is {head}, not {options.head}")
    if options.json:
        answer = {"ok": not problems, "lines": found.lines, "head": head, "problems": problems, "notes": found.notes}
        _say(json.dumps(answer, indent=2))
    else:
        for text in (*problems, *(f"note: {note}" for note in found.notes)):
            _say(text)
        _say(f"{found.lines} lines, {len(problems)} problems, head {head}")
    return AuditBroken.exit_code if problems else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _duration(text: str) -> float:
    from datakit_sidecar import _values
    from datakit_sidecar._document import Wrong
    from datakit_sidecar.errors import InvalidSettings

    try:
        return _values.seconds(text)
    except Wrong as wrong:
        raise InvalidSettings(wrong.what, subject="--timeout", fix=wrong.fix) from None


if __name__ == "__main__":
    main()
