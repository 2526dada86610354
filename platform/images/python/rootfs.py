"""Copy Debian packages without the system around them: run by the Python of a Debian, it writes a root file system.

    python3 rootfs.py FOLDER PACKAGE…

Each package comes with what it depends on, except :data:`LEFT_OUT`: shells, package managers, terminals. Every library
that a copied program needs must be there in the end, or this fails. What was copied is in ``var/lib/dpkg/status.d``,
where scanners of images look for it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = frozenset(
    {
        *("coreutils", "dash", "tar", "perl-base", "openssl"),
        *("dpkg", "debconf", "debconf-2.0", "cdebconf", "libdebconfclient0", "install-info", "libselinux1"),
        *("libreadline8", "readline-common", "libncursesw6", "libtinfo6", "ncurses-base", "libdb5.3"),
    }
)
# documentation, other languages; modules of libraries that are left out; what builds and tests Python programs
DROPPED = re.compile(
    r"/usr/share/(man|info|lintian|bug|locale|doc-base|ca-certificates|perl5|pixmaps|applications|binfmts)/"
    r"|/usr/share/doc/(?!.*/copyright$)"
    r"|/usr/share/zoneinfo/right/"
    r"|/usr/share/python3?/|/usr/s?bin/(?!python3)|/etc/(init|cron|default|ca-certificates|update-motd)"
    r"|/lib-dynload/(_curses|_curses_panel|_dbm|readline|_ctypes_test|_test\w*|_xxtestfuzz|xxlimited\w*)\."
    r"|/python3\.\d+/(lib2to3|pydoc_data|turtledemo|ensurepip|idlelib|tkinter|test)/"
)
USERS = {
    "etc/passwd": "root:x:0:0::/nonexistent:/nonexistent\n"
    "sidecar:x:10001:10000::/tmp:/nonexistent\n"
    "datakit:x:10002:10000::/tmp:/nonexistent\n"
    "nobody:x:65534:65534::/nonexistent:/nonexistent\n",
    "etc/group": "root:x:0:\ndatakit:x:10000:\nnogroup:x:65534:\n",
}
MERGED = ("bin", "lib", "lib64", "sbin")


def output(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def closure(wanted: list[str]) -> list[str]:
    """Return the packages and all that they depend on, the first of alternatives, without those left out."""
    found: list[str] = []
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in found or name in LEFT_OUT:
            continue
        query = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Pre-Depends},${Depends}", name], capture_output=True, text=True, check=False
        )
        if query.returncode:
            raise SystemExit(f"rootfs: the Debian package {name} is not installed")
        found.append(name)
        for dependency in query.stdout.split(","):
            alternatives = [re.split(r"[\s:(]", each.strip())[0] for each in dependency.split("|")]
            installed = [each for each in alternatives if each and is_installed(each)]
            waiting += installed[:1]
    return sorted(found)


def is_installed(package: str) -> bool:
    """Whether a real package of that name is installed."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


def copy(source: Path, root: Path) -> None:
    """Copy a file or a link to the same place below ``root``, whose ``/lib`` is in ``/usr`` as in every Debian."""
    place = Path(os.path.realpath(source.parent)) / source.name
    target = root / place.relative_to("/")
    if target.is_symlink() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


def programs(root: Path) -> Iterator[Path]:
    """Yield what has to be linked: programs and libraries."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def missing_libraries(root: Path) -> list[str]:
    """Return the libraries that something below ``root`` needs and that are not there."""
    missing = set()
    for program in programs(root):
        listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            path = re.search(r"(?:=> )?(/\S+) \(", line)
            if path and root not in Path(path[1]).parents and not (root / os.path.realpath(path[1])[1:]).exists():
                missing.add(f"{path[1]}, of {program.relative_to(root)}")
            elif "not found" in line:
                missing.add(f"{line.strip()}, of {program.relative_to(root)}")
    return sorted(missing)


def main(folder: str, *wanted: str) -> None:
    """Write the root file system."""
    root = Path(folder)
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    status = root / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    for package in closure(list(wanted)):
        for line in output("dpkg", "-L", package).splitlines():
            path = Path(line)
            if not DROPPED.search(line) and (path.is_symlink() or path.is_file()):
                copy(path, root)
        (status / package).write_text(output("dpkg-query", "-s", package), encoding="utf-8")
    copy(Path("/etc/ssl/certs/ca-certificates.crt"), root)
    for name, text in USERS.items():
        (root / name).write_text(text, encoding="utf-8")
    for name, mode in {"tmp": 0o1777, "run/datakit": 0o755, "proc": 0o555, "sys": 0o555, "dev": 0o755}.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    subprocess.run(["ldconfig", "-r", folder], check=True)
    if missing := missing_libraries(root):
        raise SystemExit("rootfs: these libraries are missing:\n  " + "\n  ".join(missing))
    library = next((root / "usr/lib").glob("python3.*"))
    compiled = ["-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([sys.executable, *compiled, "-s", str(root), "-p", "/", str(library)], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
