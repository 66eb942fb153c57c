"""``featureflow model``: the model store. Add a version, quantize it, list what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray

from featureflow.cli import model_release
from featureflow.cli.context import Context, Json
from featureflow.cli.model_profile import profile
from featureflow.cli.output import Output, counted
from featureflow.define import spec
from featureflow.errors import ModelError, RequestError
from featureflow.models.manifest import Manifest, ModelInput, inputs_of, with_inputs_of
from featureflow.models.quantize import EXPECTED_BATCH
from featureflow.models.source import check_signature, fetch, shown
from featureflow.models.transform import Transforms, identity
from featureflow.train.as_served import as_served, newest
from featureflow.train.spine import columns_of


def register(app: typer.Typer) -> None:
    app.callback(no_args_is_help=True)(model)
    app.command("add")(add)
    app.command("quantize")(quantize)
    app.command("list")(list_models)
    app.command("alias")(alias)
    app.command("profile")(profile)
    model_release.register(app)


def model() -> None:
    """The model store, and releases of its versions."""


def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The model's name in the definitions.")],
    file: Annotated[
        str, typer.Argument(help="An ONNX file: float32 (batch, columns) -> one score a row. A path, https://host/file or s3://bucket/key.")
    ],
    sha256: Annotated[str, typer.Option(help="The file's SHA-256; of an address it must be given.")] = "",
    signature: Annotated[str, typer.Option(help="Path or address of the file's Ed25519 signature.")] = "",
    public_key: Annotated[Path | None, typer.Option(help="PEM file of the key that must have signed it.")] = None,
    transforms: Annotated[
        Path | None, typer.Option(help="Fitted transforms as JSON; none: the columns as they are.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="A file that `featureflow dataset` wrote; quantize measures on its rows.")
    ] = None,
    version: Annotated[str, typer.Option(help="Default: one more than the highest.")] = "",
    score: Annotated[
        str, typer.Option(help="Which output is the score, where the file has several: NAME, or NAME[COLUMN].")
    ] = "",
    json: Json = False,
) -> None:
    """Put an ONNX file into the store as a new version. ``latest`` then points to it."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        definition = _definition(here, name)
        inputs = inputs_of(definition)
        rows, labels = (None, None) if dataset is None else _vectors(dataset, inputs)
        score_output, column = _score(score)
        made = here.models.add(
            name,
            _content(file, sha256, signature, public_key or _key(here)),
            inputs=inputs,
            transforms=_transforms(transforms, inputs),
            version=version or None,
            calibration=rows,
            labels=labels,
            model=definition,
            project=here.written,
            origin=shown(file),
            output=score_output,
            column=column,
        )
    output.say(
        f"{name}@{made.version} is in the store; {counted(made.transforms.width_in, 'column')}, "
        f"{made.transforms.width_out} after the transforms."
    )
    output.say(f"Next: featureflow model quantize {name}" if dataset else "It answers as FP32.")
    output.say(
        f"It is the latest, which answers where nothing of {name} is released (featureflow model releases {name}); where something is, run "
        f"featureflow model canary {name} {made.version}, or release."
    )
    output.result(
        {
            "name": name,
            "version": made.version,
            "inputs": [i.name for i in inputs],
            "sha256": made.variants["fp32"].sha256,
        }
    )


def quantize(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The model's name.")],
    ref: Annotated[str, typer.Option(help="A version or alias; the latest if left out.")] = "",
    dataset: Annotated[
        Path | None, typer.Option(help="Rows to calibrate and measure on; default: those given to `model add`.")
    ] = None,
    logged: Annotated[
        int, typer.Option(min=0, help="Measure on the inputs of so many of the latest logged scores, from history.")
    ] = 0,
    expected_batch: Annotated[
        int, typer.Option(min=1, help="Rows that usually travel together; decides which variant is fastest.")
    ] = EXPECTED_BATCH,
    json: Json = False,
) -> None:
    """Make FP16 and INT8, refuse what drifts, and choose the fastest. Drift and speed are measured here."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        definition = _definition(here, name)
        if logged and dataset is not None:
            raise ModelError("--dataset and --logged both name rows to measure on; give one of them")
        inputs = here.models.manifest(name, ref or None).inputs  # the version's own: the definition may have others now
        rows, labels = (None, None) if dataset is None else _vectors(dataset, inputs)
        if logged:
            applied = with_inputs_of(here.models.manifest(name, ref or None), here.applied)
            ids = newest(here.history, applied, name, logged)
            if not ids:
                raise ModelError(
                    f"no score of {name} with what this version reads is in history (yet); run featureflow history, or give rows: "
                    "--dataset FILE"
                )
            rows = as_served(here.history, applied, {"prediction_id": ids}, model=name).inputs
        with output.progress() as progress:
            progress.add_task(f"quantizing {name}", total=None)
            report = here.models.quantize(
                name, ref or None, tolerance=definition.drift, vectors=rows, labels=labels, expected_batch=expected_batch
            )
        made = here.models.manifest(name, ref or None)
    output.table(
        (
            "variant",
            "scheme",
            "max drift",
            "mean drift",
            "rank",
            "AUC loss",
            *(f"us at {t.batch}" for t in report.variants[0].times),
            "problem",
        ),
        [
            (
                v.variant,
                v.scheme,
                *(
                    (f"{v.drift.max:.4f}", f"{v.drift.mean:.5f}", _number(v.drift.rank), _number(v.drift.auc_loss))
                    if v.drift
                    else ("", "", "", "")
                ),
                *([f"{t.median_us:.0f}" for t in v.times] or [""] * len(report.variants[0].times)),
                v.problem or "",
            )
            for v in report.variants
        ],
    )
    for provider, choice in made.chosen.items():
        output.say(f"on {provider}: {choice.reason}")
    output.result(
        {
            "name": name,
            "version": made.version,
            "chosen": msgspec.to_builtins(made.chosen),
            "report": msgspec.to_builtins(report),
        }
    )


def list_models(context: typer.Context, json: Json = False) -> None:
    """All versions of all models."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        entries = here.models.list()
    output.table(
        ("model", "version", "aliases", "variants", "answers with", "problem"),
        [(e.name, e.version, " ".join(e.aliases), *_shown(e.manifest), e.problem or "") for e in entries],
    )
    output.result(
        [
            {
                "name": e.name,
                "version": e.version,
                "aliases": list(e.aliases),
                "problem": e.problem,
                "variants": [] if e.manifest is None else list(e.manifest.variants),
                "chosen": {} if e.manifest is None else msgspec.to_builtins(e.manifest.chosen),
            }
            for e in entries
        ]
    )


def alias(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The model's name.")],
    to: Annotated[str, typer.Argument(help="The alias: champion.")],
    ref: Annotated[str, typer.Argument(help="A version or alias; the latest if left out.")] = "",
    json: Json = False,
) -> None:
    """Let a name stand for a version. Callers score ``NAME@ALIAS``, and ``latest`` is who answers where nothing is released."""
    here: Context = context.obj
    output = Output(json=json)
    with here:
        version = here.models.alias(name, to, ref or "latest")
    output.say(f"{name}@{to} is {version}.")
    output.result({"name": name, "alias": to, "version": version})


def _score(text: str) -> tuple[str | None, int | None]:
    """``probabilities[1]`` -> the output and the column of it; nothing where neither is said."""
    name, bracket, column = text.removesuffix("]").partition("[")
    if bracket and not (text.endswith("]") and column.isdecimal()):
        raise ModelError(f"--score {text}: write an output's name, or one with a column as in probabilities[1]")
    return name or None, int(column) if bracket else None


def _shown(manifest: Manifest | None) -> tuple[str, str]:
    if manifest is None:
        return "", ""
    chosen = ", ".join(f"{choice.variant} on {provider}" for provider, choice in manifest.chosen.items())
    return " ".join(manifest.variants), chosen or "fp32"


def _definition(here: Context, name: str) -> spec.Model:
    models = {model.name: model for model in here.written.models}
    if name not in models:
        raise ModelError(f"the definitions have no model {name!r}; they have {', '.join(sorted(models)) or 'none'}")
    if (ensemble := models[name].ensemble) is not None:
        raise ModelError(f"{name} is an ensemble and has no file of its own; add its members: {', '.join(ensemble.members) or 'none'}")
    return models[name]


def _key(here: Context) -> Path | None:
    """The key that must have signed every file, where one is set."""
    key = here.settings.models.public_key
    return here.settings.path(key) if key else None


def _content(file: str, sha256: str, signature: str, public_key: Path | None) -> bytes:
    """The file's bytes, which are those that were named and signed."""
    if public_key is not None and not signature:
        raise ModelError(f"files are to be signed by the key in {public_key}; give this one's signature: --signature FILE")
    if signature and public_key is None:
        raise ModelError("a signature is checked by a key: give --public-key FILE, or set models.public_key")
    content = fetch(file, sha256 or None)
    if public_key is not None:
        check_signature(content, signature, public_key)
    return content


def _transforms(file: Path | None, inputs: tuple[ModelInput, ...]) -> Transforms:
    if file is None:
        return identity(sum(i.size for i in inputs))
    try:
        return msgspec.json.decode(file.read_bytes(), type=Transforms)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}. Give a file of fitted transforms as JSON") from error
    except msgspec.MsgspecError as error:
        raise ModelError(
            f"{file} holds no fitted transforms ({error}); write msgspec.json.encode(fit(...)) into it"
        ) from error


def _vectors(file: Path, inputs: tuple[ModelInput, ...]) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """The inputs' columns of a dataset file, float64 (n, width), and its labels if it has any."""
    try:
        columns = columns_of(file)
    except RequestError as error:
        raise ModelError(error.detail) from error
    names = [i.name if i.size == 1 else f"{i.name}[{n}]" for i in inputs for n in range(i.size)]
    if absent := [name for name in names if name not in columns]:
        raise ModelError(f"{file} has no column {absent[0]!r}; write it with: featureflow dataset MODEL SPINE {file}")
    matrix = np.stack([_floats(file, name, columns[name]) for name in names], axis=1)
    labels = columns.get("label")
    return matrix, None if labels is None else _floats(file, "label", labels).astype(np.bool_)


def _floats(file: Path, name: str, column: Any) -> NDArray[np.float64]:
    try:
        return np.array([np.nan if v is None or v == "" else float(v) for v in column], np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{file}, column {name!r}: {error}; write the file with: featureflow dataset") from error


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"
