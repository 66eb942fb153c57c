"""What to write instead of ``and``, ``or``, ``not``, ``in`` and chained comparisons on columns: the user's own line, rewritten."""

from __future__ import annotations

import ast
import linecache
from functools import reduce

from featureflow.define.place import Place

_IN_GENERAL = "(a > 1) & (b < 2), (a > 1) | (b < 2), ~(a > 1), with the parentheses"


def instead(at: Place) -> str:
    """The outermost such expression on the line, with ``& | ~`` and ``==``; an example where there is none to rewrite."""
    try:
        tree = ast.parse("".join(linecache.getlines(at.file)))
    except SyntaxError:
        return _IN_GENERAL
    for node in ast.walk(tree):  # breadth first: the outermost comes first
        if (
            isinstance(node, ast.expr)
            and _is_truth(node)
            and node.lineno <= at.line <= (node.end_lineno or node.lineno)
        ):
            return ast.unparse(_Rewrite().visit(node)).replace("'", '"')
    return _IN_GENERAL


def _is_truth(node: ast.expr) -> bool:
    match node:
        case ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Compare(ops=ops, comparators=comparators):
            return len(ops) > 1 or (
                isinstance(ops[0], ast.In | ast.NotIn) and isinstance(comparators[0], ast.Tuple | ast.List | ast.Set)
            )
    return False


class _Rewrite(ast.NodeTransformer):
    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        return _joined(ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr(), node.values)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        return ast.UnaryOp(ast.Invert(), node.operand) if isinstance(node.op, ast.Not) else node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        values = [node.left, *node.comparators]
        if len(node.ops) > 1:
            pairs = zip(values, node.ops, values[1:], strict=False)
            return _joined(ast.BitAnd(), [ast.Compare(left, [op], [right]) for left, op, right in pairs])
        match node.ops[0], node.comparators[0]:
            case (ast.In() | ast.NotIn()) as op, ast.Tuple(elts) | ast.List(elts) | ast.Set(elts) if elts:
                found = _joined(ast.BitOr(), [ast.Compare(node.left, [ast.Eq()], [one]) for one in elts])
                return found if isinstance(op, ast.In) else ast.UnaryOp(ast.Invert(), found)
        return node


def _joined(op: ast.operator, values: list[ast.expr]) -> ast.expr:
    return reduce(lambda left, right: ast.BinOp(left, op, right), values)
