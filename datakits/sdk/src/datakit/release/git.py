"""Git, as far as locks need it: through its command, so that hooks, signatures and identity hold as for any commit.

A commit of ours holds one file. What else is changed or staged in the working tree stays as it is.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Final

from datakit.errors import ConfigurationError, LockRefused, TemporaryError

_ELSEWHERE: Final = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE")
"""Set inside of hooks; they would turn a look at one repository into one at another."""
_UNDER_WAY: Final = {
    "MERGE_HEAD": "merge",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
}
_PATIENCE_SECONDS: Final = 30
_FIELDS: Final = ("%H", "%an", "%ae", "%cI", "%P", "%s", "%(trailers:only,unfold)")


@dataclass(frozen=True, slots=True)
class LoggedCommit:
    """One commit of the history of a file.

    :ivar revision: its hash, in full.
    :ivar author: ``NAME <ADDRESS>``.
    :ivar trailers: (key, value), in order; a key may be there several times.
    """

    revision: str
    author: str
    time: datetime
    subject: str
    trailers: tuple[tuple[str, str], ...]
    is_merge: bool = False

    def trailer(self, key: str) -> str | None:
        """Return the first value of a trailer."""
        return next((value for name, value in self.trailers if name == key), None)


class GitRepository:
    """The repository around a folder.

    :ivar root: the top of its working tree.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def around(cls, folder: Path) -> GitRepository:
        """Find it.

        :raises ConfigurationError: git is not installed, or the folder is in no repository.
        """
        done = _run(folder, "rev-parse", "--show-toplevel")
        if done.returncode != 0:
            said = done.stderr.strip()
            owned = "dubious ownership" in said
            raise ConfigurationError(
                "Git refuses to look at this folder" if owned else "the folder is in no Git repository",
                subject=str(folder),
                cause="the folder belongs to another user" if owned else None,
                fix=f"git config --global --add safe.directory {folder}" if owned else "git init, and commit the tree",
            )
        return cls(Path(done.stdout.rstrip("\n")).resolve())

    def name_of(self, path: Path) -> str:
        """Return a file's name within the repository.

        :raises ConfigurationError: it is not in it.
        """
        try:
            return path.resolve().relative_to(self.root).as_posix()
        except ValueError:
            raise ConfigurationError("the file is not in this repository", subject=f"{path} ({self.root})") from None

    # Looking

    def branch(self) -> str | None:
        """Return the current branch; None where the head is detached."""
        return self._said("symbolic-ref", "--quiet", "--short", "HEAD") or None

    def head(self) -> str | None:
        """Return the current commit; None before the first one."""
        return self._said("rev-parse", "--quiet", "--verify", "HEAD^{commit}") or None

    def under_way(self) -> str | None:
        """Return what is not finished: ``merge``, ``rebase`` …"""
        paths = self._said("rev-parse", *(part for name in _UNDER_WAY for part in ("--git-path", name))).splitlines()
        for path, what in zip(paths, _UNDER_WAY.values(), strict=True):
            if (self.root / path).exists():
                return what
        return None

    def is_shallow(self) -> bool:
        """Whether history was cut off when it was cloned."""
        return self._said("rev-parse", "--is-shallow-repository") == "true"

    def uncommitted(self, paths: Iterable[Path]) -> tuple[str, ...]:
        """Return which of these files differ from the commit, or are not in it."""
        names = [self.name_of(path) for path in paths]
        if not names:
            return ()
        listed = self._must(
            "status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", "--ignored", "--", *names
        )
        return tuple(line[3:] for line in listed.split("\0") if line)

    def identity(self) -> str:
        """Return who commits, ``NAME <ADDRESS>``.

        :raises ConfigurationError: Git does not know.
        """
        done = self._run("var", "GIT_AUTHOR_IDENT")
        if done.returncode != 0 or self._run("var", "GIT_COMMITTER_IDENT").returncode != 0:
            raise ConfigurationError(
                "Git does not know who you are, and a lock says who changed it",
                subject=str(self.root),
                fix="git config user.name NAME; git config user.email ADDRESS",
            )
        return _printable(done.stdout[: done.stdout.rindex(">") + 1])

    def resolve(self, revision: str) -> str | None:
        """Return the hash of a commit, a tag or a branch; None if there is none."""
        return self._said("rev-parse", "--quiet", "--verify", "--end-of-options", f"{revision}^{{commit}}") or None

    def log(self, path: Path) -> tuple[LoggedCommit, ...]:
        """Return the commits that changed a file, the latest first."""
        if self.head() is None:
            return ()
        form = "%x1e" + "%x1f".join(_FIELDS)
        listed = self._must("log", f"--format={form}", "--date-order", "--", self.name_of(path))
        return tuple(_logged(entry) for entry in listed.split("\x1e")[1:])

    def commit_of(self, revision: str) -> LoggedCommit | None:
        """Return one commit; None if this repository does not have it."""
        if self.resolve(revision) is None:
            return None
        form = "%x1e" + "%x1f".join(_FIELDS)
        return _logged(self._must("log", "-1", f"--format={form}", "--end-of-options", revision).split("\x1e")[1])

    def contents(self, revisions: Sequence[str], path: Path) -> tuple[str | None, ...]:
        """Return a file as it was at each of those commits; None where it was not there."""
        name = self.name_of(path)
        wanted = "".join(f"{revision}:{name}\n" for revision in revisions)
        done = _run(self.root, "cat-file", "--batch", given=wanted.encode())
        data, start = done.stdout.encode("utf-8", "surrogateescape"), 0
        found: list[str | None] = []
        for _ in revisions:
            end = data.index(b"\n", start)
            said = data[start:end].split()
            if said[-1] == b"missing":
                found.append(None)
                start = end + 1
            else:
                size = int(said[-1])
                found.append(data[end + 1 : end + 1 + size].decode("utf-8", "replace"))
                start = end + size + 2
        return tuple(found)

    def changed_upstream(self, path: Path) -> str | None:
        """Return the branch that this one follows, if that has changes of a file that are not here."""
        upstream = self._said("rev-parse", "--quiet", "--abbrev-ref", "--symbolic-full-name", "@{upstream}")
        if not upstream:
            return None
        done = self._run("diff", "--quiet", "HEAD...@{upstream}", "--", self.name_of(path))
        return upstream if done.returncode == 1 else None

    # Writing

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Let one command of ours at a time read a lock and write it, on this machine.

        :raises TemporaryError: another one does not end.
        """
        file = self.root / self._must("rev-parse", "--git-path", "datakit.lock").strip()
        try:
            opened_file = file.open("w")
        except OSError as error:
            raise _unwritable(file, error) from None
        with opened_file as opened:
            give_up = monotonic() + _PATIENCE_SECONDS
            while not _try_lock(opened):
                if monotonic() > give_up:
                    raise TemporaryError(
                        f"another command has been changing locks for {_PATIENCE_SECONDS} seconds",
                        subject=str(self.root),
                        fix="run it again when that one has ended",
                    )
                sleep(0.05)
            yield

    def commit(self, path: Path, text: str, message: str) -> str:
        """Write a file and commit it, and nothing else; return the commit. The file is as before if that fails.

        :raises LockRefused: a hook or Git refuses.
        :raises TemporaryError: another process writes to the repository.
        """
        before = path.read_bytes() if path.exists() else None
        head, name = self.head(), self.name_of(path)
        with _undisturbed():
            try:
                _replace(path, text.encode())
                self._checked(path, "add", "--", name)
                self._checked(path, "commit", "--quiet", "--only", "-F", "-", "--", name, given=message.encode())
            except BaseException as error:
                if self.head() == head:  # else it was committed, and only what followed failed
                    self._undo(path, name, before)
                if isinstance(error, OSError):
                    raise _unwritable(path, error) from None
                raise
        return self._must("rev-parse", "HEAD").strip()

    def _undo(self, path: Path, name: str, before: bytes | None) -> None:
        now = path.read_bytes() if path.exists() else None
        if before is None:
            path.unlink(missing_ok=True)
            self._run("rm", "--cached", "--quiet", "--ignore-unmatch", "--", name)
        else:
            if now != before:
                _replace(path, before)
            self._run("reset", "--quiet", "--", name)

    def _checked(self, path: Path, *arguments: str, given: bytes | None = None) -> None:
        done = _run(self.root, *arguments, given=given)
        if done.returncode == 0:
            return
        said = " ".join(f"{done.stderr} {done.stdout}".split())[-600:]
        if ".lock': File exists" in said or "cannot lock ref" in said:
            raise TemporaryError(
                "another process writes to the repository; nothing was changed",
                subject=str(path),
                cause="a Git command or an editor is at work, or one was killed and left its lock file",
                fix="run it again; if it stays so and no Git command runs, remove the lock file that Git names: "
                + said,
            )
        raise LockRefused(
            f"git {arguments[0]} failed; nothing was changed",
            subject=str(path),
            cause=said or f"it ended with {done.returncode}, without a word",
            fix="put right what Git or the hook says, and run it again",
        )

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _run(self.root, *arguments)

    def _said(self, *arguments: str) -> str:
        done = self._run(*arguments)
        return done.stdout.strip() if done.returncode == 0 else ""

    def _must(self, *arguments: str) -> str:
        done = self._run(*arguments)
        if done.returncode != 0:
            raise ConfigurationError(
                f"git {arguments[0]} failed: {' '.join(done.stderr.split())[-300:]}", subject=str(self.root)
            )
        return done.stdout


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let SIGTERM and SIGINT wait: a Git that is killed leaves its lock file and half of its work."""
    if threading.current_thread() is not threading.main_thread():  # Python gives signals to the main thread alone
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda which, _: came.append(which)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            if handler is not None:
                signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _try_lock(opened: IO[str]) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _logged(entry: str) -> LoggedCommit:
    revision, name, address, time, parents, subject, trailers = _printable(entry).strip("\n").split("\x1f")
    pairs = (line.partition(":") for line in trailers.splitlines() if ":" in line)
    return LoggedCommit(
        revision=revision,
        author=f"{name} <{address}>",
        time=datetime.fromisoformat(time),
        subject=subject,
        trailers=tuple((key, value.strip()) for key, _, value in pairs),
        is_merge=len(parents.split()) > 1,
    )


def _printable(text: str) -> str:
    """Replace bytes that were never UTF-8, as old commits have them; no terminal and no JSON takes them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"it cannot be written: {error.strerror}; nothing was changed",
        subject=str(path),
        cause="the disk is full, or the folder is another user's",
        fix=f"look at it: df {path.parent}; ls -ld {path.parent}",
    )


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        if path.exists():
            partial.chmod(path.stat().st_mode & 0o777)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _run(folder: Path, *arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "-c", "core.quotePath=false", *arguments],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigurationError(
            "git is not installed, and locks live in Git", fix="install it: apt-get install git"
        ) from None
    # not text=True, which would turn CR LF into LF, and the sizes that git says into lies
    out, err = (data.decode("utf-8", "surrogateescape") for data in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)
