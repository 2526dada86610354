"""How much disk something takes that has to be installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

_CLOSURE: Final = """
import json, re, sys
from importlib.metadata import distribution, PackageNotFoundError
from pathlib import Path
wanted, seen, files = [sys.argv[1]], set(), set()
while wanted:
    name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
    if name in seen:
        continue
    seen.add(name)
    try:
        found = distribution(name)
    except PackageNotFoundError:
        continue  # for another system or Python
    for requirement in found.requires or ():
        if "extra ==" not in requirement:
            wanted.append(re.match(r"[A-Za-z0-9._-]+", requirement)[0])
    for file in found.files or ():
        path = Path(file.locate())
        if path.suffix == ".pth":  # one that is edited in place
            files.update(each for each in Path(path.read_text().strip()).rglob("*") if "test" not in str(each))
        files.add(path)
print(json.dumps(sum(path.stat().st_size for path in files if path.is_file())))
"""


def distributions(name: str, python: str | Path = sys.executable) -> int:
    """Return the bytes of an installed Python distribution and all that it needs, compiled bytecode included."""
    done = subprocess.run([python, "-c", _CLOSURE, name], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


def debian_package(name: str) -> int:
    """Return the bytes of an installed Debian package, without those it needs; 0 if it is not installed."""
    command = ["dpkg-query", "-W", "-f", "${Installed-Size}", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout or 0) * 1024
