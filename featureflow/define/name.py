"""Names: how a class is called in references, which names are allowed, and which one was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from featureflow.define.place import Place, wrong

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def snake(name: str) -> str:
    """``CarrierNow`` -> ``carrier_now``."""
    return _HUMP.sub("_", name).lower()


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, if one is close enough."""
    by_lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def listed(names: Iterable[str]) -> str:
    """``a, b and c``; ``none`` where there is none."""
    *front, last = list(names) or ["none"]
    return f"{', '.join(front)} and {last}" if front else last


def a(noun: str) -> str:
    """The noun with its article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def shown(value: object) -> str:
    """A class or function by its name, anything else by its repr."""
    return str(getattr(value, "__name__", None) or repr(value))


def check_class_name(cls: type, kind: str, at: Place) -> str:
    """The class's name in references. Raises DefinitionError where it cannot be one."""
    name = snake(cls.__name__)
    if not _NAME.fullmatch(name) or name.startswith("featureflow"):
        raise wrong(
            f"the {kind} {cls.__name__} would be called {name!r} in references, which is not allowed",
            write="another name: letters and digits, at most 63, not starting with Featureflow",
            at=at,
        )
    return name


def check_attribute_name(name: str, where: str, at: Place) -> None:
    """Raises DefinitionError where ``name`` cannot be a field's or a feature's name."""
    if not _NAME.fullmatch(name):
        better = re.sub(r"[^a-z0-9_]", "", snake(name)).strip("_")[:63]
        raise wrong(
            f"{where} is named {name!r}; a name is lower-case letters, digits and _, starts with a letter, has at most 63 characters",
            write=f"{better if _NAME.fullmatch(better) else 'value'}",
            at=at.within(name),
        )
