"""Which arm of a release answers which rows of a request: versions of other inputs read other things of one body.

A row that lacks what a candidate reads, or has it otherwise, is answered by the stable version, and counted: a candidate is tried on
callers who can ask it, and takes nobody's answer away. What the stable version cannot be asked with either is refused, as it was before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from featureflow.errors import RequestError
from featureflow.serve.answer import Shed
from featureflow.serve.asked import Asked
from featureflow.serve.assigned import Assigned, Carried
from featureflow.serve.request import Row
from featureflow.serve.sent import Sent
from featureflow.serve.version import Version

Versions = Mapping[Assigned, Version | Shed | None]  # what there is of each arm to ask; the stable one is never None


class Share(NamedTuple):
    """``places`` of the request's rows, None where they are all of them."""

    arm: Assigned
    version: Version | Shed
    rows: list[Row]
    places: Sequence[int] | None


def shares(carried: Carried, versions: Versions, sent: Sent, request_id: str) -> tuple[Asked | None, list[Share]]:
    """At least one. What else was asked for is None where no version is there to read it. Raises RequestError."""
    stable = versions[carried.stable]
    if isinstance(stable, Version) and all(one.plan is stable.plan for one in versions.values() if isinstance(one, Version)):
        return _alike(carried, stable, versions, sent.of(stable), request_id)
    sticky = carried.release.sticky
    ids = [None] if sticky is None else sent.ids(sticky)
    assigned = carried.assign_ids(request_id, ids)
    if not isinstance(assigned, Assigned):
        return _several(carried, assigned, versions, sent)
    return _one(carried, assigned, versions, sent, len(ids))


def _alike(
    carried: Carried, stable: Version, versions: Versions, asked: Asked, request_id: str
) -> tuple[Asked, list[Share]]:
    """All of them read the same."""
    assigned = carried.assign(stable.plan, request_id, asked.rows if asked.ranking is None else asked.rows[:1])  # one version ranks
    if isinstance(assigned, Assigned):
        arm, version = _there(carried, assigned, versions)
        return asked, [Share(arm, version, asked.rows, None)]
    found = []
    for one in dict.fromkeys(assigned):
        places = [at for at, of in enumerate(assigned) if of is one]
        arm, version = _there(carried, one, versions)
        found.append(Share(arm, version, [asked.rows[at] for at in places], places))
    return asked, found


def _one(carried: Carried, assigned: Assigned, versions: Versions, sent: Sent, units: int) -> tuple[Asked | None, list[Share]]:
    """``units``: how many rows were assigned, each by itself; 1 where the request was."""
    arm, version = _there(carried, assigned, versions)
    if arm is not carried.stable and isinstance(version, Version):
        try:
            asked = sent.of(version)
            return asked, [Share(arm, version, asked.rows, None)]
        except RequestError:
            if units > 1:                      # some of them may be able
                return _several(carried, [assigned] * units, versions, sent)
            arm, version = _there(carried, carried.stable, versions)
    if not isinstance(version, Version):
        sent.check()
        return None, [Share(arm, version, [], None)]
    asked = sent.of(version)
    if arm is not assigned:
        assigned.count.lacking += len(asked.rows)
    return asked, [Share(arm, version, asked.rows, None)]


def _several(
    carried: Carried, assigned: Sequence[Assigned], versions: Versions, sent: Sent
) -> tuple[Asked | None, list[Share]]:
    found: list[Share] = []
    left = [at for at, one in enumerate(assigned) if one is carried.stable]
    for one in dict.fromkeys(one for one in assigned if one is not carried.stable):
        arm, version = _there(carried, one, versions)
        places = [at for at, of in enumerate(assigned) if of is one]
        if arm is not one or not isinstance(version, Version):
            left += places
            continue
        rows = {at: row for at in places if (row := _row(sent, version, at)) is not None}
        one.count.lacking += len(places) - len(rows)
        left += [at for at in places if at not in rows]
        if rows:
            found.append(Share(arm, version, list(rows.values()), list(rows)))
    if left:
        arm, version = _there(carried, carried.stable, versions)
        left.sort()
        found.append(Share(arm, version, sent.rows(version, left) if isinstance(version, Version) else [], left))
    return sent.said(), found


def _row(sent: Sent, version: Version, place: int) -> Row | None:
    try:
        return sent.rows(version, [place])[0]
    except RequestError:
        return None


def _there(carried: Carried, arm: Assigned, versions: Versions) -> tuple[Assigned, Version | Shed]:
    """The arm and its version; of one that is not in memory any more, or yet, the stable one, and it is said to be that."""
    version = versions[arm]
    if arm is not carried.stable and not isinstance(version, Version):
        arm, version = carried.stable, versions[carried.stable]
    assert version is not None  # what answers where no version is named is not looked up
    return arm, version
