"""``python -m datakit_lab`` is ``datakit-lab``."""

from datakit_lab.cli import main

main()
