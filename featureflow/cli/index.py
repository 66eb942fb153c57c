"""``featureflow index``: the vectors that rank requests look for candidates in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output, counted
from featureflow.errors import VectorIndexError
from featureflow.store.vectors.folder import Metric, VectorStore


def register(app: typer.Typer) -> None:
    app.callback(no_args_is_help=True)(index)
    app.command("add")(add)
    app.command("list")(listed)


def index() -> None:
    """Vector indexes, for candidates of rank requests: add, list."""


def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The index's name, as rank requests have it.")],
    file: Annotated[Path, typer.Argument(help="An .npz file with the arrays ids (n,) and vectors (n, size).")],
    metric: Annotated[Metric, typer.Option(help="What is near: of the same direction, or of a large inner product.")] = "cosine",
    json: Json = False,
) -> None:
    """Add a new version of a vector index. Scorers take it up within a second."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                ids, vectors = arrays["ids"].tolist(), arrays["vectors"]
        except (OSError, ValueError, KeyError) as error:
            raise VectorIndexError(f"{file} cannot be read: {error}; write it with numpy.savez(FILE, ids=..., vectors=...)") from error
        made = VectorStore(here.settings.path(here.settings.serve.indexes)).add(name, ids, vectors, metric)
    searched = "each is looked at" if made.exact else "a graph of them is searched, which may miss some"
    output.say(f"{name}, version {made.version}: {counted(made.count, 'vector')} of {made.size} numbers; {searched}.")
    output.result({"name": name, "version": made.version, "vectors": made.count, "size": made.size, "exact": made.exact})


def listed(context: typer.Context, json: Json = False) -> None:
    """The vector indexes that there are."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        store = VectorStore(here.settings.path(here.settings.serve.indexes))
        rows = [(name, store.latest(name)) for name in store.names()]
    output.table(("index", "version"), rows)
    output.result([{"name": name, "version": version} for name, version in rows])
