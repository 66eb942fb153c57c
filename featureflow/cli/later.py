"""What is opened when it is first used, since opening it is slow and it is seldom needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any


class Later:
    """Stands for what ``open`` gives, from the first use of an attribute on."""

    def __init__(self, open: Callable[[], object]) -> None:
        self._open = open

    @cached_property
    def _opened(self) -> object:
        return self._open()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)
