"""Lets the folder ``platform/`` hold tests although Python has a module of that name.

Pytest imports a test as ``platform.vault.tests.test_client`` and, finding that ``platform`` is no package, puts one in
its place, without ``platform.machine()`` and all that others need. With a path, Python's own module is package enough.
"""

import platform
from pathlib import Path

platform.__path__ = [str(Path(__file__).with_name("platform"))]
