"""What every verb shares: the settings, and the stores they point to, opened on first use and closed at the end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featureflow import settings as settings_file
from featureflow.clock import Clock, SystemClock
from featureflow.define.project import load
from featureflow.define.spec import Project
from featureflow.errors import ModelError, StateError
from featureflow.ingest.failpoint import Failpoint, unarmed
from featureflow.settings import EMBEDDED, Settings
from featureflow.store.history.protocol import HistoryStore
from featureflow.store.log.protocol import Log
from featureflow.store.mirror import NOTHING_APPLIED, mirrored
from featureflow.store.online.loss import emptied
from featureflow.store.online.protocol import OnlineStore
from featureflow.store.registry import Registry
from featureflow.store.schemas.protocol import SchemaRegistry
from featureflow.watch import failpoint as watch_failpoint

if TYPE_CHECKING:
    from featureflow.models.listing import ModelListing
    from featureflow.models.store import ModelStore
    from featureflow.store.online.embedded import EmbeddedServer

WITHOUT_RUNTIME = 'ONNX Runtime is not installed. Run: pip install "featureflow[cpu]", or "featureflow[gpu]" on a machine with CUDA'
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


class Context:
    """A ``with`` block of a verb. Where a setting says ``embedded``, the folder's server child is started or joined."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self._exits = ExitStack()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    @property
    def failpoint(self) -> Failpoint:
        """What the consumers pass their named places with: unarmed, and no setting arms it. Tests put another here."""
        return unarmed

    @property
    def watch_failpoint(self) -> watch_failpoint.Failpoint:
        """The same of ``watch``."""
        return watch_failpoint.unarmed

    @cached_property
    def settings(self) -> Settings:
        """Of the folder and the environment. Raises SettingsError."""
        return settings_file.load(self.folder, self.environment)

    @cached_property
    def clock(self) -> Clock:
        """The system's, shifted as ``clock.shift_us`` says."""
        return SystemClock(self.settings.clock.shift_us)

    @cached_property
    def embedded(self) -> EmbeddedServer:
        """The project's server child, started or joined."""
        from featureflow.store.online.embedded import EmbeddedServer

        server = EmbeddedServer(self.settings.path(self.settings.project.data) / "server")
        self._exits.callback(server.close)
        return server

    @property
    def embedded_url(self) -> str:
        """Its unix:// URL."""
        return self.embedded.url

    @cached_property
    def online_url(self) -> str:
        """Where the online store is, the server child's address included."""
        url = self.settings.online.url
        return self.embedded_url if url == EMBEDDED else url

    @cached_property
    def online(self) -> OnlineStore:
        """The online store, not asked anything yet. Raises UnavailableError for a URL that names none."""
        from featureflow.store.online.open import open_online

        store = open_online(self.online_url, project=self.settings.name)
        self._exits.callback(store.close)
        return store

    @cached_property
    def log(self) -> Log:
        """The log. Raises SettingsError for a URL that names none."""
        from featureflow.store.log.open import open_log

        url = self.settings.log.url
        log = open_log(self.embedded_url if url == EMBEDDED else url)
        self._exits.callback(log.close)
        return log

    @cached_property
    def schemas(self) -> SchemaRegistry | None:
        """The schema registry, where one is set."""
        from featureflow.store.schemas.registry import HttpSchemaRegistry

        url = self.settings.log.schema_registry_url
        return HttpSchemaRegistry(url) if url else None

    @cached_property
    def history(self) -> HistoryStore:
        """The history store, not asked anything yet; where it is embedded, a SQLite file beside the server's. Raises SettingsError."""
        from featureflow.store.history.sql import SqlHistory

        url = self.settings.history.url
        if url == EMBEDDED:
            folder = self.settings.path(self.settings.project.data)
            folder.mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{folder / 'history.db'}"
        store = SqlHistory(url, passing=self.failpoint)
        self._exits.callback(store.close)
        return store

    @cached_property
    def models(self) -> ModelStore:
        """The model store. Raises ModelError without ONNX Runtime, which a machine that only ingests has no need of."""
        try:
            from featureflow.models.store import ModelStore
        except ModuleNotFoundError as error:
            if error.name != "onnxruntime":
                raise
            raise ModelError(WITHOUT_RUNTIME) from error
        return ModelStore(self.settings.path(self.settings.models.path))

    @cached_property
    def listing(self) -> ModelListing:
        """What is in the model store, to look at; without ONNX Runtime too."""
        from featureflow.models.listing import ModelListing

        return ModelListing(self.settings.path(self.settings.models.path))

    @cached_property
    def registry(self) -> Registry:
        """What is applied: in the history database, and mirrored in the online store."""
        from featureflow.store.online.open import buckets_at_first

        online = self.settings.online
        return Registry(
            self.history, self.online, self.log, buckets=online.buckets or None, buckets_at_first=buckets_at_first(online.url)
        )

    def mirrored(self) -> Project | None:
        """What was applied, as the online store has it; None before the first ``apply``. Raises StateError where it was and is lost."""
        project = mirrored(self.online)
        if project is None and self.registry.inspection.emptied(self.registry.current()):
            raise StateError(emptied("the definitions that were applied"))
        return project

    @cached_property
    def written(self) -> Project:
        """What the definitions file says now."""
        return load(self.settings.path(self.settings.project.definitions), name=self.settings.name)

    @cached_property
    def applied(self) -> Project:
        """What was applied last. Raises StateError before the first ``apply``."""
        if (project := self.registry.current()) is None:
            raise StateError(NOTHING_APPLIED)
        return project
