"""What the scripts that write documentation share: write a page or, with ``--check``, fail if it is not current."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_or_check(page: Path, text: str, script: str) -> int:
    """Write ``text`` to ``page``; with ``--check`` among the arguments only compare. Returns the exit code."""
    if "--check" not in sys.argv[1:]:
        page.write_text(text, encoding="utf-8")
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        name = page.relative_to(ROOT)
        print(f"{name} is not current; run: .venv/bin/python {Path(script).relative_to(ROOT)}", file=sys.stderr)
        return 1
    return 0
