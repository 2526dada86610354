"""The measurements of ``benchmarks/README.md``; ``make bench`` runs them."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
"""The workspace."""
