"""Where in the user's file something was written, and the error that says so."""

from __future__ import annotations

import ast
import linecache
import sys
from dataclasses import dataclass
from pathlib import Path

from featureflow.errors import DefinitionError

_ROOM = str(Path(__file__).parent)


@dataclass(frozen=True)
class Place:
    """A line of a definitions file; lines count from 1."""

    file: str
    line: int

    def within(self, name: str) -> Place:
        """The line that assigns or annotates ``name`` in the class that starts here; this line where there is none."""
        try:
            tree = ast.parse("".join(linecache.getlines(self.file)))
        except SyntaxError:
            return self
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.lineno == self.line:
                for statement in node.body:
                    if name in assigned(statement):
                        return Place(self.file, statement.lineno)
        return self


def assigned(statement: ast.stmt) -> tuple[str, ...]:
    """The plain names that a statement gives a value or a type."""
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return (name,)
        case ast.Assign(targets=targets):
            return tuple(target.id for target in targets if isinstance(target, ast.Name))
        case _:
            return ()


def here() -> Place:
    """The innermost line on the stack that is not in this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_ROOM):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)


def wrong(problem: str, *, write: str, at: Place | None = None) -> DefinitionError:
    """The error to raise: ``at`` is where the user wrote it, by default the line that is being run."""
    place = at or here()
    return DefinitionError(problem, write=write, file=place.file, line=place.line)
