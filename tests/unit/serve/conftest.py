from __future__ import annotations

import pytest
from serve_rig import models_in

from featureflow.models.store import ModelStore


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """One version of each model of the rig; tests that add more make their own store."""
    return models_in(tmp_path_factory.mktemp("models"))
