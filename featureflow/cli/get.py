"""``featureflow get``: look at the features of some entities."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from featureflow.cli.context import Context, Json
from featureflow.cli.output import Output
from featureflow.clock import NO_TIME_US, SystemClock, from_us
from featureflow.errors import HistoryError, RequestError, UnavailableError
from featureflow.kernel.finalize import Status, Values
from featureflow.reading import features as feature_values
from featureflow.reading.blocking import BlockingReader
from featureflow.reading.features import Features, shown
from featureflow.reading.fetch import Fetcher, Unread
from featureflow.reading.plan import Plan, ViewPlan
from featureflow.serve.request import check_id, instant_us
from featureflow.settings import duration_us
from featureflow.store.mirror import buckets_of, partitions_document
from featureflow.store.online.protocol import OnlineStore
from featureflow.train.recall import Question, recall


def register(app: typer.Typer) -> None:
    app.command("get")(get)


def get(
    context: typer.Context,
    view: Annotated[str, typer.Argument(help="A view's name, such as user_now.")],
    ids: Annotated[list[str], typer.Argument(help="Entity ids.")],
    at: Annotated[str, typer.Option(help="An instant, RFC 3339 with a zone, or microseconds since 1970 UTC; now if left out.")] = "",
    json: Json = False,
) -> None:
    """Read features as the scorer would. Value, status and event time of each.

    What the state has no exact answer to at that instant is computed from history.
    """
    here: Context = context.obj
    output = Output(json=json)
    with here:
        plan = _plan_of(here, view)
        wanted: list[str | int | None] = [_id_of(text, plan) for text in ids]
        q_us = here.clock.now_us() if not at else _instant(at)
        stale_after_us = duration_us(here.settings.online.stale_after, "online.stale_after")
        found, past = asyncio.run(_read(here.online, plan, wanted, q_us, stale_after_us, here.clock.now_us() if at else None))
        recalled = _recalled(here, plan, found, past, q_us) if past else None
    values = Values(found.values, found.statuses, found.event_times_us, found.texts)
    if recalled is not None:
        place = np.arange(len(ids))
        place[past] = len(ids) + np.arange(len(past))
        values = Values.concat([values, recalled]).take(place)
    rows = []
    for index, entity in enumerate(ids):
        for feature, reference in enumerate(plan.references):
            time_us = int(values.event_times_us[index, feature])
            value = shown(plan, values, index, feature)
            rows.append(
                {
                    "id": entity,
                    "feature": reference,
                    "value": [_defined(v) for v in value] if isinstance(value, list) else _defined(value),
                    "status": Status(int(values.statuses[index, feature])).name.lower(),
                    "event_time": None if time_us == NO_TIME_US else from_us(time_us).isoformat(),
                }
            )
    output.say(f"{plan.view.id} at {from_us(q_us).isoformat()}")
    output.table(("id", "feature", "value", "status", "event time"), [list(row.values()) for row in rows])
    if past:
        output.say(f"from history: {', '.join(ids[row] for row in past)}")
    if at and (more := ahead(values.event_times_us, q_us)):
        output.warn(more)
    answered = {f"{plan.view.name}:unanswerable"} if found.unanswerable.keys() <= set(past) else set()
    degraded = [what for what in found.degraded if what not in answered]
    for what in degraded:
        output.warn(f"degraded: {what}")
    output.result(
        {
            "view": plan.view.id,
            "q": q_us,
            "applied": found.applied(0),
            "features": rows,
            "degraded": degraded,
            "from_history": [ids[row] for row in past],
        }
    )


def ahead(event_times_us: NDArray[np.int64], q_us: int) -> str:
    """What to say where values count events that are newer than the instant that was named; nothing where none does."""
    newest_us = int(event_times_us.max(initial=NO_TIME_US))
    if newest_us <= q_us:
        return ""
    return (
        f"events count here up to {from_us(newest_us).isoformat()}, after the instant: values are exact to the view's finest tile. "
        "A window of a minute or less beside the others makes that a second, exact=True the microsecond"
    )


def _defined(value: float | str | None) -> float | str | None:
    """None for what is undefined: JSON has no NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


async def _read(
    online: OnlineStore,
    plan: ViewPlan,
    ids: list[str | int | None],
    q_us: int,
    stale_after_us: int,
    now_us: int | None,
) -> tuple[Features, list[int]]:
    """What the state says, and the rows of which it says nothing exact at ``q_us``; of the past where it is asked about one, at ``now_us``.

    Rows whose offset records are lost are not among them: up to which offset history should be counted is lost too.
    """
    read = await Fetcher(BlockingReader(online), SystemClock(), stale_after_us).fetch({plan: ids}, None)
    if isinstance(read, Unread):
        raise UnavailableError(read.detail)
    reading = read[plan]
    found = feature_values.finalize(reading, q_us)
    if now_us is None:
        return found, []
    past = feature_values.no_exact_answer(found, reading, q_us, now_us)
    lost = {
        row
        for row, place in enumerate(reading.places)
        if reading.standings[place].missing
    }
    return found, sorted(past.keys() - lost - found.corrupt.keys())


def _recalled(here: Context, plan: ViewPlan, found: Features, past: list[int], q_us: int) -> Values:
    questions = [Question(found.ids[row], q_us, found.applied(row), f"the state of {found.ids[row]!r} was read") for row in past]
    try:
        return recall(here.history, here.applied, plan.view, questions, cut=True)
    except HistoryError as error:
        raise HistoryError(
            f"the state has no exact answer at {from_us(q_us).isoformat()}, and history has none yet: {error}. Start `featureflow history` "
            "where it is not running, and ask again; or ask for a later instant"
        ) from error


def _plan_of(here: Context, view: str) -> ViewPlan:
    project = here.applied
    counts = {s.name: here.online.get_meta(partitions_document(s.name)) for s in project.sources}
    plan = Plan(project, {name: int(count) for name, count in counts.items() if count is not None}, buckets_of(here.online))
    if view not in plan.views:
        raise RequestError("No such view", f"{view!r} is not applied here. Views: {', '.join(sorted(plan.views))}")
    return plan.views[view]


def _id_of(text: str, plan: ViewPlan) -> str | int:
    entity_id: str | int = text
    try:
        text.encode()
    except UnicodeEncodeError:             # Python takes any bytes for an argument
        raise RequestError("Id is no text", f"the id is not UTF-8: {text!r}; write it in UTF-8, in a locale that is one") from None
    if plan.entity_type != "str":
        try:
            entity_id = int(text)
        except ValueError:
            raise RequestError("Wrong type of id", f"{text!r}: ids of {plan.view.entity} are whole numbers") from None
    check_id(entity_id, plan.entity_type, "the id")
    return entity_id


def _instant(text: str) -> int:
    return instant_us(int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else text, "--at")
