"""One request that goes through turns as several and is answered as one: its rows are of several arms, or more than a turn takes.

Its rows keep their order. Of several arms ``version`` and the like name every one, joined by ``+``, and ``assignment.arms`` says which row
is whose; ``asked_at`` is that of the first rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

import msgspec
from msgspec import UNSET

from featureflow.pending import Pending
from featureflow.serve.answer import Answer, Reply, Shed
from featureflow.serve.wire.v1 import Assignment, ScoreAnswer

_ANSWER = msgspec.json.Decoder(ScoreAnswer)


def apart(future: Pending[Reply], places: Sequence[Sequence[int]]) -> list[Pending[Reply]]:
    """A future for each part, by the places of its rows. ``future`` is answered once all of them are, or as the first that is not.

    Then nobody waits for the others any more, nor where its caller has gone away.
    """
    parts: list[Pending[Reply]] = [Pending() for _ in places]
    answers: dict[int, Answer] = {}

    def told(number: int, part: Pending[Reply]) -> None:
        if future.done():
            return
        try:
            answer = part.result()
            if isinstance(answer, Shed):
                future.set_result(answer)
                return
            answers[number] = answer
            if len(answers) == len(parts):
                future.set_result(_joined([answers[i] for i in range(len(parts))], places))
        except asyncio.CancelledError:
            future.cancel()
        except Exception as error:
            future.set_exception(error)

    def ended(_: Pending[Reply]) -> None:
        for part in parts:
            part.cancel()

    for number, part in enumerate(parts):
        part.add_done_callback(partial(told, number))
    future.add_done_callback(ended)
    return parts


def _joined(answers: Sequence[Answer], places: Sequence[Sequence[int]]) -> Answer:
    return Answer(200, msgspec.json.encode(_one([_ANSWER.decode(answer.body) for answer in answers], places)))


def _one(answers: list[ScoreAnswer], places: Sequence[Sequence[int]]) -> ScoreAnswer:
    order = [(part, row) for _, part, row in sorted((at, part, row) for part, of in enumerate(places) for row, at in enumerate(of))]
    first = answers[0]
    features = [answer.features for answer in answers if answer.features is not UNSET]
    parts = [answer.parts for answer in answers if answer.parts is not UNSET]
    arms = [answer.assignment.arm for answer in answers if answer.assignment is not UNSET]
    assignment = first.assignment
    if assignment is not UNSET and len(set(arms)) > 1:
        assignment = Assignment(assignment.release, _all(arms), [arms[part] for part, _ in order])
    return msgspec.structs.replace(
        first,
        version=_all(answer.version for answer in answers),
        variant=_all(answer.variant for answer in answers),
        provider=_all(answer.provider for answer in answers),
        scores=[answers[part].scores[row] for part, row in order],
        prediction_ids=[answers[part].prediction_ids[row] for part, row in order],
        degraded=list(dict.fromkeys(what for answer in answers for what in answer.degraded)),
        features=[features[part][row] for part, row in order] if features else UNSET,
        parts=[parts[part][row] for part, row in order] if parts else UNSET,
        assignment=assignment,
    )


def _all(names: Iterable[str]) -> str:
    return "+".join(dict.fromkeys(names))
