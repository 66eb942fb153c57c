"""HTTP in, HTTP out: which method and path means what."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from time import perf_counter
from urllib.parse import unquote

import msgspec
from aiohttp import web

from featureflow.define.spec import Source
from featureflow.errors import RequestError
from featureflow.reading.plan import ViewPlan
from featureflow.serve import body, capacity, catalog, failure, priority, problem
from featureflow.serve.answer import Answer
from featureflow.serve.identity import RequestIds, trace_of
from featureflow.serve.looking import Asked, Looking, read
from featureflow.serve.lookups import Show
from featureflow.serve.openapi import Document
from featureflow.serve.posted import Posted, Refused
from featureflow.serve.priority import peer_at
from featureflow.serve.produce import Producer
from featureflow.serve.rank import Ranker
from featureflow.serve.request import check_id, instant_us
from featureflow.serve.response import ResponseHeads, respond
from featureflow.serve.scorer import Scorer
from featureflow.serve.scoring import Scoring, answered
from featureflow.serve.shown import Shown
from featureflow.serve.upkeep import Upkeep
from featureflow.serve.wire import v1
from featureflow.tracing import Tracer

Handler = Callable[["Call"], Awaitable[Answer]]


class Call:
    """One HTTP request on its way through a handler. ``rest`` is the path after the route's own part, still percent-encoded."""

    __slots__ = ("http", "id", "rest", "since_s", "trace")

    def __init__(self, http: web.BaseRequest, id: str, rest: str, since_s: float, trace: str) -> None:
        self.http, self.id, self.rest, self.since_s, self.trace = http, id, rest, since_s, trace


class Routes:
    """``handle`` answers every request; it raises nothing. Belongs to one event loop."""

    def __init__(
        self,
        scorer: Scorer,
        producer: Producer,
        upkeep: Upkeep,
        openapi: Document,
        *,
        tracer: Tracer | None = None,
        body_s: float = body.BODY_S,
    ) -> None:
        self.scorer, self._producer, self._upkeep, self._openapi = scorer, producer, upkeep, openapi
        self.tracer = tracer
        self.ids, self.heads = RequestIds(), ResponseHeads()
        self.bodies = body.Bodies(body_s)
        self._ranker = Ranker(scorer)
        self._posted: dict[str, Posted] = {}
        self.shown = Shown()
        self._loop = asyncio.get_running_loop()
        self._exact: dict[str, tuple[str, Handler]] = {
            "/": ("GET", self._index),
            "/healthz": ("GET", self._health),
            "/readyz": ("GET", self._ready),
            "/metrics": ("GET", self._metrics),
            "/openapi.json": ("GET", self._document),
            "/v1/views": ("GET", self._views),
            "/v1/models": ("GET", self._models),
        }
        self._prefixes: tuple[tuple[str, str, str, Handler], ...] = (
            ("/v1/score/", "POST", "score", self._score),
            ("/v1/rank/", "POST", "rank", self._rank),
            ("/v1/events/", "POST", "events", self._events),
            ("/v1/features/", "POST", "features", self._features),
            ("/v1/models/", "GET", "models", self._model),
        )

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """The response to one request: 2xx, or problem details (4xx: what to change; 503: when to come back)."""
        since_s = self._loop.time()  # with uvloop: when the loop's last poll returned, so parsing counts too
        began = perf_counter()
        headers = http.headers
        request_id = self.ids.of(headers.get("X-Request-ID", ""))
        route = "other"
        try:
            route, method, handler, rest = self._find(http)
            if http.method != method:
                answer = problem.answer(405, "Method not allowed", f"use {method}", request_id, allow=method)
            else:
                answer = await handler(Call(http, request_id, rest, since_s, trace_of(headers.get("traceparent", ""))))
        except Exception as error:
            answer = failure.answer(error, request_id, self.scorer.metrics, method=http.method, path=http.path)
        finally:
            self.bodies.let_go(http)
        metrics = self.scorer.metrics
        metrics.requests.add(route, answer.status)
        if route == "score":
            metrics.total.observe(perf_counter() - began)
        return respond(http, answer, request_id, self.heads)

    def _find(self, http: web.BaseRequest) -> tuple[str, str, Handler, str]:
        path = http.rel_url.raw_path
        for prefix, method, name, handler in self._prefixes:
            if path.startswith(prefix):
                rest = path[len(prefix) :]
                if name == "features" and "/" in rest:
                    return name, "GET", self._entity, rest
                return name, method, handler, rest
        found = self._exact.get(path)
        if found is None:
            raise RequestError("Not found", f"no route {path[:100]!r}; / lists them", status=404)
        return path, found[0], found[1], ""

    # -- scoring -------------------------------------------------------------------------------------------------------

    async def _score(self, call: Call) -> Answer:
        raw = await self.bodies.read(call.http)
        caller = _caller(call.http)
        scoring = Scoring(
            self.scorer, self.tracer, call.rest, raw, request_id=call.id, since_s=call.since_s, trace=call.trace, caller=caller
        )
        await scoring.future
        return scoring.answer()

    async def _rank(self, call: Call) -> Answer:
        name, _, ref = call.rest.partition("@")
        raw = await self.bodies.read(call.http)
        deadline, answer = await self._ranker.rank(
            name, ref, raw, request_id=call.id, since_s=call.since_s, trace=call.trace, caller=_caller(call.http)
        )
        return answered(self.scorer.metrics, answer, deadline, call.id)

    # -- events --------------------------------------------------------------------------------------------------------

    async def _events(self, call: Call) -> Answer:
        source = self._source(_text(call.rest, "source"))
        raw = await self.bodies.read(call.http)
        posted = self._posted.get(source.name)
        if posted is None or posted.source != source:
            posted = self._posted[source.name] = Posted(source)
        records = posted.records(raw, call.trace)
        if isinstance(records, Refused):
            return records.answer(call.id)
        positions = await self._producer.append(source.topic, records)
        self.scorer.metrics.events.labels(source.name).inc(len(positions))
        return _json(v1.EventsAnswer(source.name, [v1.Position(p, o) for p, o in positions], call.id))

    def _source(self, name: str) -> Source:
        sources = self.scorer.served.current().project.sources
        for source in sources:
            if source.name == name:
                return source
        raise RequestError("No such source", f"sources: {', '.join(s.name for s in sources) or 'none'}", status=404)

    # -- features ------------------------------------------------------------------------------------------------------

    async def _features(self, call: Call) -> Answer:
        view = self.scorer.served.view(_text(call.rest, "view"))
        raw = await self.bodies.read(call.http)
        return await self._looked_at(call, view, read(view, raw), self.shown.many)

    async def _looked_at(self, call: Call, view: ViewPlan, asked: Asked, show: Show) -> Answer:
        looking = Looking(self.scorer, view, asked, show, request_id=call.id, since_s=call.since_s, caller=_caller(call.http))
        await looking.future
        return looking.answer()

    async def _entity(self, call: Call) -> Answer:
        name, _, rest = call.rest.partition("/")
        view = self.scorer.served.view(_text(name, "view"))
        text = _text(rest, "id")
        entity_id: str | int = text
        if view.entity_type == "int":
            if re.fullmatch(r"-?[0-9]{1,19}", text) is None:
                raise RequestError("Wrong type of id", "the id must be a whole number", status=422)
            entity_id = int(text)
        check_id(entity_id, view.entity_type, "id")
        at = call.http.query.get("at")
        at_us = None if at is None else instant_us(int(at) if re.fullmatch(r"-?[0-9]{1,19}", at) else at, "at")
        return await self._looked_at(call, view, ([entity_id], at_us), self.shown.one)

    # -- what there is -------------------------------------------------------------------------------------------------

    async def _views(self, call: Call) -> Answer:
        return _json(await catalog.views(self.scorer))

    async def _models(self, call: Call) -> Answer:
        return _json(catalog.models(self.scorer))

    async def _model(self, call: Call) -> Answer:
        name, slash, what = call.rest.partition("/")
        if not slash:
            return _json(catalog.model(self.scorer, _text(name, "model")))
        if what != "capacity":
            raise RequestError("Not found", f"no route {call.http.rel_url.raw_path[:100]!r}; / lists them", status=404)
        return _json(capacity.of(self.scorer, _text(name, "model")))

    async def _health(self, call: Call) -> Answer:
        return _json(v1.Health())

    async def _ready(self, call: Call) -> Answer:
        ready = self._upkeep.ready()
        return Answer(200 if ready.ready else 503, msgspec.json.encode(ready))

    async def _metrics(self, call: Call) -> Answer:
        return Answer(200, self.scorer.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")

    async def _document(self, call: Call) -> Answer:
        return Answer(200, self._openapi.encode(self.scorer.served.plan, self.scorer.answering()))

    async def _index(self, call: Call) -> Answer:
        plan = self.scorer.served.plan
        lines = ["FeatureFlow", ""]
        if plan is not None:
            lines += [f"POST /v1/score/{name}" for name in plan.models]
            lines += [f"POST /v1/rank/{name}" for name, model in plan.models.items() if model.join_keys]
            lines += [f"POST /v1/events/{source.name}" for source in plan.project.sources]
            lines += [f"POST /v1/features/{name}   GET /v1/features/{name}/<id>" for name in plan.views]
        lines += [
            "GET  /v1/views",
            "GET  /v1/models   GET /v1/models/{model}",
            "GET  /v1/models/{model}/capacity",
            "GET  /healthz",
            "GET  /readyz",
            "GET  /metrics",
            "GET  /openapi.json",
            "",
        ]
        return Answer(200, "\n".join(lines).encode(), "text/plain; charset=utf-8")


def _json(value: msgspec.Struct) -> Answer:
    return Answer(200, msgspec.json.encode(value))


def _caller(http: web.BaseRequest) -> priority.Caller:
    """Raises RequestError (422) for a header that says nothing known."""
    sent = http.headers.get
    return priority.read(sent("X-API-Key", ""), sent("X-Priority", ""), sent("X-Deadline-Ms", ""), peer_at(http.remote))


def _text(part: str, what: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise RequestError("Path is not UTF-8", f"percent-encode the {what} as UTF-8") from None
