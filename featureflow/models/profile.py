"""What one version costs on one machine, and what answers there: kept beside its manifest, looked up at every load.

Its file is named by the machine, so that several share a folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from featureflow.errors import ModelError
from featureflow.models import checksummed, folder
from featureflow.models.machine import machine
from featureflow.models.manifest import Provider, Variant, VariantReport


class Placed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What answers on a machine, and why that."""

    variant: Variant
    provider: Provider
    reason: str


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured of one version on one machine."""

    name: str
    version: str
    manifest: str                          # SHA-256 of its file: quantized again, the version has other variants
    machine: str
    measured_us: int
    rows: int                              # that drift was measured on; 0: none are kept, so it is not known
    expected_batch: int
    variants: tuple[VariantReport, ...]    # FP32 on the CPU first
    chosen: Placed


def file_of(what: str) -> str:
    """The name of the file that a machine's profile stands in."""
    return f"profile.{hashlib.sha256(what.encode()).hexdigest()[:12]}.json"


def write(home: Path, found: Profile) -> None:
    """Keep a profile beside the manifest of its version."""
    folder.replace(home / file_of(found.machine), checksummed.encode(found) + b"\n")


def read(home: Path, manifest: str) -> Profile | None:
    """This machine's profile of a version, or None: never measured, of other variants, or not as written. One can do without."""
    try:
        found = checksummed.decode(folder.read(home / file_of(machine()), limit=folder.TEXT_BYTES), Profile)
    except ModelError:
        return None
    return found if found is not None and found.manifest == manifest else None
