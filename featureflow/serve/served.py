"""The definitions that are served: read from where they are mirrored, compiled, and replaced whole where they changed."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import structlog

from featureflow import limits
from featureflow.define.spec import Project
from featureflow.errors import RequestError, UnavailableError
from featureflow.reading.fetch import Reader
from featureflow.reading.plan import ModelPlan, Plan, ViewPlan
from featureflow.store.keys import Keys
from featureflow.store.mirror import BUCKETS_DOCUMENT, PROJECT_DOCUMENT, partitions_document
from featureflow.store.online.loss import emptied

log = structlog.get_logger("featureflow.serve")


@dataclass(frozen=True)
class Compiled:
    """Definitions that can be served, and the documents that they were compiled from."""

    plan: Plan
    documents: tuple[bytes | None, ...]


class Served:
    """``plan`` is None before there are any, and ``problem`` says why, or why newer ones are not served. ``lost``: the store that they came
    from holds none any more, so no state either."""

    def __init__(self, reader: Reader, keys: Keys) -> None:
        self.plan: Plan | None = None
        self.problem = "the definitions have not been read yet"
        self.lost = False
        self._reader, self._keys = reader, keys
        self._documents: tuple[bytes | None, ...] = ()

    async def changed(self) -> Compiled | None:
        """Other definitions than those that are served, compiled; None where there are none, or none that can be compiled.

        Raises UnavailableError.
        """
        document, of = await self._reader.read([self._keys.meta(name) for name in (PROJECT_DOCUMENT, BUCKETS_DOCUMENT)])
        self.lost = document is None and self.plan is not None
        if document is None:
            nothing_yet = "no definitions are registered in the online store: run `featureflow apply`"
            self.problem = emptied("the definitions that are served") if self.lost else nothing_yet
            return None
        try:
            project = msgspec.json.decode(document, type=Project)
            names = [source.name for source in project.sources]
            counts = await self._reader.read([self._keys.meta(partitions_document(name)) for name in names]) if names else []
            documents = (document, of, *counts)
            if documents == self._documents:
                self.problem = ""
                return None
            partitions = {
                name: int(msgspec.json.decode(c)) for name, c in zip(names, counts, strict=True) if c is not None
            }
            return Compiled(Plan(project, partitions, _buckets(of)), documents)
        except UnavailableError:
            raise
        except Exception as error:
            self.problem = (
                f"the registered definitions cannot be served ({error}): run `featureflow apply` of this version"
            )
            log.error("definitions_refused", error=str(error))
            return None

    def serve(self, compiled: Compiled) -> None:
        """From now on these."""
        self.plan, self._documents, self.problem = compiled.plan, compiled.documents, ""

    def view(self, name: str) -> ViewPlan:
        """Raises RequestError (404)."""
        plan = self.current()
        if name not in plan.views:
            if name in plan.waiting:
                raise UnavailableError(
                    f"view {name}: the partition count of {plan.waiting[name]} is not in the online store; run `featureflow apply`"
                )
            raise RequestError("No such view", f"views: {', '.join(plan.views) or 'none'}", status=404)
        return plan.views[name]

    def model(self, name: str) -> ModelPlan:
        """Raises RequestError (404), UnavailableError while a view that it reads waits."""
        plan = self.current()
        found = plan.models.get(name)
        if found is None:
            if any(m.name == name for m in plan.project.models):
                raise UnavailableError(
                    f"model {name}: a view that it reads waits for {plan.waiting}; run `featureflow apply`"
                )
            raise RequestError("No such model", f"models: {', '.join(plan.models) or 'none'}", status=404)
        return found

    def current(self) -> Plan:
        """The definitions that are served now. Raises UnavailableError before there are any."""
        if self.plan is None:
            raise UnavailableError(self.problem)
        return self.plan


def _buckets(document: bytes | None) -> int:
    """How many states are in. Raises ValueError: keys of any number of them would be made."""
    number = int(document or 1) if (document or b"1").isdigit() else 0
    if not 1 <= number <= limits.BUCKETS:
        raise ValueError(f"the number of buckets is {document!r}; it is 1 to {limits.BUCKETS:,}")
    return number
