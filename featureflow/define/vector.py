"""A vector: a list of so many numbers, as ``Field[Vector[128]]``."""

from __future__ import annotations

from collections.abc import Iterator
from types import GenericAlias
from typing import Any, Protocol

MYPY = False                               # mypy takes the name for true, and nobody else does

if MYPY:
    Vector: Any  # mypy has no type with a number between its brackets; a name of type Any is one that it lets pass
else:

    class Vector(Protocol):
        """``Vector[128]`` is the type of a field: 128 finite numbers. A list, a tuple and a numpy array of floats are such values."""

        def __len__(self) -> int: ...
        def __iter__(self) -> Iterator[float]: ...
        def __class_getitem__(cls, size: int) -> GenericAlias:
            # a tuple as it is: typing gives the arguments again as one; and what equals a number and is none is not to be taken for it
            return GenericAlias(cls, size if type(size) in (int, tuple) else (size, type(size)))
