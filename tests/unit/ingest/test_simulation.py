"""``make simulate`` in short: the worker in made-up worlds. And that such a world would show a guard that is gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from featureflow.ingest.ids import KeptIds
from featureflow.ingest.publish import Publisher
from featureflow.store.online.memory import MemoryOnlineStore
from simulate import report
from simulate.__main__ import quiet
from simulate.conductor import Outcome, run
from simulate.report import MUST_HAPPEN, Report, shown
from simulate.unguarded import NoLength, NoOffset, NoToken

SEEDS = range(240)


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    """A worker's log lines cost more than its work here."""
    quiet()
    yield
    structlog.reset_defaults()


def test_every_value_is_the_oracles_after_crashes_lost_replies_zombies_and_rollbacks() -> None:
    told = Report(0)
    told.add(map(run, SEEDS))
    assert not told.wrong, "\n".join(map(shown, told.wrong[:1]))
    rare = {"late claims", "claims cut short", "refused: dropped", "crashes after_advisory", "crashes in_revoke"}
    never = [kind for kind in MUST_HAPPEN if not told.happened[kind]]
    assert set(never) <= rare, "the runs show less than they say"
    assert told.happened["values present"] > 20 * len(SEEDS)
    assert told.happened["copies of events"] > len(SEEDS) / 2
    assert told.happened["published values"] > len(SEEDS) / 2


def test_a_seed_gives_the_same_run_again() -> None:
    assert run(7).happened == run(7).happened != run(8).happened


@pytest.mark.parametrize(
    ("store_class", "watched"),
    [
        pytest.param(NoToken, True, id="token"),
        pytest.param(NoOffset, False, id="offset"),
        pytest.param(NoLength, False, id="length"),
    ],
)
def test_without_a_guard_of_the_store_some_run_goes_wrong(store_class: type[MemoryOnlineStore], watched: bool) -> None:
    outcome = next(outcome for seed in SEEDS if (outcome := run(seed, store_class, watched=watched)).wrong)
    text = shown(outcome)
    assert f"make simulate RUNS=1 SEED={outcome.seed}" in text
    assert "WRONG: " in text
    assert "commit " in text, "the way there is told"


@pytest.mark.parametrize("guard", ["ids live and die with a claim", "every commit publishes what it changes"])
def test_without_a_guard_of_ids_or_of_what_is_published_some_run_goes_wrong(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if guard.startswith("ids"):
        monkeypatch.setattr(KeptIds, "drop", lambda self, partition: None)
    else:
        monkeypatch.setattr(Publisher, "writes", lambda self, partition, instants_us: iter(()))
    assert any(run(seed).wrong for seed in SEEDS if seed // 2 % 3 == 2), "no run shows that it is gone"


def test_a_large_run_in_which_some_kind_of_trouble_never_came_says_so() -> None:
    told = Report(1)
    told.add(Outcome(seed, [], dict.fromkeys(MUST_HAPPEN[1:], 1)) for seed in range(report.LARGE))
    assert told.missing == [MUST_HAPPEN[0]]
    assert f'"missing": ["{MUST_HAPPEN[0]}"]' in told.line(1.0)
