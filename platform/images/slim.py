"""Remove from installed packages what no datakit and no sidecar ever runs: python3 slim.py FOLDER…

Each rule says why. What is removed is optional for the package itself, which is tested by running the images.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

RULES = {
    "tests, which are for a package's own authors": r"/tests/",
    "for those who compile against a package": r"/pyarrow/(include|src)/|\.(pyx|pxd|pxi|pyi|h|hpp|c|cc|cpp|lib)$",
    "Arrow's ways to clouds, other servers and other formats": r"/pyarrow/("
    r"_(flight|s3fs|azurefs|gcsfs|hdfs|orc|dataset_orc|parquet_encryption|dataset_parquet_encryption)\."
    r"|_pyarrow_cpp_tests\.|libarrow_(flight|s3)|libarrow_python_(flight|parquet_encryption))",
    "the driver for other Pythons and other systems than Debian": r"/mssql_python/ddbc_bindings\.(?!cp{tag}-)cp"
    r"|/mssql_python_odbc/libs/linux/(alpine|rhel|suse)/",
}


def doomed(path: str) -> bool:
    """Whether a rule names the path, which begins with a slash below the folder."""
    tag = "{}{}".format(*sys.version_info[:2])
    return any(re.search(rule.replace("{tag}", tag), path) for rule in RULES.values())


def deduplicated(folder: Path) -> None:
    """Make links of libraries that a wheel, which has no links, holds several times (x.so, x.so.1, x.so.1.2)."""
    for library in sorted(folder.rglob("*.so")):
        for longer in sorted(library.parent.glob(f"{library.name}.*")):
            if longer.read_bytes() == library.read_bytes() and not longer.is_symlink():
                longer.unlink()
                longer.symlink_to(library.name)


def strip(folder: Path) -> None:
    """Remove debugging symbols of what was compiled on this machine, if the tool for it is there."""
    if shutil.which("strip") is None:
        return
    for library in folder.rglob("*.so"):
        if library.parts[len(folder.parts)] == "krb5":
            subprocess.run(["strip", "--strip-debug", str(library)], check=True)


def main(*folders: str) -> None:
    """Make each folder slim."""
    for folder in map(Path, folders):
        for path in sorted(folder.rglob("*"), reverse=True):
            if not path.is_dir() and doomed(f"/{path.relative_to(folder)}"):
                path.unlink()
        deduplicated(folder)
        strip(folder)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


if __name__ == "__main__":
    main(*sys.argv[1:])
