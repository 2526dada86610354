"""``python -m datakit_vault`` is the ``datakit-vault`` command."""

from datakit_vault.cli import main

if __name__ == "__main__":
    main()
