"""stub"""


def doctor() -> None:
    """Say what is wrong on this machine and how to fix it."""
