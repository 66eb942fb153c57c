from __future__ import annotations

from collections.abc import Iterator

import pytest
from watch_rig import BEGUN, models_in

from featureflow.models.store import ModelStore


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """One version of the rig's model; a test that adds more makes its own store."""
    return models_in(tmp_path_factory.mktemp("watched"))


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    while BEGUN:
        BEGUN.pop().close()
