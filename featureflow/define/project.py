"""Loading one definitions file: import it, collect what it defines in order, check what only the whole can show."""

from __future__ import annotations

import ast
import hashlib
import linecache
import sys
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from featureflow.define import spec
from featureflow.define.alert import Alert
from featureflow.define.ensemble import Ensemble
from featureflow.define.entity import Entity
from featureflow.define.event import Event
from featureflow.define.explain import explain
from featureflow.define.label import Label
from featureflow.define.model import Model
from featureflow.define.name import snake
from featureflow.define.place import Place, assigned, wrong
from featureflow.define.request import Request
from featureflow.define.version import with_version
from featureflow.define.view import View
from featureflow.errors import DefinitionError

_BASES: tuple[type[Any], ...] = (Entity, Event, View, Request, Model, Ensemble, Label, Alert)


def load(path: str | Path, *, name: str = spec.DEFAULT_PROJECT) -> spec.Project:
    """What the definitions file at ``path`` says, with the version of each view. ``name`` is the project's.

    1. parse the file, and refuse one that can define nothing, and a name that is given twice;
    2. import it under a private module name (each class checks itself as it is made);
    3. collect its classes, in the order in which they stand there;
    4. check names, topics and references across classes;
    5. give each view its version.

    Raises DefinitionError with file and line for everything that is wrong with it.
    """
    file = str(path)
    tree, code = _parse(file)  # 1
    module = _import(file, tree, code)  # 2
    classes = _classes(module)  # 3
    _check(classes, file)  # 4
    sources = [c._definition for c in classes if issubclass(c, Event)]
    by_name = {source.name: source for source in sources}
    return spec.Project(
        name=name,
        entities=tuple(c._definition for c in classes if issubclass(c, Entity)),
        sources=tuple(sources),
        views=tuple(with_version(c._definition, by_name) for c in classes if issubclass(c, View)),  # 5
        requests=tuple(c._definition for c in classes if issubclass(c, Request)),
        models=tuple(c._definition for c in classes if issubclass(c, (Model, Ensemble))),
        labels=tuple(c._definition for c in classes if issubclass(c, Label)),
        alerts=tuple(c._definition for c in classes if issubclass(c, Alert)),
    )


def _parse(file: str) -> tuple[ast.Module, CodeType]:
    try:
        tree = ast.parse(Path(file).read_bytes(), file)
        code = compile(tree, file, "exec", dont_inherit=True)
    except OSError as error:
        raise DefinitionError(
            f"the definitions file cannot be read: {error.strerror or error}",
            write="the file; or name yours in featureflow.toml (project.definitions); or go to the project's folder. "
            "A new project: featureflow init FOLDER",
            file=file,
            line=1,
        ) from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise DefinitionError(
            f"Python cannot read it: {getattr(error, 'msg', error)}",
            write=f"what Python expects there; python -m py_compile {file} shows the column",
            file=file,
            line=line,
        ) from None
    _refuse_script(tree, file)
    _refuse_repeated(tree.body, file, "the file")
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            _refuse_repeated(node.body, file, f"class {node.name}")
    return tree, code


def _refuse_script(tree: ast.Module, file: str) -> None:
    """Importing it would run it: one that sends events, say."""
    if tree.body and not any(isinstance(node, ast.ClassDef) or _imports_others(node) for node in ast.walk(tree)):
        raise DefinitionError(
            "this is no definitions file: it defines no class and imports nothing of featureflow, so it was not run",
            write="the path of the file that defines your views, as project.definitions (in featureflow.toml or the environment)",
            file=file,
            line=1,
        )


def _imports_others(node: ast.AST) -> bool:
    """Whether it is an import of something that is not Python's own."""
    match node:
        case ast.Import():
            modules = [one.name for one in node.names]
        case ast.ImportFrom():
            modules = [node.module or ""]
        case _:
            return False
    return any(name.partition(".")[0] not in sys.stdlib_module_names for name in modules)


def _refuse_repeated(body: Iterable[ast.stmt], file: str, where: str) -> None:
    """Python would keep the last of two and say nothing."""
    first: dict[str, int] = {}
    for statement in body:
        for name in assigned(statement):
            if name in first and (where != "the file" or isinstance(statement, ast.ClassDef)):
                raise DefinitionError(
                    f"{name} is defined twice in {where}, first on line {first[name]}",
                    write="another name for one of them",
                    file=file,
                    line=statement.lineno,
                )
            first[name] = statement.lineno


def _import(file: str, tree: ast.Module, code: CodeType) -> ModuleType:
    name = f"_featureflow_definitions_{hashlib.sha256(file.encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = file
    linecache.checkcache(file)
    sys.modules[name] = module  # typing resolves annotations through it
    try:
        exec(code, vars(module))
    except DefinitionError:
        raise
    except (Exception, SystemExit) as error:
        raise explain(error, file, module, tree) from error
    finally:
        del sys.modules[name]
    return module


def _classes(module: ModuleType) -> list[Any]:
    found: dict[int, Any] = {}  # by identity: an alias is not a second class
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, _BASES) and value not in _BASES:
            found.setdefault(id(value), value)
    return list(found.values())


def _check(classes: list[Any], file: str) -> None:
    if not any(issubclass(c, View) for c in classes):
        raise DefinitionError(
            "the file defines no feature view", write="class CarrierNow(View, of=Carrier): ...", file=file, line=1
        )
    for kinds in ((Entity,), (Event,), (View, Request), (Model, Ensemble), (Label,), (Alert,)):  # a column is view:feature or request:field
        _refuse_same(
            ((c._definition.name, c) for c in classes if issubclass(c, kinds)), "are both called {} in references"
        )
    _refuse_same(((c._definition.topic, c) for c in classes if issubclass(c, Event)), "both read the topic {}")
    join_keys: dict[str, Any] = {}
    for view in (c for c in classes if issubclass(c, View)):
        other = join_keys.setdefault(view._definition.join_key, view)
        if other._of is not view._of:
            raise wrong(
                f"a request would name the ids of {view.__name__} ({view._of.__name__}) and of {other.__name__} ({other._of.__name__}) "
                f"both {view._definition.join_key!r}",
                write="another name for the key field of one of them",
                at=view._place,
            )
        _check_named(view, (view._of, *(aggregation.event for aggregation in view._aggregations.values())), classes)

    known = {c._definition.name for c in classes if issubclass(c, (View, Request))}
    for model in (c for c in classes if issubclass(c, (Model, Ensemble))):
        for column in (name for one in model._definition.inputs for name in spec.columns_of(one.expr)):
            if column.partition(":")[0] not in known:
                raise wrong(
                    f"{model.__name__} reads {column}, whose class is not a name of this file",
                    write=f"the class called {column.partition(':')[0]} in this file, or import it by its name",
                    at=model._place,
                )
    for ensemble in (c for c in classes if issubclass(c, Ensemble)):
        _check_named(ensemble, ensemble._members, classes, "reads the score of")
    _check_labels([c for c in classes if issubclass(c, Label)], classes)
    _check_alerts([c for c in classes if issubclass(c, Alert)], classes)


def _check_named(cls: Any, others: Iterable[type], classes: list[Any], uses: str = "uses") -> None:
    """What a class is made of has to be collected with it: only names of the file are."""
    for other in others:
        if other not in classes:
            raise wrong(
                f"{cls.__name__} {uses} {other.__name__}, which is not a name of this file",
                write=f"class {other.__name__} in this file, or from ... import {other.__name__}",
                at=cls._place,
            )


def _check_labels(labels: list[type[Label]], classes: list[Any]) -> None:
    first: dict[str, type[Label]] = {}
    for label in labels:
        other = first.setdefault(label._definition.model, label)
        if other is not label:
            raise wrong(
                f"{other.__name__} and {label.__name__} are both labels of {label._uses[0].__name__}: a model has one accuracy",
                write="one of them",
                at=label._place,
            )
        _check_named(label, label._uses, classes)


def _check_alerts(alerts: list[type[Alert]], classes: list[Any]) -> None:
    first: dict[tuple[str, str], type[Alert]] = {}
    for alert in alerts:
        _check_named(alert, alert._uses, classes)
        other = first.setdefault((alert._definition.model, alert._definition.source), alert)
        if other._definition.context != alert._definition.context:
            raise wrong(
                f"{other.__name__} and {alert.__name__} give {alert._uses[0].__name__} different context, and an event is scored once",
                write=f"the same context in both, or another model for {alert.__name__}",
                at=alert._place.within("context"),
            )


def _refuse_same(named: Iterable[tuple[str, Any]], how: str) -> None:
    first: dict[str, Any] = {}
    for name, cls in named:
        other = first.setdefault(name, cls)
        if other is not cls:
            topic = "topic" in how
            raise wrong(
                f"{other.__name__} and {cls.__name__} {how.format(repr(name))}",
                write=f'topic="{snake(cls.__name__)}s", or one event for both'
                if topic
                else "another name for one of them",
                at=Place(cls._place.file, cls._place.line),
            )
