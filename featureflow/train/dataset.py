"""A training set: for each row of a spine, exactly the inputs that the scorer would have computed at that instant."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow import limits
from featureflow.clock import UNIT_US, duration_us, from_us, to_us
from featureflow.define import spec
from featureflow.errors import RequestError
from featureflow.kernel.events import Events
from featureflow.kernel.finalize import Values
from featureflow.store.history.protocol import HistoryPage, HistoryStore
from featureflow.store.history.read_again import check_read_again
from featureflow.train.gather import Entities, Gathered, Wanted, gather
from featureflow.train.needs import Needs, numbered
from featureflow.train.point_in_time import Part, join
from featureflow.train.prediction import folded_by
from featureflow.train.spine import Spine, SpineLike, read_spine
from featureflow.train.visibility import Visibility

Progress = Callable[[str, int, int], None]
"""What is under way, how much is done, how much there is."""

OLD = 1990                                 # events are older only in history that begins there
OLD_US = to_us(datetime(OLD, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Dataset:
    """n rows, in the spine's order."""

    inputs: NDArray[np.float64]            # (n, width) what the model's transforms are fitted on; NaN where undefined
    input_names: tuple[str, ...]           # (width,)
    labels: NDArray[np.float64] | None     # (n,)
    instants_us: NDArray[np.int64]         # (n,)
    ids: dict[str, NDArray[Any]]           # join key -> (n,)
    features: dict[str, NDArray[Any]]      # view:feature -> (n,) or (n, size), before any expression; strings are objects
    statuses: dict[str, NDArray[np.int8]]  # view:feature -> (n,) kernel.finalize.Status
    context: dict[str, NDArray[Any]]       # request input -> (n,)
    views: dict[str, str]                  # view -> version
    simulated: bool                        # True: visibility was declared; False: these are the bytes that were served
    texts: tuple[str, ...] = ()            # those of ``features`` that were asked for by name and are strings: columns beside the inputs

    def __len__(self) -> int:
        return len(self.instants_us)

    def take(self, rows: NDArray[np.intp]) -> Dataset:
        """These rows, in this order."""
        return replace(
            self,
            inputs=self.inputs[rows],
            labels=None if self.labels is None else self.labels[rows],
            instants_us=self.instants_us[rows],
            ids={name: column[rows] for name, column in self.ids.items()},
            features={name: column[rows] for name, column in self.features.items()},
            statuses={name: column[rows] for name, column in self.statuses.items()},
            context={name: column[rows] for name, column in self.context.items()},
        )

    def split(self, at: datetime | int | float) -> tuple[Dataset, Dataset]:
        """(before, from then on). ``at``: an instant, or a share of the rows between 0 and 1, oldest first.

        A share is cut between two instants: rows of one instant stay together.
        """
        if isinstance(at, datetime):
            cut = to_us(at)
        elif isinstance(at, float):
            if not 0 < at < 1:
                raise RequestError(
                    "The dataset cannot be split",
                    f"{at} is no share of the rows; write a number between 0 and 1, or an instant",
                )
            cut = int(np.sort(self.instants_us)[int(at * len(self))]) if len(self) else 0
        else:
            cut = at
        return self.take(np.flatnonzero(self.instants_us < cut)), self.take(np.flatnonzero(self.instants_us >= cut))

    def columns(self) -> dict[str, NDArray[Any]]:
        """Ids, ``at`` (RFC 3339 text), the inputs by name, features that are strings, and ``label`` where there is one."""
        instants = np.array([_text(us) for us in self.instants_us.tolist()], dtype=object)
        columns = {**self.ids, "at": instants, **{name: self.inputs[:, i] for i, name in enumerate(self.input_names)}}
        for reference in self.texts:
            strings = self.features[reference]
            block = strings.reshape(len(self), -1)
            columns |= {name: block[:, i] for i, name in enumerate(numbered([(reference, 1 if strings.ndim == 1 else strings.shape[1])]))}
        return columns if self.labels is None else {**columns, "label": self.labels}

    def to_pandas(self) -> Any:
        """A pandas DataFrame; ``at`` is a UTC datetime column."""
        try:
            import pandas as pd
        except ImportError as error:
            raise RequestError("No data frame", "to_pandas needs pandas: pip install 'featureflow[frames]'") from error
        frame = pd.DataFrame(self.columns())
        frame["at"] = pd.to_datetime(self.instants_us, unit="us", utc=True)
        frame.attrs.update(self._about())
        return frame

    def to_parquet(self, path: str | Path) -> None:
        """``at`` is a UTC timestamp in microseconds; the file's metadata say how it was made (``featureflow``, JSON)."""
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise RequestError("No Parquet", "to_parquet needs pyarrow: pip install 'featureflow[frames]'") from error
        columns = {name: pa.array(column.tolist() if column.dtype == object else column) for name, column in self.columns().items()}
        columns["at"] = pa.array(self.instants_us, pa.timestamp("us", tz="UTC"))
        table = pa.table(columns)
        about = {b"featureflow": msgspec.json.encode(self._about())}
        parquet.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **about}), path)

    def to_csv(self, path: str | Path) -> None:
        """Numbers in the shortest form that reads back to the same bits; undefined ones are empty."""
        columns = self.columns()
        lists = [["" if value is None or value != value else value for value in column.tolist()] for column in columns.values()]
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*lists, strict=True))

    def _about(self) -> dict[str, object]:
        return {"simulated": self.simulated, "views": self.views, "rows": len(self)}


def dataset(
    history: HistoryStore,
    project: spec.Project,
    spine: SpineLike,
    *,
    model: str | None = None,
    features: Sequence[str] | None = None,
    instant: str = "at",
    label: str | None = None,
    known_at: Mapping[str, str] | None = None,
    delay: str | Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """What each row of ``spine`` would have been scored on, from history.

    ``spine``: a DataFrame, a pyarrow Table, a ``.parquet`` or ``.csv`` path, a mapping of columns, or a list of dicts, with the join keys
    (see ``spec.View.join_key``), the column ``instant``, the request inputs that the model reads, and ``label`` where one is named.
    ``known_at`` (event -> datetime field) and ``delay`` ("5s", or event -> "5s") say from when an event was visible; one of them is
    needed for every event that is read. The result says ``simulated``: real lag and outages are not in it.
    Raises RequestError for a spine or names that do not fit, HistoryError and UnavailableError.
    """
    needs = Needs.of(project, model=model, features=features)
    visibility = Visibility(known_at or {}, _delays(delay))
    events = {source.name for source in project.sources}
    if unknown := sorted({*visibility.known_at, *visibility.delay_us} - events - {"*"}):
        raise RequestError("Unknown visibility", f"there is no event {unknown[0]!r}; there are {', '.join(sorted(events))}")
    visibility.check(needs.sources)
    read = read_spine(spine, join_keys=needs.join_keys, context=needs.context, instant=instant, label=label)
    _check_era(history, needs, read.instants_us, instant)
    values = features_at(history, needs, read, visibility, progress or (lambda what, done, of: None))
    return assemble(needs, values, read, simulated=True)


def _check_era(history: HistoryStore, needs: Needs, instants_us: NDArray[np.int64], instant: str) -> None:
    """Raises RequestError where all rows are decades before anything that history knows of the events that are read.

    Seconds or milliseconds read as microseconds are such rows: each would be a default, and nothing would say so.
    """
    if not len(instants_us) or int(instants_us.max()) >= OLD_US:
        return
    begins = {
        source.name: min(int(page.events.times_us[0]) for page in pages)
        for source in needs.sources
        if (pages := [page for partition in history.extents(source.name) if (page := _first(history, source, partition)) is not None])
    }
    first = min(begins, key=lambda name: begins[name], default=None)
    if first is None or begins[first] < OLD_US:
        return
    us = int(instants_us[0])
    raise RequestError(
        "The spine cannot be used",
        f"row 0: {instant!r} is {us}, which reads as {_text(us)}, and all rows are before {OLD}, but the first {first!r} in history "
        f"is of {_text(begins[first])}: integers are microseconds since 1970. Multiply seconds by 1,000,000 and milliseconds by 1,000, "
        "or write RFC 3339 times with a zone",
    )


def _first(history: HistoryStore, source: spec.Source, partition: int) -> HistoryPage | None:
    return next(history.scan(source, partition=partition, columns=(), page_rows=1), None)


def features_at(history: HistoryStore, needs: Needs, spine: Spine, visibility: Visibility, progress: Progress) -> dict[str, Values]:
    """View name -> values (n, ...) for the spine's ids at its instants."""
    kernels = needs.kernels()
    keys = {view.join_key for view in needs.views}
    entities = {key: Entities.of(spine.ids[key]) for key in keys}
    found: dict[str, list[Part]] = {view.name: [] for view in needs.views}
    extents = {source.name: history.extents(source.name) for source in needs.sources}
    together = _together(history, needs)
    total = sum(extent.next - extent.first for source, _, _ in together for extent in extents[source.name].values())
    done = 0

    def read_on(rows: int) -> None:
        nonlocal done
        done += rows
        progress("reading history", done, max(done, total))

    for source, by, users in together:
        wanted = [Wanted.of(kernels[view.name].layouts[source.name], entities[view.join_key], spine.instants_us) for view in users]
        gathered: list[list[Gathered]] = [[] for _ in users]

        def seen(events: Events, name: str = source.name) -> NDArray[np.int64]:
            return visibility.seen_us(name, events)

        for partition, extent in sorted(extents[source.name].items()):
            check_read_again(history, source, partition, extent.next)
            parts = gather(
                history, source, wanted, columns=visibility.columns(source.name), seen=seen, partition=partition,
                from_offset=extent.first, to_offset=extent.next, by=by, progress=read_on,
            )
            for several, one in zip(gathered, parts, strict=True):
                several.append(one)
        for view, several in zip(users, gathered, strict=True):
            found[view.name].append(Part(source.name, several, spine.instants_us))
    values = {}
    for number, view in enumerate(needs.views, start=1):
        values[view.name] = join(kernels[view.name], entities[view.join_key], spine.instants_us, found.pop(view.name))
        progress("joining views", number, len(needs.views))
    return values


def _together(history: HistoryStore, needs: Needs) -> list[tuple[spec.Source, tuple[spec.Source, ...], list[spec.View]]]:
    """(source, by which of its definitions, the views that were folded by these), of each source at least once."""
    by = folded_by(history, needs.project, needs.views)
    found = []
    for source in needs.sources:
        users = [view for view in needs.views if source.name in view.keys]
        for definitions in dict.fromkeys(by[view.id, source.name] for view in users):
            found.append((source, definitions, [view for view in users if by[view.id, source.name] == definitions]))
    return found


def assemble(needs: Needs, values: Mapping[str, Values], spine: Spine, *, simulated: bool) -> Dataset:
    """The training set of the spine's n rows from the values of each view, (n, width) by its name."""
    columns = needs.columns(values, spine.context)
    statuses = {
        feature.reference: values[view.name].statuses[:, i]
        for view in needs.views
        for i, feature in enumerate(view.features)
        if feature.reference in needs.references
    }
    return Dataset(
        inputs=needs.inputs(columns),
        input_names=needs.input_names,
        labels=spine.labels,
        instants_us=spine.instants_us,
        ids=spine.ids,
        features={name: columns[name] for name in needs.references},
        statuses=statuses,
        context=spine.context,
        views={view.name: view.version for view in needs.views},
        simulated=simulated,
        texts=tuple(feature.reference for feature in needs.texts),
    )


def _text(us: int) -> str:
    """RFC 3339."""
    return from_us(us).isoformat().replace("+00:00", "Z")


def _delays(delay: str | Mapping[str, str] | None) -> dict[str, int]:
    if delay is None:
        return {}
    named = {"*": delay} if isinstance(delay, str) else delay
    return {name: _delay_us(name, text) for name, text in named.items()}


def _delay_us(name: str, text: str) -> int:
    us = duration_us(text)
    if us is None or us > limits.DURATION_US:
        longest = limits.DURATION_US // UNIT_US["d"]
        of = "" if name == "*" else f" of event {name!r}"
        raise RequestError(
            "Not a duration",
            f"the delay{of} is {text!r}; write a whole number and one of {', '.join(UNIT_US)}, such as 5s, up to {longest}d",
        )
    return us
