"""On which machine, when, and from which commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import ROOT


def described() -> str:
    """Return processors, memory and kernel."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    processors = f"{os.cpu_count()} processors, {cpu[1] if cpu else platform.machine()}"
    return f"{processors}, {memory / 1e9:.0f} GB, Linux {platform.release()}"


def now() -> str:
    """Return date, time and commit."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC at commit {commit.stdout.strip() or 'unknown'}"
