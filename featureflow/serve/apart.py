"""One request whose rows are of several arms: asked as several, answered as one.

Its rows keep their order. ``version`` and the like name every arm's, joined by ``+``; ``assignment.arms`` says which row is whose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import UNSET

from featureflow.serve.answer import Answer, Reply, Shed
from featureflow.serve.pending import Pending
from featureflow.serve.wire.v1 import Assignment, ScoreAnswer

_ANSWER = msgspec.json.Decoder(ScoreAnswer)
Part = tuple[Sequence[int], Pending[Reply]]       # the places of its rows, and their answer


async def joined(parts: Sequence[Part]) -> Answer | Shed:
    """The answer to all of them; what kept one of them from being answered, where one was. Raises what a part's future raises."""
    try:
        found = await asyncio.gather(*(future for _, future in parts))
    finally:
        for _, future in parts:            # of a caller that has gone away
            future.cancel()
    answers = [answer for answer in found if isinstance(answer, Answer)]
    if len(answers) < len(found):
        return next(shed for shed in found if isinstance(shed, Shed))
    return Answer(200, msgspec.json.encode(_one([_ANSWER.decode(answer.body) for answer in answers], [places for places, _ in parts])))


def _one(answers: list[ScoreAnswer], places: list[Sequence[int]]) -> ScoreAnswer:
    order = sorted((at, part, row) for part, of_part in enumerate(places) for row, at in enumerate(of_part))
    first, features = answers[0], [[] if answer.features is UNSET else answer.features for answer in answers]
    arms = ["" if answer.assignment is UNSET else answer.assignment.arm for answer in answers]
    release = 0 if first.assignment is UNSET else first.assignment.release
    return msgspec.structs.replace(
        first,
        version=_all(answer.version for answer in answers),
        variant=_all(answer.variant for answer in answers),
        provider=_all(answer.provider for answer in answers),
        scores=[answers[part].scores[row] for _, part, row in order],
        prediction_ids=[answers[part].prediction_ids[row] for _, part, row in order],
        degraded=list(dict.fromkeys(what for answer in answers for what in answer.degraded)),
        features=UNSET if first.features is UNSET else [features[part][row] for _, part, row in order],
        assignment=Assignment(release, _all(arms), [arms[part] for _, part, _ in order]),
    )


def _all(names: Iterable[str]) -> str:
    return "+".join(dict.fromkeys(names))
