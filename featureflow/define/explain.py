"""Python's own errors in a definitions file, said as definition errors: where, what, and what was probably meant."""

from __future__ import annotations

import ast
import inspect
import os
import re
import traceback
from collections.abc import Callable
from types import ModuleType

from featureflow.define.aggregation import Aggregation
from featureflow.define.expression import Expr
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
    "model": "model=Late, whose scores are watched",
    "on": "on=Departure, the event that is scored",
    "above": "above=0.87, where it is raised",
    "within": 'within="30d", how long after a score its label may come',
    "source": "source=Dispute, the event",
    "value": "value=Dispute.lost, true or false of each event",
}
_ALSO_CALLED = {
    "avg": "mean",
    "average": "mean",
    "std": "stddev",
    "stdev": "stddev",
    "total": "sum",
    "var": "variance",
    "ema": "decayed_mean",
    "ewma": "decayed_mean",
    "latest": "last",
    "percentile": "approx_quantile",
    "nunique": "approx_distinct",
    "unique": "approx_distinct",
    "isnull": "is_null",
}
_MISSING = re.compile(r"\w+\.__init_subclass__\(\) missing \d+ required keyword-only arguments?: (.+)")
_UNEXPECTED = re.compile(r"(?:\w+\.)?(\w+)\(\) got an unexpected keyword argument '(\w+)'")
_BUILTIN = re.compile(r"'(\w+)' is an invalid keyword argument for (\w+)\(\)")
_CALL = re.compile(r"(\w+)\(\) ")


def explain(error: Exception | SystemExit, file: str, module: ModuleType, tree: ast.Module) -> DefinitionError:
    """The definition error for an exception that left the user's file while it was imported."""
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    at = Place(file, lines[-1] if lines else 1)
    problem, write = _said(error, module, tree, at)
    return DefinitionError(problem, write=write, file=at.file, line=at.line)


def _said(error: Exception | SystemExit, module: ModuleType, tree: ast.Module, at: Place) -> tuple[str, str]:
    known = vars(module)
    match error:
        case NameError(name=str(name)):
            later = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
            if later is not None:
                if later.lineno <= at.line <= (later.end_lineno or 0):
                    return f"{name} is used in its own body, before it is defined", f"it in a class below {name}"
                return (
                    f"{name} is used before it is defined, on line {later.lineno}",
                    f"class {name} above the line that uses it",
                )
            here = nearest(name, [one for one in known if not one.startswith("__")])
            public = None if here else _public(name)
            write = here or (
                f"from featureflow import {public}" if public else f"from ... import {name}, or define it above"
            )
            return f"{name} is not defined", write
        case AttributeError(name=str(name), obj=obj) if isinstance(obj, type):
            names = [one for one in vars(obj) if not one.startswith("_")]
            meant = nearest(name, names)
            return (
                f"{obj.__name__} has no {name}; it has {listed(names)}",
                f"{obj.__name__}.{meant or (names or ['name'])[0]}",
            )
        case AttributeError(name=str(name), obj=Aggregation() as aggregation):
            return f"{aggregation.text} has no {name}", f'{aggregation.text}["1h"] for one of its windows'
        case AttributeError(name=str(name), obj=Expr() as column):
            write = f"{name}({column.text}, ...)" if name in _public_names() else "one of its operators"
            return f"{column.text} is a column and has no {name}", write
        case ModuleNotFoundError(name=str(name)):
            return f"there is no module {name}", f"the file without {name}, or install it where featureflow runs"
        case ImportError(name="featureflow"):
            wanted = re.search(r"cannot import name '(\w+)'", str(error))
            meant = _public(wanted[1]) if wanted else None
            return (
                f"featureflow has no {wanted[1]}" if wanted else str(error),
                f"from featureflow import {meant}" if meant else f"one of {', '.join(_public_names())}",
            )
        case KeyError(args=(str(name),)) if _of_environment(error):
            return f"the environment variable {name} is not set", (
                f'{name}=... in the environment of every process that reads this file, or os.environ.get("{name}", "...") here'
            )
        case SystemExit():
            return f"the file ends the program here: {error!r}", "the definitions without it, or raise an error that says what is wrong"
        case TypeError():
            return _type_error(str(error), known, tree, at)
    return f"{type(error).__name__}: {error}", "the file so that Python can import it"


def _of_environment(error: BaseException) -> bool:
    """Whether ``os.environ`` itself raised it."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_locals.get("self") is os.environ


def _type_error(text: str, known: dict[str, object], tree: ast.Module, at: Place) -> tuple[str, str]:
    cls = next((node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.lineno == at.line), "")
    if match := _MISSING.fullmatch(text):
        names = re.findall(r"'(\w+)'", match[1])
        return f"class {cls} does not say {listed(names)}", "; ".join(
            _NEEDED.get(name, f"{name}=...") for name in names
        )
    if match := _UNEXPECTED.match(text):
        function, given = match.groups()
        if function in _public_names() and function not in known:
            return _builtin(function)
        if function == "__init_subclass__":
            base, taken = _options_of(cls, tree, known)
            what, instead = f"class {cls}", f"no {given}=; {_article(base)} {base} takes {listed(f'{name}=' for name in taken)}"
        else:
            taken = _parameters(known.get(function))
            what, instead = f"{function}()", f"no {given}="
        meant = nearest(given, taken)
        return f"{what} takes no {given}=", f"{meant}={_given(tree, given, at)}" if meant else instead
    if text == "'Window' object is not callable":
        return "lifetime is a window as it stands and is not called", "over=(lifetime,)"
    if (match := _BUILTIN.match(text)) and match[2] in _public_names():
        return _builtin(match[2])
    if "operand type" in text and "'type'" in text:
        return text, 'what the class has, not the class: Late.score of a Model, CarrierNow.delay["1h"] of a View'
    match = _CALL.match(text)
    called = known.get(match[1]) if match else None
    if match and callable(called) and getattr(called, "__module__", "").startswith("featureflow."):
        two = f"; of two values: {match[1]}imum(a, b)" if match[1] in ("min", "max") and "positional" in text else ""
        return text, f"{match[1]}({_shape(called)}){two}"
    return text, "+ - * / on numbers, == != < <= > >= to compare, & | ~ on booleans, abs log1p minimum maximum is_null"


def _options_of(cls: str, tree: ast.Module, known: dict[str, object]) -> tuple[str, list[str]]:
    """What a class that is defined in the file is built on, and the arguments that its definition takes."""
    bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls for base in node.bases]
    for base in bases:
        name = base.value if isinstance(base, ast.Subscript) else base
        built_on = known.get(name.id) if isinstance(name, ast.Name) else None
        if isinstance(built_on, type):
            return built_on.__name__, _parameters(built_on.__init_subclass__)
    return "class", []


def _article(noun: str) -> str:
    return "an" if noun[0] in "AEIO" else "a"


def _parameters(called: object) -> list[str]:
    if not callable(called):
        return []
    return list(inspect.signature(called).parameters)


def _shape(called: Callable[..., object]) -> str:
    """How it is called: ``value, over=..., where=..., default=...``."""
    return ", ".join(
        f"{p.name}=..." if p.kind is p.KEYWORD_ONLY else p.name for p in inspect.signature(called).parameters.values()
    )


def _builtin(function: str) -> tuple[str, str]:
    return f"{function}() is Python's own here, not FeatureFlow's", f"from featureflow import {function}"


def _given(tree: ast.Module, name: str, at: Place) -> str:
    """What the user gave as ``name=`` on that line, as it stands there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.Call) and node.lineno <= at.line <= (node.end_lineno or node.lineno):
            for keyword in node.keywords:
                if keyword.arg == name:
                    return ast.unparse(keyword.value).replace("'", '"')
    return "..."


def _public(name: str) -> str | None:
    """The public name that was meant by ``name``."""
    return _ALSO_CALLED.get(name.lower()) or nearest(name, _public_names())


def _public_names() -> list[str]:
    import featureflow  # at the call: featureflow's own __init__ is still being run when this file is imported

    return list(featureflow.__all__)
