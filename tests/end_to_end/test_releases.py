"""Releases by their commands, followed by two scorers as processes."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from ports import free_port
from processes import until
from world import MODEL, Http, World, embedded

from featureflow.models.release import Bounds

RIDERS = [f"rider-{i}" for i in range(40)]


def ask(scorer: Http, rider: str) -> dict[str, Any]:
    body = {"entities": {"rider": rider, "zone": None}, "context": {"hour": 9}}
    status, answer = scorer.post(f"/v1/score/{MODEL}", body)
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def release_of(scorer: Http) -> dict[str, Any]:
    found: dict[str, Any] = scorer.get(f"/v1/models/{MODEL}")[1]["release"] or {"release": 0}
    return found


def scorers(world: World, exits: contextlib.ExitStack, count: int) -> list[Http]:
    """Processes of their own, each on a port of its own, that are ready."""
    ports = [free_port() for _ in range(count)]
    processes = [world.start("serve", FEATUREFLOW_SERVE_PORT=str(port)) for port in ports]
    for process in processes:
        process.wait_for("Scoring at")
    found = [Http(port) for port in ports]
    for scorer in found:
        exits.callback(scorer.close)
        until(scorer.ready, "a scorer")
    return found


def test_two_scorers_follow_each_release_and_what_one_ends_the_other_ends_too(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world, contextlib.ExitStack() as exits:
        world.featureflow("apply")
        world.add_model(5)
        both = scorers(world, exits, 2)

        def followed(number: int) -> None:
            until(lambda: all(release_of(scorer)["release"] == number for scorer in both), f"release {number} in both scorers")

        assert [release_of(scorer)["release"] for scorer in both] == [0, 0]
        world.add_model(6)                 # nothing is released: the latest version answers, without a restart
        until(lambda: {ask(scorer, "ada")["version"] for scorer in both} == {"2"}, "both scorers to reload")
        followed(world.featureflow("model", "release", MODEL, "1")["number"])
        assert {ask(scorer, "ada")["version"] for scorer in both} == {"1"}

        followed(world.featureflow("model", "canary", MODEL, "2", "--weight", "50", "--sticky", "rider")["number"])
        arms = [{rider: ask(scorer, rider)["assignment"]["arm"] for rider in RIDERS} for scorer in both]
        assert arms[0] == arms[1]          # an entity has its version, whichever process it comes to
        assert set(arms[0].values()) == {"stable", "canary"}

        followed(world.featureflow("model", "canary", MODEL, "2", "--weight", "50", "--max-drift", "0.3")["number"])
        for i in range(300):               # the second network was drawn otherwise, and the first scorer alone sees it
            ask(both[0], f"rider-{i}")
            if i >= 200 and release_of(both[0])["ended"]:
                break
        ended = until(lambda: release_of(both[0])["ended"], "the candidate to end")
        assert "distributed otherwise" in ended
        assert until(lambda: release_of(both[1])["ended"], "the other scorer to hear of it") == ended
        assert {ask(scorer, rider)["version"] for scorer in both for rider in RIDERS[:10]} == {"1"}

        last = world.featureflow("model", "releases", MODEL)[-1]
        assert (last["step"], last["number"], last["reason"]) == ("rollback", 4, f"by itself: {ended}")
        followed(4)
        assert "was rolled back" in world.featureflow("model", "promote", MODEL, code=1)


def test_a_candidate_of_which_no_scorer_sees_enough_by_itself_ends_by_what_they_saw_together(tmp_path: Path) -> None:
    with embedded(tmp_path / "project") as world, contextlib.ExitStack() as exits:
        world.featureflow("apply")
        world.add_model(5)
        world.add_model(6)  # drawn otherwise
        both = scorers(world, exits, 2)
        options = ("--stable", "1", "--weight", "50", "--max-drift", "0.3", "--sticky", "rider")
        number = world.featureflow("model", "canary", MODEL, "2", *options)["number"]
        until(lambda: all(release_of(scorer)["release"] == number for scorer in both), "the canary in both scorers")
        until(lambda: all(release_of(scorer)["processes"] == 2 for scorer in both), "each to hear of the other")
        seen = {scorer: Counter({"stable": 0, "canary": 0}) for scorer in both}
        riders: dict[str, list[str]] = {"stable": [], "canary": []}
        for rider in RIDERS:
            arm = ask(both[0], rider)["assignment"]["arm"]
            seen[both[0]][arm] += 1
            riders[arm].append(rider)
        for scorer in both:
            for arm, those in riders.items():
                while seen[scorer][arm] < 65 and ask(scorer, those[seen[scorer][arm] % len(those)])["assignment"]["arm"] == arm:
                    seen[scorer][arm] += 1
        assert set(seen[both[0]].values()) == {65} and 65 < Bounds().least_rows < 2 * 65  # alone each says nothing
        ended = [until(lambda scorer=scorer: release_of(scorer)["ended"], "the candidate to end") for scorer in both]
        assert "distributed otherwise" in ended[0] and "in 2 processes" in ended[0]
        until(lambda: len({release_of(scorer)["ended"] for scorer in both}) == 1, "both to name the same reason")
        assert {ask(scorer, rider)["version"] for scorer in both for rider in RIDERS} == {"1"}

        past = world.featureflow("model", "releases", MODEL)
        assert [one["step"] for one in past] == ["release", "canary", "rollback"]  # once, whoever saw it
        assert past[-1]["reason"] in [f"by itself: {reason}" for reason in ended]
