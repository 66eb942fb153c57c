"""What a feature is worth, the slow and obvious way: a loop over records, Python integers and fractions.

Written apart from ``featureflow.kernel``, of which it imports nothing, so that the two can only agree by both being right. It reads the
same definitions (``featureflow.define.spec``) and follows the sentences of the design one by one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from typing import Any

from featureflow.define.spec import Aggregation, Call, Column, Expr, Literal, Source, View, Window

SECOND = 1_000_000
TILES = [seconds * SECOND for seconds in (1, 10, 60, 300, 900, 3600, 21600, 86400)]
FOREVER = math.inf

Scalar = float | str | bool | None


@dataclass(frozen=True)
class Record:
    """One decoded record. ``fields`` hold Python numbers, strings, booleans or None."""

    source: str
    partition: int
    offset: int
    time_us: int
    timestamp_us: int
    fields: Mapping[str, Any]
    append_time: bool = True


@dataclass(frozen=True)
class Answer:
    """One feature: ``values`` newest first (one, but for ``last_n``), NaN where undefined, None for a string; ``status`` p, d or x."""

    values: tuple[float | str | None, ...]
    status: str
    event_time_us: int | None
    error: float = 0.0                     # by how much a value may differ from this one, as documented; 0: to the last bit


# -- which records count -----------------------------------------------------------------------------------------------

def counting(view: View, sources: Mapping[str, Source], records: Iterable[Record]) -> list[Record]:
    """The records that a view takes: not from the future, not late, with an entity id, no copies. Per partition, in offset order."""
    return [record for record, verdict in verdicts(view, sources, records) if verdict == "counts"]


def verdicts(view: View, sources: Mapping[str, Source], records: Iterable[Record]) -> list[tuple[Record, str]]:
    """What becomes of each record: counts, future, late, duplicate, or without an id. Per partition, in offset order."""
    maximum: dict[tuple[str, int], int] = {}
    taken: dict[tuple[Any, ...], list[Record]] = {}
    found = []
    for record in sorted(records, key=lambda r: (r.source, r.partition, r.offset)):
        if record.source not in view.keys:
            continue
        source = sources[record.source]
        place = (record.source, record.partition)
        seen = maximum.get(place)
        bound = record.timestamp_us if record.append_time else (record.time_us if seen is None else seen)
        if record.time_us > bound + source.future_us:
            found.append((record, "future"))
            continue
        maximum[place] = record.time_us if seen is None else max(seen, record.time_us)
        longest = max(_reach(view, window) for a in view.aggregations if a.source == source.name for window in a.windows)
        if record.time_us < maximum[place] - (longest + source.disorder_us):
            found.append((record, "late"))
        elif record.fields[view.keys[source.name]] is None:
            found.append((record, "without an id"))
        else:
            found.append((record, "too wide" if too_wide(view, record) else _told(view, record, source, maximum[place], taken)))
    return found


def _told(view: View, record: Record, source: Source, maximum: int, taken: dict[tuple[Any, ...], list[Record]]) -> str:
    """Whether it is a copy of one of those that were taken before: those of its partition, id and entity."""
    if source.dedupe is None or (name := record.fields[source.dedupe]) is None:
        return "counts"
    originals = taken.setdefault((source.name, record.partition, name, record.fields[view.keys[source.name]]), [])
    if any(one.time_us >= maximum - source.within_us for one in originals):
        return "duplicate"
    originals.append(record)
    return "counts"


def too_wide(view: View, record: Record) -> bool:
    """Whether the record holds a string that the view would keep, and that is longer than it keeps."""
    for aggregation in view.aggregations:
        if aggregation.source == record.source and holds(aggregation, record):
            kept = [(p.value, p.width) for p in aggregation.entry] or [(aggregation.value, aggregation.width)]
            for value, width in kept:
                text = evaluate(value, record.fields) if width and value is not None else None
                if isinstance(text, str) and len(text.encode()) > width:
                    return True
    return False


def holds(aggregation: Aggregation, record: Record) -> bool:
    """Whether the condition is true, and what is compared is there."""
    condition = True if aggregation.where is None else evaluate(aggregation.where, record.fields)
    by = 0.0 if aggregation.by is None else evaluate(aggregation.by, record.fields)
    return condition is not None and bool(condition) and by is not None


def _reach(view: View, window: Window) -> float:
    if window.kind == "lifetime":
        return FOREVER if view.ttl_us is None else view.ttl_us
    return window.length_us


# -- windows -----------------------------------------------------------------------------------------------------------

@cache
def tile_of(window: Window) -> float:
    if window.kind == "lifetime":
        return FOREVER
    if window.exact:
        return 1
    if window.kind == "session":
        return max([tile for tile in TILES if tile <= window.gap_us])
    if window.kind == "sliding":
        return max([tile for tile in TILES if window.length_us / tile >= 12] or [SECOND])
    return max(tile for tile in TILES if window.length_us % tile == window.hop_us % tile == window.offset_us % tile == 0)


def floor(t: int, tile: float) -> float:
    return -math.inf if tile == FOREVER else t - t % int(tile)


def in_window(window: Window, finest: float, t: int, q: int) -> bool:
    """Whether an event at ``t`` is in the window at ``q``."""
    if floor(t, finest) > q:
        return False
    if window.kind == "lifetime":
        return True
    if window.kind == "tumbling":
        return t >= q - (q - window.offset_us) % window.length_us
    if window.kind == "hopping":
        closes = q - (q - window.offset_us) % window.hop_us + window.hop_us
        return t >= closes - window.length_us
    tile = tile_of(window)
    return floor(t, tile) >= floor(q - window.length_us, tile)


def inside(window: Window, finest: float, records: Sequence[Record], q: int) -> list[Record]:
    """Those of one entity's records that are in the window at ``q``."""
    found = [r for r in records if in_window(window, finest, r.time_us, q)]
    if window.kind == "session":
        after, members = q, []
        for record in sorted(found, key=lambda r: r.time_us, reverse=True):
            if after - record.time_us > window.gap_us:
                break
            after = record.time_us
            members.append(record)
        return members
    return found


# -- values ------------------------------------------------------------------------------------------------------------

def evaluate(expr: Expr, fields: Mapping[str, Any]) -> Scalar:
    """An expression over one record; None is null."""
    match expr:
        case Column(name):
            return fields[name]  # type: ignore[no-any-return]
        case Literal(value):
            return value
        case Call(op, args):
            return _call(op, [evaluate(arg, fields) for arg in args])
    raise AssertionError(expr)


def _call(op: str, args: list[Any]) -> Scalar:
    null = any(arg is None for arg in args)
    match op:
        case "is_null":
            return null
        case "and":
            return all(arg is not None and bool(arg) for arg in args)
        case "or":
            return any(arg is not None and bool(arg) for arg in args)
        case "not":
            return not null and not args[0]
        case "when":
            held, then, otherwise = args
            chosen = then if held is not None and held else otherwise
            return None if chosen is None else float(chosen)
        case "eq" | "ne" | "lt" | "le" | "gt" | "ge":
            if null:
                return False
            a, b = args
            return bool({"eq": a == b, "ne": a != b}[op] if op in ("eq", "ne") else
                        {"lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[op])
    if null:
        return None
    numbers = [float(arg) for arg in args]
    try:
        result = {
            "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
            "neg": lambda a: -a, "abs": abs, "log1p": math.log1p, "minimum": min, "maximum": max,
        }[op](*numbers)  # fmt: skip
    except (ZeroDivisionError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def quantum(value: float) -> int:
    """The value in units of 2^-56, rounded half to even."""
    return round(Fraction(value) * 2**56)


Counted = tuple[Record, Any]                # a number, a string, a vector as a list, or None


def participating(aggregation: Aggregation, records: Sequence[Record]) -> list[Counted]:
    """The records that an aggregation counts, with their values; of several values at once a null counts."""
    found: list[Counted] = []
    for record in records:
        if not holds(aggregation, record):
            continue
        value = 0.0 if aggregation.value is None else evaluate(aggregation.value, record.fields)
        if aggregation.vector:
            if value is not None and all(abs(number) < 2.0**63 for number in value):  # type: ignore[union-attr]  # a list
                found.append((record, value))
        elif isinstance(value, str):
            found.append((record, value))
        elif value is not None and abs(float(value)) < 2.0**63:
            found.append((record, float(value) + 0.0))
        elif aggregation.op == "last_n" and aggregation.entry:
            found.append((record, nothing(aggregation)))
    return found


def nothing(aggregation: Aggregation) -> float | None:
    """An undefined value of the aggregation's type."""
    return None if aggregation.width else math.nan


def best_first(aggregation: Aggregation, counted: Sequence[Counted]) -> list[Counted]:
    """Newest first, for ``first`` oldest first, for ``max_by`` and ``min_by`` by what is compared and then newest first."""
    newest = sorted(counted, key=lambda c: (c[0].time_us, c[0].partition, c[0].offset), reverse=True)
    if aggregation.op == "first":
        return newest[::-1]
    if aggregation.by is None:
        return newest
    by = aggregation.by
    sign = -1.0 if aggregation.op == "max_by" else 1.0
    return sorted(newest, key=lambda c: sign * float(evaluate(by, c[0].fields)))  # type: ignore[arg-type]  # sorts stably


def aggregate(aggregation: Aggregation, counted: Sequence[Counted], window: Window, q: int) -> list[float | str | None]:
    """The aggregation of at least one record at q. Of those that are approximate it gives the exact value, which an estimate is near."""
    if aggregation.op in ("first", "last", "last_n", "max_by", "min_by"):
        kept = [value for _, value in best_first(aggregation, counted)[: aggregation.size]]
        if aggregation.vector:
            return list(kept[0])
        return kept + [nothing(aggregation)] * (aggregation.size - len(kept))
    if aggregation.op in ("top_k", "top_k_count"):
        best = sorted(Counter(value for _, value in counted).items(), key=lambda item: (-item[1], item[0]))[: aggregation.size]
        padding = [nothing(aggregation)] * (aggregation.size - len(best))
        return [value if aggregation.op == "top_k" else float(n) for value, n in best] + padding
    if aggregation.op == "approx_quantile":
        return [sorted(value for _, value in counted)[math.floor(aggregation.q * (len(counted) - 1))]]  # type: ignore[type-var]  # numbers
    if aggregation.op == "approx_distinct":
        return [float(len({value for _, value in counted}))]
    values: list[float] = [value for _, value in counted]  # type: ignore[misc]  # only the above have strings
    n, total = len(values), sum(map(quantum, values))
    match aggregation.op:
        case "count":
            return [float(n)]
        case "sum":
            return [float(Fraction(total, 2**56))]
        case "mean":
            return [float(Fraction(total, 2**56)) / n]
        case "min":
            return [min(values)]
        case "max":
            return [max(values)]
        case "variance" | "stddev":
            squares = sum(quantum(value) ** 2 for value in values)
            variance = float(Fraction(n * squares - total**2, n * n * 2**112))
            return [variance if aggregation.op == "variance" else math.sqrt(variance)]
        case "time_since_last":
            return [max(0, q - max(record.time_us for record, _ in counted)) / 10**6]
        case "rate":
            return [n / (window.length_us / aggregation.per_us)]
    raise AssertionError(aggregation.op)


def decayed(aggregation: Aggregation, counted: Sequence[tuple[Record, float]], window: Window, q: int) -> tuple[float, float]:
    """(value, error) of a decayed aggregation at q: to sixty digits, and what the documents allow."""
    half_life, tile = aggregation.half_life_us, int(tile_of(window))
    total = weight = size = rounding = Decimal(0)
    with localcontext() as context:
        context.prec = 60
        for record, value in counted:
            weighs = Decimal(2) ** (Decimal(record.time_us - q) / half_life)
            total += Decimal(value) * weighs
            weight += weighs
            size += abs(Decimal(value)) * weighs
            closes = int(floor(record.time_us, tile)) + tile
            rounding += Decimal(2) ** (Decimal(closes - q) / half_life - 57)
        of_sum, of_count = size / 2**45 + rounding, weight / 2**45 + rounding
        match aggregation.op:
            case "decayed_sum":
                return float(total), float(of_sum)
            case "decayed_count":
                return float(weight), float(of_count)
        mean = total / weight
        return float(mean), float((of_sum + abs(mean) * of_count) / (weight - of_count) + abs(mean) / 2**52)


def answers(
    view: View,
    sources: Mapping[str, Source],
    records: Iterable[Record],
    entity: str | int,
    q: int,
    applied: Mapping[tuple[str, int], int] | None = None,
) -> list[Answer]:
    """Every feature of the view for one entity at q, from the records below ``applied[source, partition]`` (None: all)."""
    records = list(records)
    visible = [r for r in records if applied is None or r.offset < applied.get((r.source, r.partition), 0)]
    return answer(view, [r for r in counting(view, sources, visible) if r.fields[view.keys[r.source]] == entity], q)


def answer(view: View, mine: Sequence[Record], q: int) -> list[Answer]:
    """Every feature of the view at q for the entity that these records, all of which count, are about."""
    found = []
    for feature in view.features:
        aggregation, window = feature.aggregation, feature.window
        finest = min(tile_of(w) for a in view.aggregations if a.source == aggregation.source for w in a.windows)
        members = inside(window, finest, [r for r in mine if r.source == aggregation.source], q)
        newest = max((r.time_us for r in members), default=None)
        counted = participating(aggregation, members)
        undefined = nothing(aggregation) if aggregation.default is None else aggregation.default
        expired = False
        if window.kind == "lifetime" and view.ttl_us is not None and counted:
            if aggregation.op in ("last", "last_n"):  # each value lives for the ttl
                fresh = [(r, value) for r, value in counted if r.time_us >= q - view.ttl_us]
                counted, expired = fresh or counted, not fresh
            else:
                expired = newest is not None and newest < q - view.ttl_us
        if not counted or expired:
            status = "x" if counted else "d"
            found.append(Answer((undefined,) * feature.size, status, newest))
        else:
            if aggregation.op.startswith("decayed_"):
                value, error = decayed(aggregation, counted, window, q)
                found.append(Answer((value,), "p", newest, error))
                continue
            found.append(Answer(tuple(aggregate(aggregation, counted, window, q)), "p", newest))
    return found
