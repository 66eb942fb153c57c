"""``featureflow model profile``: what each variant costs on this machine, by provider and batch size, and which one answers."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.errors import ModelError
from featureflow.models.quantize import EXPECTED_BATCH


def profile(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The model's name.")],
    ref: Annotated[str, typer.Option(help="A version or alias; the latest if left out.")] = "",
    expected_batch: Annotated[
        int, typer.Option(min=1, max=1024, help="Rows that usually travel together; decides what answers.")
    ] = EXPECTED_BATCH,
    show: Annotated[bool, typer.Option("--show", help="Show what was measured before, and measure nothing.")] = False,
    json: Json = False,
) -> None:
    """Measure every variant here, and let the fastest answer. On every provider, at every batch size."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        if show:
            found = here.models.profiled(name, ref or None)
            if found is None:
                version = here.models.resolve(name, ref or None)
                raise ModelError(
                    f"{name}@{version} was not profiled on this machine since it was quantized; run featureflow model profile {name} "
                    f"--ref {version}"
                )
        else:
            with output.progress() as progress:
                progress.add_task(f"profiling {name}", total=None)
                found = here.models.profile(name, ref or None, expected_batch=expected_batch)
    batches = [time.batch for time in found.variants[0].times]
    output.table(
        ("variant", "provider", "max drift", *(f"us at {batch}" for batch in batches), "problem"),
        [
            (
                v.variant,
                v.provider,
                f"{v.drift.max:.4f}" if v.drift else "",
                *([f"{t.median_us:.0f}" for t in v.times] or [""] * len(batches)),
                v.problem or "",
            )
            for v in found.variants
        ],
    )
    output.say(f"{found.name}@{found.version} on {found.machine}")
    output.say(found.chosen.reason)
    output.result(msgspec.to_builtins(found))
