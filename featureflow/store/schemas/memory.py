"""A schema registry in a dict, behind the same protocol, for unit tests."""

from __future__ import annotations

from featureflow.errors import UnavailableError
from featureflow.store.schemas.protocol import Schema


class MemorySchemaRegistry:
    """``away``: as if it could not be reached. ``asked`` counts the questions."""

    def __init__(self) -> None:
        self._schemas: list[Schema] = []
        self._subjects: dict[str, list[Schema]] = {}
        self.away = False
        self.asked = 0

    def register(self, subject: str, schema: Schema) -> int:
        """The schema's id: the same for the same schema, whatever the subject."""
        versions = self._subjects.setdefault(subject, [])
        if schema not in versions:
            versions.append(schema)
        if schema not in self._schemas:
            self._schemas.append(schema)
        return self._schemas.index(schema) + 1

    def schema(self, number: int) -> Schema | None:
        self._ask()
        return self._schemas[number - 1] if 0 < number <= len(self._schemas) else None

    def version(self, subject: str, version: int) -> Schema | None:
        self._ask()
        versions = self._subjects.get(subject, [])
        return versions[version - 1] if 0 < version <= len(versions) else None

    def latest(self, subject: str) -> Schema | None:
        self._ask()
        versions = self._subjects.get(subject, [])
        return versions[-1] if versions else None

    def ping(self) -> str:
        self._ask()
        return "a schema registry in memory"

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise UnavailableError("the schema registry does not answer; see log.schema_registry_url")
