"""``python -m datakit`` is the ``datakit`` command."""

from datakit.cli import main

if __name__ == "__main__":
    main()
