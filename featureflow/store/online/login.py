"""What a server of Redis says where the login is not the one that it wants."""

from __future__ import annotations

WANTS_ONE = ("HELLO must be called", "NOAUTH", "Authentication required")  # the first is what it says of a protocol that is asked for
REFUSED = ("WRONGPASS", "invalid username-password pair")


def refusal(problem: object, setting: str) -> str | None:
    """What ``problem`` means, and what to write into ``setting``; None where it is of something else."""
    text = str(problem)
    if not any(words in text for words in (*WANTS_ONE, *REFUSED)):
        return None
    why = "it wants a password" if any(words in text for words in WANTS_ONE) else text.removeprefix("WRONGPASS ").rstrip(".")
    return f"refuses the login ({why}); write it into {setting}, as redis://:PASSWORD@HOST:PORT/0 or redis://USER:PASSWORD@HOST:PORT/0"
