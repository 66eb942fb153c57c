"""Connections. Plain requests for scores and features are read and answered here; with anything else a connection is handed to aiohttp,
for good.

    a connection -> Connection -> plain_request.RequestHeads -> Scoring or Looking -> one write
                      \\-> aiohttp -> Routes              (other routes, large or chunked bodies, pipelining, slow readers)

One request of a connection is under way at a time, and nothing is read ahead of it, so what a connection may hold is bounded. How many
there are is bounded too, of which each address has a share, and how long a request may take to arrive.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, cast

import structlog
from aiohttp import web

from featureflow import limits
from featureflow.pending import Pending
from featureflow.serve import failure, problem
from featureflow.serve.answer import Answer
from featureflow.serve.door import Door
from featureflow.serve.dynamic_threshold import DynamicThreshold
from featureflow.serve.identity import trace_of
from featureflow.serve.looking import Looking, read
from featureflow.serve.plain_request import Head, RequestHeads, Unplain
from featureflow.serve.priority import NOBODY, Caller, peer_of
from featureflow.serve.routes import Routes
from featureflow.serve.scoring import Scoring

IDLE_S = 75.0  # a kept-alive connection without a request
LOOK_S = 1.0  # how often connections are looked over
ARRIVE_S = 10.0  # for a whole request: who drips one is cut off
LINGER_S = 1.0  # for the rest of a body that nobody will read
SHOWN_BYTES = 200
log = structlog.get_logger("featureflow.serve")


class Connections:
    """All connections of a server; ``connect`` makes the protocol of each. Belongs to one event loop."""

    def __init__(self, routes: Routes, *, linger_s: float = LINGER_S, most: int = limits.CONNECTIONS) -> None:
        self.routes, self.heads, self.door = routes, RequestHeads(), Door(routes.scorer, routes.heads)
        self.loop = asyncio.get_running_loop()
        self.others = web.Server(routes.handle, access_log=None)  # the connections that aiohttp has
        self.closing = False
        self.held = DynamicThreshold(most)  # connections, by the address that they come from
        self._linger_s = linger_s
        self._open: set[Connection] = set()
        self._unsent: list[tuple[asyncio.Transport, bytes]] = []
        self._looking = self.loop.call_later(LOOK_S, self._look)
        routes.scorer.send = self.send

    def connect(self) -> Connection:
        return Connection(self)

    def other(self, connection: Connection) -> web.RequestHandler:
        """aiohttp's protocol, to which the connection is handed over."""
        self._open.discard(connection)
        other = _Other(
            self.others,
            loop=self.loop,
            access_log=cast(Any, None),  # aiohttp takes it for none, its annotation does not say so
            keepalive_timeout=IDLE_S,
            lingering_time=self._linger_s,
            auto_decompress=False,
        )
        other.ended = partial(self.held.give_back, connection.peer)
        return other

    def opened(self, connection: Connection) -> str:
        """Why it may not be, as ``Door`` has it; empty where it may."""
        if not self.held.take(connection.peer):
            return "connections_share" if self.held.has_room() else "connections"
        self._open.add(connection)
        return ""

    def closed(self, connection: Connection) -> None:
        if connection in self._open:  # else it was turned away
            self._open.remove(connection)
            self.held.give_back(connection.peer)

    def send_later(self, transport: asyncio.Transport, data: bytes) -> None:
        """As the turn ends that answers it, or this round of the loop. One write after the other finds those who read them awake: to wake
        each anew costs more than all the rest of a refusal, and a tenth of a score.
        """
        if not self._unsent:
            self.loop.call_soon(self.send)
        self._unsent.append((transport, data))

    def send(self) -> None:
        """What is still to be sent."""
        if not self._unsent:
            return
        began, unsent, self._unsent = perf_counter(), self._unsent, []
        for transport, data in unsent:
            if not transport.is_closing():
                transport.write(data)
        self.routes.scorer.lag.busy(began, perf_counter())

    async def close(self, within_s: float) -> None:
        """Let the requests under way be answered, for at most ``within_s``, and close every connection."""
        self.closing = True
        self._looking.cancel()
        await asyncio.sleep(0)  # what has arrived begins
        for connection in list(self._open):
            connection.leave()
        self.others.pre_shutdown()
        ended = self.loop.time() + within_s
        others = asyncio.ensure_future(self.others.shutdown(within_s))
        while self._open and self.loop.time() < ended:
            await asyncio.sleep(0.005)
        for connection in list(self._open):
            connection.abort()
        await others

    def _look(self) -> None:
        now = self.loop.time()
        for connection in list(self._open):
            connection.look(now)
        for other in list(self.others.connections):
            cast(_Other, other).look(now)
        self._looking = self.loop.call_later(LOOK_S, self._look)


class Connection(asyncio.Protocol):
    """One connection, for as long as it sends plain requests."""

    __slots__ = ("_began", "_caller", "_connections", "_kept", "_known", "_scoring", "_sent", "_since", "_transport", "peer")

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self.peer = ""  # the address that it comes from
        self._scoring: Scoring | Looking | None = None  # the request under way
        self._began = 0.0
        self._caller = NOBODY  # who sends no headers about it
        self._sent = self._known = NOBODY  # what headers said last without a key, and who that is
        self._kept = b""  # the part of a request that is here, or what came after the one under way
        self._since = connections.loop.time()  # since when it waits: for a request, or for the rest of one

    # -- as the transport sees it --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.peer = peer_of(transport)
        if reason := self._connections.opened(self):
            self._turn_away(reason)
        else:
            self._caller = Caller(self.peer)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._connections.closed(self)
        if self._scoring is not None:
            self._scoring.future.cancel()  # nobody would hear the answer

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._scoring is not None:  # sent ahead of the answer: aiohttp keeps such requests in order
            self._kept += data
            transport.pause_reading()
            return
        if self._kept:
            data = self._kept + data
        head = self._connections.heads.read(data)
        if isinstance(head, Head):
            short = head.bytes + head.body_bytes - len(data)
            if not short and not transport.get_write_buffer_size():
                self._kept = b""
                if head.route == "score":
                    self._score(head, data)
                else:
                    self._look_up(head, data)
                return
            if short <= 0:  # another request follows, or the caller does not read: aiohttp waits for it
                self._hand_over(data)
                return
        elif head is Unplain.OTHER:
            self._hand_over(data)
            return
        if not self._kept:
            self._since = self._connections.loop.time()
        self._kept = data

    # -- a request -----------------------------------------------------------------------------------------------------

    def _score(self, head: Head, data: bytes) -> None:
        self._began = perf_counter()
        routes = self._connections.routes
        request_id = routes.ids.of(head.request_id)
        caller = self._of(head.caller)
        since_s = routes.scorer.lag.arrived_s()
        refusing = routes.scorer.lanes.of(head.model).admission.refusing
        if refusing and (reason := self._connections.door.refusal(head, data, caller, since_s)):
            self._refuse(reason, request_id, head.route)
            return
        try:
            self._scoring = scoring = Scoring(
                routes.scorer,
                routes.tracer,
                head.target,
                data[head.bytes :],
                request_id=request_id,
                since_s=since_s,
                trace=trace_of(head.trace),
                caller=caller,
            )
        except Exception as error:
            self._write(self._failed(error, request_id, head), request_id, head.route)
            return
        scoring.future.add_done_callback(self._answered)
        routes.scorer.spent.read(perf_counter() - self._began)

    def _look_up(self, head: Head, data: bytes) -> None:
        self._began = perf_counter()
        routes = self._connections.routes
        request_id = routes.ids.of(head.request_id)
        caller = self._of(head.caller)
        since_s = routes.scorer.lag.arrived_s()
        if routes.scorer.lookups.queue.refusing and (reason := self._connections.door.refusal_of_lookup(head, data, caller, since_s)):
            self._refuse(reason, request_id, head.route)
            return
        try:
            view = routes.scorer.served.view(head.target)
            self._scoring = looking = Looking(
                routes.scorer,
                view,
                read(view, data[head.bytes :]),
                routes.shown.many,
                request_id=request_id,
                since_s=since_s,
                caller=caller,
            )
        except Exception as error:
            self._write(self._failed(error, request_id, head), request_id, head.route)
            return
        looking.future.add_done_callback(self._answered)
        routes.scorer.lookups.queue.spent(perf_counter() - self._began)

    def _of(self, sent: Caller) -> Caller:
        """Who sent it: an API key, or the address of this connection."""
        if sent is NOBODY:
            return self._caller
        if sent.client:
            return sent
        if sent is not self._sent:  # heads are remembered, so what one connection sends is mostly the same
            self._sent, self._known = sent, Caller(self._caller.client, sent.priority, sent.deadline_ms)
        return self._known

    def _refuse(self, reason: str, request_id: str, route: str) -> None:
        transport, connections = self._transport, self._connections
        assert transport is not None
        metrics = connections.routes.scorer.metrics
        metrics.requests.add(route, 503)
        connections.send_later(transport, connections.door.refuse(reason, request_id, not connections.closing))
        if route == "score":
            metrics.total.observe(perf_counter() - self._began)
        self._since = connections.loop.time()
        if connections.closing:
            self.leave()

    def _turn_away(self, reason: str) -> None:
        """One connection more than there may be."""
        transport, self._transport = self._transport, None
        assert transport is not None
        routes = self._connections.routes
        routes.scorer.metrics.requests.add("other", 503)
        transport.write(self._connections.door.refuse(reason, routes.ids.of(""), False))
        transport.close()

    def _cut_off(self) -> None:
        """The request has not come whole within ``ARRIVE_S``."""
        transport, routes = self._transport, self._connections.routes
        assert transport is not None
        head = self._connections.heads.read(self._kept)
        part = "body" if isinstance(head, Head) else "header"
        request_id = routes.ids.of("")
        answer = problem.answer(
            408, f"{part.capitalize()} too slow", f"send the whole request within {ARRIVE_S:g} s; this {part} is not whole", request_id
        )
        routes.scorer.metrics.requests.add(head.route if isinstance(head, Head) else "other", 408)
        routes.scorer.metrics.too_slow.labels(part).inc()
        transport.write(routes.heads.encode(answer, request_id, False))
        transport.close()
        self._kept = b""

    def _answered(self, future: Pending[Any]) -> None:
        scoring, self._scoring = self._scoring, None
        if scoring is None or future.cancelled():
            return
        try:
            answer = scoring.answer()
        except Exception as error:
            answer = self._failed(error, scoring.id, scoring)
        self._write(answer, scoring.id, scoring.route)

    def _failed(self, error: Exception, request_id: str, of: Head | Scoring | Looking) -> Answer:
        metrics = self._connections.routes.scorer.metrics
        return failure.answer(error, request_id, metrics, method="POST", path=f"/v1/{of.route}/{of.target}")

    def _write(self, answer: Answer, request_id: str, route: str) -> None:
        transport, connections = self._transport, self._connections
        metrics = connections.routes.scorer.metrics
        metrics.requests.add(route, answer.status)
        if route == "score":
            metrics.total.observe(perf_counter() - self._began)
        if transport is None:
            return
        connections.send_later(transport, connections.routes.heads.encode(answer, request_id, not connections.closing))
        self._since = connections.loop.time()
        if connections.closing:
            self.leave()
        elif self._kept:
            kept, self._kept = self._kept, b""
            transport.resume_reading()
            self._hand_over(kept)

    # -- as the server sees it -----------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Close it where it was idle for too long, or where a request does not come whole."""
        if self._transport is None or self._scoring is not None:
            return
        if self._kept:
            if now - self._since >= ARRIVE_S:
                self._cut_off()
        elif now - self._since >= IDLE_S:
            if self._transport.get_write_buffer_size():  # who reads no answer would read no end either
                self._transport.abort()
            else:
                self._transport.close()

    def leave(self) -> None:
        """Close the connection, once the request under way is answered."""
        if self._transport is not None and self._scoring is None:
            self._connections.send()
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _hand_over(self, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._transport = None
        self._connections.send()
        other = self._connections.other(self)
        transport.set_protocol(other)
        other.connection_made(transport)
        other.data_received(data)


class _Other(web.RequestHandler):
    """aiohttp's protocol; what is no HTTP is answered with problem details and one line in the log, without a traceback.

    It waits for as long as it takes that an answer is read, also where it has closed the connection behind it.
    """

    __slots__ = ("_own", "_since", "_unread", "ended")
    ended: Callable[[], None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._own, self._unread, self._since = cast(asyncio.Transport, transport), 0, 0.0
        super().connection_made(transport)

    def connection_lost(self, error: BaseException | None) -> None:
        request = self._task_handler
        super().connection_lost(error)
        if request is None:
            self.ended()
        else:  # who leaves and comes again has no more requests under way than who stays
            request.add_done_callback(lambda _: self.ended())

    def look(self, now: float) -> None:
        """Close it where nothing was read for too long of what it was answered."""
        unread = self._own.get_write_buffer_size()
        if unread != self._unread or not unread:
            self._unread, self._since = unread, now
        elif now - self._since >= IDLE_S:
            self._own.abort()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> Any:
        said = " ".join((message or str(exc) or "").split())[:SHOWN_BYTES]
        log.warning("not_http", status=status, detail=said, peer=request.remote)
        answer = problem.answer(status, "Not an HTTP request", f"{said or 'it cannot be read'}; the connection is closed")
        response = web.Response(
            status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type, "Server": "featureflow"}
        )
        response.force_close()
        return response


