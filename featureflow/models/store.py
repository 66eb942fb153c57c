"""Models on disk: ``<models>/<name>/<version>/`` with ``fp32.onnx``, ``manifest.json``, the variants and the rows kept for calibration.

A version appears whole, by one rename, and its FP32 file and inputs never change. ``quantize`` adds variants under names that hold
their digest, then replaces the manifest: a reader sees the old manifest with its files, or the new one with its own.
``aliases.json`` beside the versions maps names to versions; ``latest`` follows the last one added unless it is set back.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.clock import Clock, SystemClock
from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models import drift, folder, placement, prepare, profile
from featureflow.models import manifest as manifests
from featureflow.models import quantize as quantizing
from featureflow.models.folder import ALIASES
from featureflow.models.listing import LATEST
from featureflow.models.loaded import trial_problem
from featureflow.models.loader import ModelLoader
from featureflow.models.manifest import Manifest, ModelInput, Provider, QuantizationReport, Variant
from featureflow.models.onnx_file import MODEL_BYTES, gives, named, parse, signature, takes
from featureflow.models.pool import SessionPool
from featureflow.models.profile import Profile
from featureflow.models.provider import present
from featureflow.models.reads import Reads
from featureflow.models.session import BUCKETS, Session
from featureflow.models.signature import matched, parts_of, signature_of
from featureflow.models.transform import Transforms

FP32, VECTORS = "fp32.onnx", "vectors.npz"
DRAWN = 256                                # rows to measure speed on where none are kept
Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


class ModelStore(ModelLoader):
    """The models under one folder, to write too. Safe for several processes: writers take turns by a lock file per model."""

    def __init__(
        self, path: Path, clock: Clock | None = None, provider: Provider | None = None, pool: SessionPool | None = None
    ) -> None:
        """clock: of the instants that versions are created at. The rest, and what it raises: see ``ModelLoader``."""
        super().__init__(path, provider, pool)
        self._clock = clock or SystemClock()

    def add(
        self,
        name: str,
        onnx: Path | bytes,
        *,
        inputs: Sequence[ModelInput],
        transforms: Transforms,
        version: str | None = None,
        calibration: Float64 | None = None,
        labels: Bools | None = None,
        model: spec.Model | None = None,
        project: spec.Project | None = None,
        output: str | None = None,
        origin: str = "",
        column: int | None = None,
    ) -> Manifest:
        """Copy the file in as a new version, and let ``latest`` point to it.

        onnx: the file, or its bytes (see ``models.source``). origin: where bytes came from, for messages. version: default one more than
        the highest whole number. calibration: float64 (n, width) rows before the transforms, kept for ``quantize``; labels: bool (n,).
        model: its definition, whose inputs must be these, and which names the tensors. project: which that definition is of; with it the
        version keeps what its inputs are computed from, and answers also when the definition has other ones. output: which ONNX output is
        the score, where the file has several. column: which of its columns, where it has several.

        Raises ModelError when the file, inputs and transforms do not fit together or to the definition, when it gives no finite
        scores or other ones in another batch, or when the version exists.
        """
        manifests.check_name(name, "a model")
        if version is not None:
            manifests.check_name(version, "a version")
        content = onnx if isinstance(onnx, bytes) else folder.read(Path(onnx), limit=MODEL_BYTES)
        place = f"model {name} ({origin if isinstance(onnx, bytes) else onnx})"
        parsed = parse(content, place)
        tensors = () if model is None else matched(takes(parsed, place), model.tensors, place)
        made = Manifest(
            name=name, version=version or "0", created_us=self._clock.now_us(), inputs=tuple(inputs), transforms=transforms,
            tensor="", output="", variants={"fp32": manifests.artifact(FP32, content)}, tensors=tensors, column=column,
        )
        if tensors:
            signed = named(parsed, place, parts_of(made, place), output=output, column=column)
        else:
            signed = signature(parsed, place, output=output, column=column)
        made = msgspec.structs.replace(made, tensor=signed.tensor, output=signed.output, outputs=gives(parsed, place))
        if model is not None:
            made.check_inputs(model)
            made = msgspec.structs.replace(made, reads=None if project is None else Reads.of(project, model))
        files = {FP32: content}
        session = Session(content, signed, made.transformed_names, "cpu", place)
        known = None
        if calibration is not None:
            kept, kept_labels = folder.thinned(calibration, labels)
            known = transforms.apply(kept)
            session.run(known)
            files[VECTORS] = folder.pack(kept, kept_labels)
            made = msgspec.structs.replace(made, vectors=manifests.artifact(VECTORS, files[VECTORS]))

        if problem := trial_problem(session, known):
            raise ModelError(f"{place} {problem}")

        home = self.path / name
        with folder.writing(home):
            aliases = folder.aliases(home)
            given = version or str(1 + max((int(v) for v in folder.versions(home) if v.isdecimal()), default=0))
            if (home / given).exists():
                raise ModelError(f"model {name} has a version {given} already, and versions do not change; give another, or none")
            if given in (LATEST, ALIASES) or given in aliases:
                raise ModelError(f"{given} is an alias of model {name}, or the file of them; give the version another name")
            made = msgspec.structs.replace(made, version=given)
            for left in home.glob(".adding-*"):    # by an add that was killed: this one holds the lock
                shutil.rmtree(left, ignore_errors=True)
            staged = home / f".adding-{secrets.token_hex(8)}"
            try:
                staged.mkdir()
                for file, data in {**files, manifests.FILE: manifests.encode(made)}.items():
                    folder.write(staged / file, data)
                folder.sync(staged)
                staged.rename(home / given)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
            folder.sync(home)
            folder.replace(home / ALIASES, msgspec.json.encode({**aliases, LATEST: given}))
            prepare.make_or_not(home / given, made.variants["fp32"], content)
        return made

    def quantize(
        self,
        name: str,
        ref: str | None = None,
        *,
        tolerance: float,
        vectors: Float64 | None = None,
        labels: Bools | None = None,
        variants: Sequence[Variant] | None = None,
        expected_batch: int = quantizing.EXPECTED_BATCH,
    ) -> QuantizationReport:
        """Make variants of a version, measure them here, refuse those that drift too far, and choose one per provider.

        tolerance: largest |score - FP32 score|, at most 0.1 (the definition's ``drift``). vectors: float64 (n, width) rows before the
        transforms, logged or training ones; default: those kept by ``add``. Half calibrates, the other half measures. variants: default
        FP16 and INT8, on a GPU weights of 8 and 4 bits besides.

        Raises DriftError when a variant is outside the tolerance; the version is then as it was. Raises ModelError when there are
        no vectors, too few, or some that the model refuses.
        """
        version = self.resolve(name, ref)
        home = self.path / name / version
        found = self._manifest(name, version)
        place = f"model {name}@{version}"
        if vectors is None:
            if found.vectors is None:
                raise ModelError(
                    f"{place} was added without calibration rows; give rows of training or logged inputs: --dataset FILE or --logged 10000"
                )
            vectors, labels = folder.unpack(folder.artifact(home, found.vectors, place))
        content = folder.artifact(home, found.variants["fp32"], place)
        runs_here = dict.fromkeys(("cpu", self.provider.provider))
        if variants is None:
            variants = ("fp16", "int8") if len(runs_here) == 1 else ("fp16", "int8", *quantizing.WEIGHT_ONLY)
        made = quantizing.quantize(
            content, signature_of(found), found.transformed_names, quantizing.split(found.transforms.apply(vectors), labels),
            tolerance=tolerance, place=place, variants=variants, expected_batch=expected_batch, providers=tuple(runs_here),
        )
        files = {v: (f"{v}.{hashlib.sha256(data).hexdigest()[:12]}.onnx", data) for v, data in made.files.items()}
        with folder.writing(self.path / name):
            for file, data in files.values():
                folder.replace(home / file, data)
            changed = msgspec.structs.replace(
                found,
                variants={"fp32": found.variants["fp32"], **{v: manifests.artifact(file, data) for v, (file, data) in files.items()}},
                chosen=made.chosen, report=made.report, probe=made.probe,
            )
            folder.replace(home / manifests.FILE, manifests.encode(changed))
            for variant, (_, data) in files.items():
                prepare.make_or_not(home, changed.variants[variant], data)
            prepare.clear(home, {a.sha256 for a in changed.variants.values()})
            for old in {p.name for p in home.glob("*.onnx")} - {a.file for a in changed.variants.values()}:
                (home / old).unlink()      # of an earlier quantize; a reader that still has its manifest starts over
        return made.report

    def profile(
        self, name: str, ref: str | None = None, *, expected_batch: int = quantizing.EXPECTED_BATCH, batches: Sequence[int] = BUCKETS
    ) -> Profile:
        """Measure every variant of a version on every provider that runs here, place it, and keep that for the loads of this machine.

        Raises ModelError where FP32 does not run on the CPU.
        """
        version = self.resolve(name, ref)
        home = self.path / name / version
        found, stamp = self._read_manifest(name, version)
        rows = None
        if found.vectors is not None:
            kept = folder.unpack(folder.artifact(home, found.vectors, f"model {name}@{version}"))[0]
            rows = found.transforms.apply(kept[:quantizing.HELD_OUT_ROWS])
        drawn = signature_of(found).drawn(DRAWN, found.transforms.width_out) if rows is None else rows
        made = placement.measure(
            lambda variant, provider: self._made(found, variant, provider), found, stamp,
            ("cpu",) if self._wanted == "cpu" else present(), rows=drawn, kept=0 if rows is None else len(rows),
            tolerance=drift.CEILING if found.report is None else found.report.tolerance, expected_batch=expected_batch,
            now_us=self._clock.now_us(), batches=batches,
        )
        with folder.writing(self.path / name):
            profile.write(home, made)
        return made

    def profiled(self, name: str, ref: str | None = None) -> Profile | None:
        """What ``profile`` measured of a version on this machine; None where it never did, or the version was quantized since."""
        version = self.resolve(name, ref)
        return profile.read(self.path / name / version, self._read_manifest(name, version)[1])

    def alias(self, name: str, alias: str, ref: str) -> str:
        """Let ``alias`` stand for the version that ``ref`` stands for now, and return that version.

        Setting ``latest`` back is a rollback.
        """
        manifests.check_name(alias, "an alias")
        version = self.resolve(name, ref)
        home = self.path / name
        with folder.writing(home):
            if alias in folder.versions(home) or alias.isdecimal():
                raise ModelError(f"{alias} names a version; give the alias a name that is none, such as champion")
            folder.replace(home / ALIASES, msgspec.json.encode({**folder.aliases(home), alias: version}))
        return version
