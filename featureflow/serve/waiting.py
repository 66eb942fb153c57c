"""The requests that wait for a turn: the more important first, and among equals a fair share for each model and each of its callers.

A share is measured in seconds of work. Each model, and within it each client, has a virtual time: how much of its work was taken. Who
is furthest behind is next (start-time fair queueing, Goyal, Vin and Cheng 1996). Where room must be made, the newest request goes of the
client that has most of the model that has most, among the least important.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace

from featureflow.serve.priority import Priority
from featureflow.serve.request import Request


class _Share:
    """Of one priority, one model, or one client: parts that share by their virtual time, or a client's requests, oldest first."""

    __slots__ = ("_count", "heap", "now_s", "parts", "requests", "virtual_s", "work_s")

    def __init__(self, virtual_s: float = 0.0) -> None:
        self.parts: dict[str, _Share] = {}
        self.heap: list[tuple[float, int, str]] = []  # of the parts: virtual time, turn among equals, name
        self.requests: deque[Request] = deque()
        self.work_s, self.virtual_s = 0.0, virtual_s
        self.now_s = 0.0  # where a part begins that comes now: at the virtual time of whoever was served last
        self._count = 0

    def part(self, name: str) -> _Share:
        found = self.parts.get(name)
        if found is None:
            found = self.parts[name] = _Share(self.now_s)
            self._count += 1
            heappush(self.heap, (found.virtual_s, self._count, name))
        return found

    def served(self, name: str, part: _Share, cost_s: float) -> None:
        """Its first part, of this name, was served: it goes behind those that had less, or away."""
        self.now_s = part.virtual_s
        part.virtual_s += cost_s
        if part.parts or part.requests:
            self._count += 1
            heapreplace(self.heap, (part.virtual_s, self._count, name))
        else:
            heappop(self.heap)
            del self.parts[name]

    def forget(self, name: str) -> None:
        del self.parts[name]
        self.heap = [entry for entry in self.heap if entry[2] != name]
        heapify(self.heap)

    def most(self) -> str:
        """The part that has most work."""
        return max(self.parts, key=lambda name: self.parts[name].work_s)


class Waiting:
    """``cost_s`` of a request must be set before it is added, and stay."""

    def __init__(self) -> None:
        self._levels = [_Share() for _ in Priority]
        self.requests = self.rows = 0
        self.work_s = 0.0
        self.longest_s = 0.0  # budget, of those that came since nobody waited

    def __len__(self) -> int:
        return self.requests

    def add(self, request: Request) -> None:
        level, cost_s = self._levels[request.priority], request.cost_s
        model = level.part(request.kind)
        client = model.part(request.client)
        client.requests.append(request)
        level.work_s += cost_s
        model.work_s += cost_s
        client.work_s += cost_s
        self.work_s += cost_s
        self.requests += 1
        self.rows += len(request.rows)
        if request.deadline.budget_s > self.longest_s:
            self.longest_s = request.deadline.budget_s

    def price(self, kind: str, unit_s: Callable[[Request], float]) -> None:
        """What the rows of these requests cost is known only now."""
        for level in self._levels:
            if (model := level.parts.get(kind)) is not None:
                for client in model.parts.values():
                    for request in client.requests:
                        more_s = len(request.rows) * unit_s(request) - request.cost_s
                        request.cost_s += more_s
                        self.work_s += more_s
                        for share in (level, model, client):
                            share.work_s += more_s

    def ahead_s(self, priority: Priority) -> float:
        """The work that is as important as that, or more."""
        work_s = 0.0
        for level in self._levels[: priority + 1]:
            work_s += level.work_s
        return work_s

    def share_s(self, priority: Priority, kind: str, client: str, cost_s: float) -> float:
        """What comes at most before a request of this client that adds so much work: all that is more important, and of its equals no
        more than each one's share until then.
        """
        level = self._levels[priority]
        model = level.parts.get(kind)
        of_model, of_client, clients = (0.0, 0.0, 0) if model is None else (model.work_s, 0.0, len(model.parts))
        if model is not None and client in model.parts:
            of_client, clients = model.parts[client].work_s, clients - 1
        before = of_client + min(of_model - of_client, clients * (of_client + cost_s))
        models = len(level.parts) - (model is not None)
        before += min(level.work_s - of_model, models * (before + cost_s))
        return before + sum(more.work_s for more in self._levels[:priority])

    def first(self) -> Request | None:
        """Whose turn it is."""
        for level in self._levels:
            if level.parts:
                model = level.parts[level.heap[0][2]]
                return model.parts[model.heap[0][2]].requests[0]
        return None

    def take(self) -> Request:
        """The first, which waits no longer. Raises IndexError where nobody waits."""
        for level in self._levels:
            if level.parts:
                break
        else:
            raise IndexError("nobody waits")
        kind = level.heap[0][2]
        model = level.parts[kind]
        name = model.heap[0][2]
        client = model.parts[name]
        request = client.requests.popleft()
        cost_s = request.cost_s
        level.work_s -= cost_s
        model.work_s -= cost_s
        client.work_s -= cost_s
        model.served(name, client, cost_s)
        level.served(kind, model, cost_s)
        self._left(request, level)
        return request

    def would_make_way(self, priority: Priority, kind: str, client: str, cost_s: float) -> bool:
        """Whether, of all with a request of this client that adds so much work, somebody else has the least right to wait."""
        if any(less.parts for less in self._levels[priority + 1 :]):
            return True
        level = self._levels[priority]
        model = level.parts.get(kind)
        own_s = cost_s if model is None else model.work_s + cost_s
        if any(other.work_s > own_s for name, other in level.parts.items() if name != kind):
            return True
        if model is None:
            return False
        own_s = model.parts[client].work_s + cost_s if client in model.parts else cost_s
        return any(other.work_s > own_s for name, other in model.parts.items() if name != client)

    def make_way(self, newcomer: Request) -> Request | None:
        """Take out the request that has the least right to wait, in favour of one that was just added; None where that is its own."""
        for level in reversed(self._levels):
            if not level.parts:
                continue
            kind = level.most()
            model = level.parts[kind]
            name = model.most()
            client = model.parts[name]
            request = client.requests[-1]
            if request is newcomer:
                return None
            client.requests.pop()
            for share in (level, model, client):
                share.work_s -= request.cost_s
            if not client.requests:
                model.forget(name)
            if not model.parts:
                level.forget(kind)
            self._left(request, level)
            return request
        return None

    def _left(self, request: Request, level: _Share) -> None:
        self.requests -= 1
        self.rows -= len(request.rows)
        self.work_s -= request.cost_s
        if not self.requests:
            self.work_s = self.longest_s = 0.0
        if not level.parts:
            level.work_s = level.now_s = 0.0  # nothing is left of it: neither rounding nor history
