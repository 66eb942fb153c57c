"""Python's own errors in a definitions file, said as definition errors: where, what, and what was probably meant."""

from __future__ import annotations

import ast
import inspect
import re
import traceback
from types import ModuleType

from featureflow.define.name import listed, nearest
from featureflow.define.place import Place
from featureflow.errors import DefinitionError

_NEEDED = {
    "topic": 'topic="departures"',
    "time": 'time="left_at", the datetime field that is the event time',
    "disorder": 'disorder="10m", how late an event may be',
    "of": "of=Carrier, the entity",
    "deadline": 'deadline="20ms"',
    "drift": "drift=0.03",
}
_MISSING = re.compile(r"(\w+)\.__init_subclass__\(\) missing \d+ required keyword-only arguments?: (.+)")
_UNEXPECTED = re.compile(r"(?:(\w+)\.)?(\w+)\(\) got an unexpected keyword argument '(\w+)'")
_CALL = re.compile(r"(\w+)\(\) ")


def explain(error: Exception, file: str, module: ModuleType, tree: ast.Module) -> DefinitionError:
    """The definition error for an exception that left the user's file while it was imported."""
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    at = Place(file, lines[-1] if lines else 1)
    problem, write = _said(error, module, tree, at)
    return DefinitionError(problem, write=write, file=at.file, line=at.line)


def _said(error: Exception, module: ModuleType, tree: ast.Module, at: Place) -> tuple[str, str]:
    known = vars(module)
    match error:
        case NameError(name=str(name)):
            later = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
            if later is not None:
                below = "its own body" if later.lineno <= at.line <= (later.end_lineno or 0) else f"line {later.lineno}, below"
                return f"{name} is used before it is defined, in {below}", f"class {name} above the line that uses it"
            public = _public_names()
            if name in public:
                return f"{name} is not defined", f"from featureflow import {name}"
            meant = nearest(name, [*known, *public])
            return f"{name} is not defined", meant or f"from ... import {name}, or define it above"
        case AttributeError(name=str(name), obj=obj) if isinstance(obj, type):
            names = [one for one in vars(obj) if not one.startswith("_")]
            meant = nearest(name, names)
            return f"{obj.__name__} has no {name}; it has {listed(names)}", f"{obj.__name__}.{meant or (names or ['name'])[0]}"
        case ImportError(name="featureflow"):
            wanted = re.search(r"cannot import name '(\w+)'", str(error))
            meant = nearest(wanted[1], _public_names()) if wanted else None
            return f"{error.msg.partition(' (')[0]}", f"from featureflow import {meant or listed(_public_names())}"
        case TypeError():
            return _type_error(str(error), known)
    return f"{type(error).__name__}: {error}", "a definitions file that Python can import"


def _type_error(text: str, known: dict[str, object]) -> tuple[str, str]:
    if match := _MISSING.fullmatch(text):
        names = re.findall(r"'(\w+)'", match[2])
        return f"class {match[1]} does not say {listed(names)}", "; ".join(_NEEDED.get(name, f"{name}=...") for name in names)
    if match := _UNEXPECTED.match(text):
        owner, function, given = match.groups()
        options = _NEEDED.keys() | {"future", "keyed_by", "role", "ttl", "when_missing"}
        if function != "__init_subclass__":
            options = set(_parameters(known.get(function)))
        meant = nearest(given, options)
        what = f"class {owner}" if function == "__init_subclass__" else f"{function}()"
        return f"{what} takes no {given}=", f"{meant}=" if meant else f"no {given}="
    match = _CALL.match(text)
    called = known.get(match[1]) if match else None
    if match and callable(called) and getattr(called, "__module__", "").startswith("featureflow."):
        return text, f"{match[1]}({', '.join(_parameters(called))})"
    return text, "+ - * / on numbers, == != < <= > >= to compare, & | ~ on booleans, abs log1p minimum maximum is_null"


def _parameters(called: object) -> list[str]:
    if not callable(called):
        return []
    parameters = inspect.signature(called).parameters.values()
    return [p.name if p.kind is not p.KEYWORD_ONLY or p.default is p.empty else p.name for p in parameters]


def _public_names() -> list[str]:
    import featureflow  # at the call: featureflow's own __init__ is still being run when this file is imported

    return list(featureflow.__all__)
