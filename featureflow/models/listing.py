"""Models on disk, to look at: which versions there are, and what stands in their manifests. Readers take no lock.

Without ONNX Runtime: a machine that applies definitions, or only ingests, need not have it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from featureflow.errors import ModelError
from featureflow.models import folder
from featureflow.models import manifest as manifests
from featureflow.models.manifest import NAME, Manifest

LATEST = "latest"


@dataclass(frozen=True)
class Listed:
    """One version in the store, also where it cannot be read."""

    name: str
    version: str
    aliases: tuple[str, ...]
    manifest: Manifest | None
    problem: str | None                    # why there is no manifest


class ModelListing:
    """The models under one folder, as a ``ModelStore`` keeps them there. Safe beside its writers, in this process or another."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError where the path is a file's."""
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ModelError(f"{self.path} is a file, and models are kept in a folder. Name the folder in models.path")

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
        manifests.check_name(name, "a model")
        home = self.path / name
        versions = folder.versions(home)
        if not versions:
            known = ", ".join(sorted({p.parent.parent.name for p in self.path.glob(f"[!.]*/[!.]*/{manifests.FILE}")})) or "none"
            raise ModelError(f"there is no model {name} in {self.path} (there: {known}). Run: featureflow model add {name} FILE.onnx")
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

    def manifest(self, name: str, ref: str | None = None) -> Manifest:
        """Of the version that the ref stands for, see ``resolve``. Raises ModelError as that does, and where it cannot be read."""
        return self._manifest(name, self.resolve(name, ref))

    def _manifest(self, name: str, version: str) -> Manifest:
        return self._read_manifest(name, version)[0]

    def _read_manifest(self, name: str, version: str) -> tuple[Manifest, str]:
        path = self.path / name / version / manifests.FILE
        content = folder.read(path, limit=folder.TEXT_BYTES)
        found = manifests.decode(content, str(path))
        if (found.name, found.version) != (name, version):
            raise ModelError(
                f"{path} is the manifest of {found.name}@{found.version}; a version cannot be moved or copied: add the model again"
            )
        return found, hashlib.sha256(content).hexdigest()


def _age(version: str) -> str:
    """Sorts whole numbers as such."""
    return version.zfill(64)
