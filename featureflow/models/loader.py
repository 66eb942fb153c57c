"""Models on disk, to load. Readers take no lock.

A loaded model is checked, warmed, of the variant that was chosen for where it runs, and shares its session with all who load that version.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from threading import Lock

from featureflow.define import spec
from featureflow.errors import ModelError
from featureflow.models import folder, prepare, profile
from featureflow.models import manifest as manifests
from featureflow.models.folder import ALIASES
from featureflow.models.listing import ModelListing
from featureflow.models.loaded import LoadedModel, probe_problem
from featureflow.models.manifest import Artifact, Choice, Manifest, Provider, Variant, as_added
from featureflow.models.onnx_file import parse
from featureflow.models.pool import SessionKey, SessionPool
from featureflow.models.prepared import Prepared
from featureflow.models.profile import Placed, Profile
from featureflow.models.provider import ProviderChoice, choose
from featureflow.models.session import BUCKETS, Session
from featureflow.models.signature import signature_of

REMEMBERED = 1024                          # refs that were seen to be current


class _Refused(ModelError):
    """A session that runs, and must not answer: it scores the probe rows otherwise than it did."""


class ModelLoader(ModelListing):
    """The models under one folder, as a ``ModelStore`` keeps them there. Safe beside its writers, in this process or another."""

    def __init__(self, path: Path, provider: Provider | None = None, pool: SessionPool | None = None) -> None:
        """provider: insist on one; else CUDA where it really runs, found out at the first load. pool: of the sessions that it loads.

        Raises ModelError where the path is a file's.
        """
        super().__init__(path)
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

    def apart(self) -> ModelLoader:
        """The same models with sessions of its own: for another thread."""
        return ModelLoader(self.path, self._wanted)

    def load(
        self, name: str, ref: str | None = None, *, variant: Variant | None = None, project: spec.Project | None = None
    ) -> LoadedModel:
        """A model that is checked, warmed and ready. Creating a session holds the GIL for milliseconds: not in an event loop.

        Whatever stands for one version shares one session, which the pool holds; of several threads that ask for it one loads it.

        variant: default, the one chosen for this process's provider; FP32 instead where that one scores the probe rows differently on
        this machine, and the reason says so. project: the definitions, by which the version's inputs must be there to compute (see
        ``manifest.as_added``).

        Raises ModelError for what ``resolve`` refuses, a file that is not the one that was added, or a model that does not run or
        does not answer as it did when it was quantized.
        """
        version = self.resolve(name, ref)
        while True:
            found, digest = self._read_manifest(name, version)
            placed = profile.read(self.path / name / version, digest)
            stamp = _stamp(digest, placed)
            if project is not None:
                as_added(found, project)
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
        key = SessionKey(found.name, found.version, provider, stamp, variant, signature_of(found).digest, BUCKETS[-1])
        return self.pool.get(key, lambda: self._made(found, variant, provider))

    def _made(self, found: Manifest, variant: Variant, provider: Provider) -> Session:
        place = f"model {found.name}@{found.version} ({variant})"
        session = Session(
            self._content(self.path / found.name / found.version, found.variants[variant], provider, place), signature_of(found),
            found.transformed_names, provider, place,
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

    def _stamp_of(self, name: str, version: str) -> str:
        digest = self._read_manifest(name, version)[1]
        return _stamp(digest, profile.read(self.path / name / version, digest))


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
