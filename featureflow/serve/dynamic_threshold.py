"""What all callers of a process hold of something bounded, so that none of them can take it all.

A caller may hold at most ``ALPHA`` times what that leaves free (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory
Packet Switches", 1998). One alone comes to eight ninths; n that all want more to ALPHA / (1 + n ALPHA) each. The shares follow from what is
free alone, so nobody has to be known before, and none is kept for those who hold nothing.
"""

from __future__ import annotations

ALPHA = 8


class DynamicThreshold:
    """At most ``most`` together. Belongs to one event loop."""

    __slots__ = ("by_caller", "most", "taken")

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self.by_caller: dict[str, int] = {}  # of those who hold something

    def take(self, caller: str, size: int = 1) -> bool:
        """Let the caller hold so much more, at least 1, if it may."""
        own, taken = self.by_caller.get(caller, 0), self.taken + size
        if taken > self.most or (own and own + size > ALPHA * (self.most - taken)):  # who has nothing may have the last that there is
            return False
        self.by_caller[caller] = own + size
        self.taken = taken
        return True

    def has_room(self, size: int = 1) -> bool:
        """Whether there is as much for somebody: where ``take`` is False nevertheless, it is the caller that holds its share."""
        return size <= self.most - self.taken

    def give_back(self, caller: str, size: int = 1) -> None:
        """What the caller took, or a part of it."""
        left = self.by_caller[caller] - size
        if left:
            self.by_caller[caller] = left
        else:
            del self.by_caller[caller]
        self.taken -= size
