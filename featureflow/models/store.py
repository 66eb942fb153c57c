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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import msgspec
import numpy as np
from numpy.typing import NDArray

from featureflow.clock import Clock, SystemClock
from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models import drift, folder, placement, prepare
from featureflow.models import manifest as manifests
from featureflow.models import quantize as quantizing
from featureflow.models.folder import ALIASES
from featureflow.models.loaded import LoadedModel, probe_problem, trial_problem
from featureflow.models.manifest import (
    NAME,
    Artifact,
    Choice,
    Manifest,
    ModelInput,
    Provider,
    QuantizationReport,
    Variant,
)
from featureflow.models.onnx_file import MODEL_BYTES, Signature, gives, named, parse, signature, takes
from featureflow.models.placement import Placed, Profile
from featureflow.models.pool import SessionKey, SessionPool
from featureflow.models.prepared import Prepared
from featureflow.models.provider import ProviderChoice, choose, present
from featureflow.models.session import BUCKETS, Session
from featureflow.models.tensors import ModelTensor, Part, part, sources_of
from featureflow.models.transform import Transforms

LATEST = "latest"
FP32, VECTORS = "fp32.onnx", "vectors.npz"
REMEMBERED = 1024                          # refs that were seen to be current
DRAWN = 256                                # rows to measure speed on where none are kept
Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Listed:
    """One version in the store, also where it cannot be read."""

    name: str
    version: str
    aliases: tuple[str, ...]
    manifest: Manifest | None
    problem: str | None                    # why there is no manifest


class _Refused(ModelError):
    """A session that runs, and must not answer: it scores the probe rows otherwise than it did."""


class ModelStore:
    """The models under one folder. Safe for several processes: writers take turns by a lock file per model, readers need none."""

    def __init__(
        self, path: Path, clock: Clock | None = None, provider: Provider | None = None, pool: SessionPool | None = None
    ) -> None:
        """provider: insist on one; else CUDA where it really runs, found out at the first load. pool: of the sessions that it loads.

        Raises ModelError where the path is a file's.
        """
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ModelError(f"{self.path} is a file, and models are kept in a folder. Name the folder in models.path")
        self._clock = clock or SystemClock()
        self.pool = pool or SessionPool()
        self._wanted = provider
        self._chosen: ProviderChoice | None = None
        self._choosing = Lock()
        self._current: dict[tuple[str, str | None, str], tuple[object, ...]] = {}

    @property
    def provider(self) -> ProviderChoice:
        """Where this process runs models, and why. Raises ModelError when the provider insisted on does not run here."""
        with self._choosing:
            if self._chosen is None:
                self._chosen = choose(self._wanted)
            return self._chosen

    def apart(self) -> ModelStore:
        """The same models with sessions of its own: for another thread."""
        return ModelStore(self.path, self._clock, self._wanted)

    # -- writing -------------------------------------------------------------------------------------------------------

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
        output: str | None = None,
        origin: str = "",
        column: int | None = None,
    ) -> Manifest:
        """Copy the file in as a new version, and let ``latest`` point to it.

        onnx: the file, or its bytes (see ``models.source``). origin: where bytes came from, for messages. version: default one more than
        the highest whole number. calibration: float64 (n, width) rows before the transforms, kept for ``quantize``; labels: bool (n,).
        model: its definition, whose inputs must be these, and which names the tensors. output: which ONNX output is the score, where the
        file has several. column: which of its columns, where it has several.

        Raises ModelError when the file, inputs and transforms do not fit together or to the definition, when it gives no finite
        scores or other ones in another batch, or when the version exists.
        """
        folder.check_name(name, "a model")
        if version is not None:
            folder.check_name(version, "a version")
        content = onnx if isinstance(onnx, bytes) else folder.read(Path(onnx), limit=MODEL_BYTES)
        place = f"model {name} ({origin if isinstance(onnx, bytes) else onnx})"
        parsed = parse(content, place)
        tensors = () if model is None else _tensors(takes(parsed, place), model.tensors, place)
        made = Manifest(
            name=name, version=version or "0", created_us=self._clock.now_us(), inputs=tuple(inputs), transforms=transforms,
            tensor="", output="", variants={"fp32": manifests.artifact(FP32, content)}, tensors=tensors, column=column,
        )
        if tensors:
            signed = named(parsed, place, _parts(made, place), output=output, column=column)
        else:
            signed = signature(parsed, place, output=output, column=column)
        made = msgspec.structs.replace(made, tensor=signed.tensor, output=signed.output, outputs=gives(parsed, place))
        if model is not None:
            made.check_inputs(model)
        files = {FP32: content}
        session = Session(content, signed, _columns(made), "cpu", place)
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
                    f"{place} was added without calibration rows; give rows of training or logged inputs: --dataset FILE, or vectors="
                )
            vectors, labels = folder.unpack(folder.artifact(home, found.vectors, place))
        content = folder.artifact(home, found.variants["fp32"], place)
        runs_here = dict.fromkeys(("cpu", self.provider.provider))
        if variants is None:
            variants = ("fp16", "int8") if len(runs_here) == 1 else ("fp16", "int8", *quantizing.WEIGHT_ONLY)
        made = quantizing.quantize(
            content, _signature(found), _columns(found), quantizing.split(found.transforms.apply(vectors), labels),
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
        drawn = _signature(found).drawn(DRAWN, found.transforms.width_out) if rows is None else rows
        made = placement.measure(
            lambda variant, provider: self._made(found, variant, provider), found, stamp,
            ("cpu",) if self._wanted == "cpu" else present(), rows=drawn, kept=0 if rows is None else len(rows),
            tolerance=drift.CEILING if found.report is None else found.report.tolerance, expected_batch=expected_batch,
            now_us=self._clock.now_us(), batches=batches,
        )
        with folder.writing(self.path / name):
            placement.write(home, made)
        return made

    def profiled(self, name: str, ref: str | None = None) -> Profile | None:
        """What ``profile`` measured of a version on this machine; None where it never did, or the version was quantized since."""
        version = self.resolve(name, ref)
        return placement.read(self.path / name / version, self._read_manifest(name, version)[1])

    def alias(self, name: str, alias: str, ref: str) -> str:
        """Let ``alias`` stand for the version that ``ref`` stands for now, and return that version.

        Setting ``latest`` back is a rollback.
        """
        folder.check_name(alias, "an alias")
        version = self.resolve(name, ref)
        home = self.path / name
        with folder.writing(home):
            if alias in folder.versions(home) or alias.isdecimal():
                raise ModelError(f"{alias} names a version; give the alias a name that is none, such as champion")
            folder.replace(home / ALIASES, msgspec.json.encode({**folder.aliases(home), alias: version}))
        return version

    # -- reading -------------------------------------------------------------------------------------------------------

    def list(self) -> tuple[Listed, ...]:
        """All versions of all models, by name, oldest first; a broken one is listed with its problem."""
        found = []
        for home in sorted(p for p in self.path.glob("*") if p.is_dir() and NAME.fullmatch(p.name)):
            rows = []
            for version in folder.versions(home):
                names: tuple[str, ...] = ()
                try:
                    names = tuple(sorted(a for a, v in folder.aliases(home).items() if v == version))
                    rows.append(Listed(home.name, version, names, self._manifest(home.name, version), None))
                except ModelError as error:
                    rows.append(Listed(home.name, version, names, None, str(error)))
            found += sorted(rows, key=lambda r: (r.manifest.created_us if r.manifest else 0, _age(r.version)))
        return tuple(found)

    def resolve(self, name: str, ref: str | None = None) -> str:
        """The version that a version, an alias, or nothing (``latest``) stands for. Raises ModelError saying what there is."""
        folder.check_name(name, "a model")
        home = self.path / name
        versions = folder.versions(home)
        if not versions:
            known = ", ".join(sorted({p.parent.parent.name for p in self.path.glob(f"[!.]*/[!.]*/{manifests.FILE}")})) or "none"
            raise ModelError(f"there is no model {name} in {self.path} (there: {known}); add it with featureflow model add {name}")
        aliases = folder.aliases(home)
        if LATEST not in aliases:              # the first add was cut short between its two steps
            aliases[LATEST] = max(versions, key=_age)
        version = ref if ref in versions else aliases.get(ref or LATEST)
        if version is None:
            there = ", ".join([*sorted(versions, key=_age), *sorted(aliases)])
            raise ModelError(f"model {name} has no version or alias {ref or LATEST}; there are: {there}")
        if version not in versions:
            raise ModelError(f"alias {ref or LATEST} of model {name} stands for version {version}, which is gone; point it to another")
        return version

    def load(
        self, name: str, ref: str | None = None, *, variant: Variant | None = None, model: spec.Model | None = None
    ) -> LoadedModel:
        """A model that is checked, warmed and ready. Creating a session holds the GIL for milliseconds: not in an event loop.

        Whatever stands for one version shares one session, which the pool holds; of several threads that ask for it one loads it.

        variant: default, the one chosen for this process's provider; FP32 instead where that one scores the probe rows differently on
        this machine, and the reason says so. model: its definition, whose inputs must be this version's.

        Raises ModelError for what ``resolve`` refuses, a file that is not the one that was added, or a model that does not run or
        does not answer as it did when it was quantized.
        """
        version = self.resolve(name, ref)
        while True:
            found, digest = self._read_manifest(name, version)
            placed = placement.read(self.path / name / version, digest)
            stamp = _stamp(digest, placed)
            if model is not None:
                found.check_inputs(model)
            try:
                return self._load(found, stamp, placed, variant)
            except ModelError:
                if self._stamp_of(name, version) == stamp:
                    raise                  # else it was quantized meanwhile: its files are others now

    def is_current(self, loaded: LoadedModel, ref: str | None = None) -> bool:
        """Whether ``load`` would give the same thing: the ref stands for the same version, and that was not quantized since."""
        home, key = self.path / loaded.name, (loaded.name, ref, loaded.stamp)
        own = home / loaded.version        # whose names change with a profile too
        marks = tuple(_mark(path) for path in (home, home / ALIASES, own, own / manifests.FILE))
        if self._current.get(key) != marks or None in marks:           # asked each second: looked at no closer where no file is another
            self._current.pop(key, None)
            version = self.resolve(loaded.name, ref)
            if version != loaded.version or self._stamp_of(loaded.name, version) != loaded.stamp:
                return False
            if len(self._current) >= REMEMBERED:
                self._current.clear()
            self._current[key] = marks
        return True

    def _load(self, found: Manifest, stamp: str, placed: Profile | None, variant: Variant | None) -> LoadedModel:
        place = f"model {found.name}@{found.version}"
        choice: Choice | Placed
        if placed is not None and self._wanted in (None, placed.chosen.provider):
            choice, provider = placed.chosen, placed.chosen.provider
        else:
            provider = self.provider.provider
            choice = found.choice(provider)
        wanted = variant or choice.variant
        if wanted not in found.variants:
            made = ", ".join(found.variants)
            raise ModelError(f"{place} has no variant {wanted}, only {made}; run featureflow model quantize {found.name}")
        try:
            session = self._session(found, stamp, wanted, provider)
            return LoadedModel(found, wanted, choice.reason if variant is None else f"{variant}: asked for", session, stamp)
        except _Refused as error:
            problem = str(error)
        if variant is None and wanted != "fp32":
            with suppress(_Refused):
                session = self._session(found, stamp, "fp32", provider)
                return LoadedModel(found, "fp32", f"fp32: {wanted} is refused on this machine: {problem}", session, stamp)
        raise ModelError(f"{place} in {wanted} is refused on this machine: {problem}; quantize it again here")

    def _session(self, found: Manifest, stamp: str, variant: Variant, provider: Provider) -> Session:
        """A warmed session, the pool's. Raises _Refused where it must not answer."""
        key = SessionKey(found.name, found.version, provider, stamp, variant, _signature(found).digest, BUCKETS[-1])
        return self.pool.get(key, lambda: self._made(found, variant, provider))

    def _made(self, found: Manifest, variant: Variant, provider: Provider) -> Session:
        place = f"model {found.name}@{found.version} ({variant})"
        session = Session(
            self._content(self.path / found.name / found.version, found.variants[variant], provider, place), _signature(found),
            _columns(found), provider, place,
        )
        if found.probe is not None and (problem := probe_problem(session, found.probe, variant)):
            raise _Refused(problem)
        return session

    def _content(self, home: Path, item: Artifact, provider: Provider, place: str) -> bytes | Prepared:
        """What a session is made of: for the CPU the optimized graph where there is one; of a large file one is made first, elsewhere."""
        if provider == "cpu":
            folder.check(home, item, place)    # what was prepared of another file than is there now is not this version's
            found = prepare.find(home, item)
            if found is None and item.bytes >= prepare.LARGE_BYTES:
                prepare.make_elsewhere(home, item)
                found = prepare.find(home, item)
            if found is not None:
                return found
        content = folder.artifact(home, item, place)
        parse(content, place)
        return content

    def _manifest(self, name: str, version: str) -> Manifest:
        return self._read_manifest(name, version)[0]

    def _stamp_of(self, name: str, version: str) -> str:
        digest = self._read_manifest(name, version)[1]
        return _stamp(digest, placement.read(self.path / name / version, digest))

    def _read_manifest(self, name: str, version: str) -> tuple[Manifest, str]:
        path = self.path / name / version / manifests.FILE
        content = folder.read(path, limit=folder.TEXT_BYTES)
        found = manifests.decode(content, str(path))
        if (found.name, found.version) != (name, version):
            raise ModelError(
                f"{path} is the manifest of {found.name}@{found.version}; a version cannot be moved or copied: add the model again"
            )
        return found, hashlib.sha256(content).hexdigest()


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Another one where the file, or the names in the folder, were replaced; None where it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _stamp(manifest: str, placed: Profile | None) -> str:
    """What tells two loads of one version apart: its manifest, and what this machine measured."""
    return manifest if placed is None else f"{manifest}:{placed.measured_us}:{placed.chosen.variant}:{placed.chosen.provider}"


def _age(version: str) -> str:
    """Sorts whole numbers as such."""
    return version.zfill(64)


def _signature(found: Manifest) -> Signature:
    if found.tensors:
        return Signature("", None, found.output, _parts(found, f"model {found.name}@{found.version}"), found.column)
    return Signature(found.tensor, found.transforms.width_out, found.output, column=found.column)


def _tensors(taken: tuple[ModelTensor, ...], declared: tuple[spec.Tensor, ...], place: str) -> tuple[ModelTensor, ...]:
    """The file's tensors with the inputs that the definition makes them of, in the definition's order; none where it names none."""
    if not declared:
        return ()
    by_name = {tensor.name: tensor for tensor in taken}
    if by_name.keys() != {tensor.name for tensor in declared}:
        raise ModelError(
            f"{place} takes {'; '.join(t.text for t in taken)}, and the definition gives {', '.join(t.name for t in declared)}; "
            "name each tensor of the file in inputs = {...}, and no other"
        )
    return tuple(msgspec.structs.replace(by_name[tensor.name], inputs=tensor.inputs) for tensor in declared)


def _parts(found: Manifest, place: str) -> tuple[Part, ...]:
    widths = [column.width for column in found.transforms.columns]
    sources = sources_of([(item.name, item.size) for item in found.inputs], widths)
    return tuple(part(tensor, [sources[name] for name in tensor.inputs], place) for tensor in found.tensors)


def _columns(found: Manifest) -> tuple[str, ...]:
    return tuple(found.column_names[i] for i in found.transforms.sources)
