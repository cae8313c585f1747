"""Damage is named or harmless; nobody dies of it, and nobody sees any where there is none."""

import pytest

from tests.crash.rigs import rig

pytestmark = pytest.mark.deep

TRIALS = 700
PROVEN_TRIALS = 300
BESIDE_S = 6
STORM_S = 8
OPERATIONS = 60


def test_damage_is_named_or_changes_nothing():
    found = rig("damage.trials", "--trials", TRIALS)
    assert found["trials"] == TRIALS
    assert found["deaths"] == 0
    assert {"journal", ".json", ".sig", ".events", "block", "tile table", "engine place"} <= set(
        found["outcomes"]
    )
    total = sum(sum(outcomes.values()) for outcomes in found["outcomes"].values())
    harmless = sum(outcomes.get("unchanged, identical", 0) for outcomes in found["outcomes"].values())
    assert total == TRIALS
    assert harmless < total / 3, "the damages had no effect"


def test_damage_to_chunks_proof_and_carried_tiles_is_named_or_changes_nothing():
    found = rig("damage.trials", "--proven", "--trials", PROVEN_TRIALS)
    assert found["trials"] == PROVEN_TRIALS
    assert found["deaths"] == 0
    assert {"block", "block table", "pack", "pack table", "proof", "tile table"} <= set(found["outcomes"])
    for stratum in ("pack", "pack table", "proof"):
        assert any("no-go" in outcome for outcome in found["outcomes"][stratum]), f"no {stratum} of the head"


def test_nothing_is_wrong_beside_live_builds():
    found = rig("damage.beside", "--seconds", BESIDE_S)
    assert found["counted"]["builder"]["commits"] > 0
    assert all(found["counted"][reader]["looks"] > 0 for reader in ("full", "quick", "fly"))


def test_readers_in_a_storm_of_commits():
    found = rig("storms.storm", "--seconds", STORM_S)
    assert found["counted"]["writer"]["commits"] > 0
    assert all(found["counted"][reader]["looks"] > 0 for reader in ("fly", "hold", "ground", "inspect"))


def test_random_histories_follow_the_model():
    found = rig("storms.histories", "--operations", OPERATIONS)
    assert found["operations"] == OPERATIONS
    assert found["killed"] > 0
