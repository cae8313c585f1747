"""The proof of a build in events, state and manifest."""

import pytest

from store.base.canonical_json import decode, encode
from store.base.identity import build_identity
from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain import maintenance_events
from store.domain.fold import fold
from store.domain.manifest_projection import body_of
from store.domain.proof import PROOF, answers_of, described, figures_of, is_proof
from store.domain.state import RecordedEvent, checks_of
from store.errors import DamagedHistoryError, NoGoError
from store.manifest.manifest import parse
from store.policy.retention import refs_of_build
from store.policy.vouching import Vouching, find_unvouched, withdraw
from store.transfer.selection import artifacts_named
from tests.played_builds import Scenario, make
from tests.store_caches import record_builds

ANSWERS = ArtifactRef(sha256="ab" * 32, size=7)
MEASURED = {
    "pictures": 4,
    "right": 3,
    "within_mm": 50_000,
    "at": 1,
    "min_ppm": 700_000,
    "better_half_right_ppm": 500_000,
    "size": 7,
}


def proof(kind=e.CheckPassed, *, artifact=ANSWERS.sha256, **changes):
    measured = {name: value for name, value in (MEASURED | changes).items() if value != "gone"}
    return make(kind, check=PROOF, subject="photographs", key="p", artifact=artifact, measured=measured)


def folded(*pairs):
    found = [
        RecordedEvent(seq=seq, chain=f"{seq:064x}", build=build, wall_ns=0, mono_ns=0, event=event)
        for seq, (build, event) in enumerate(
            [(None, make(e.CacheCreated, cache_id="c")), (1, make(e.BuildStarted)), *pairs], 1
        )
    ]
    return found, fold(found)


def test_a_build_shows_its_proof_until_one_fails():
    _, state = folded((1, proof()))
    build = state.builds[1]
    assert build.proof == proof()
    assert ANSWERS in [*refs_of_build(build)]
    assert [check.check for check in checks_of(state, build)] == [PROOF]
    facts, state = folded((1, proof()), (1, proof(e.CheckFailed)))
    assert state.builds[1].proof is None
    assert checks_of(state, state.builds[1]) == ()
    assert ANSWERS.sha256 in artifacts_named(facts)


def test_another_check_is_no_proof():
    other = make(e.CheckPassed, check="index", key="i")
    assert not is_proof(other)
    assert folded((1, proof()), (1, other))[1].builds[1].proof == proof()


def test_a_proof_is_reused_as_long_as_its_answers_are_kept():
    again = make(e.StepReused, kind=PROOF, count=1, keys={"photographs": "p"})
    ended, next_one = (1, make(e.BuildAbandoned)), (2, make(e.BuildStarted))
    assert folded((1, proof()), ended, next_one, (2, again))[1].builds[2].proof == proof()
    removed = (None, make(maintenance_events.Collected, digests=(ANSWERS.sha256,)))
    with pytest.raises(DamagedHistoryError, match="reused without having been made"):
        folded((1, proof()), ended, removed, next_one, (2, again))
    other = (None, make(maintenance_events.Collected, digests=("cd" * 32,)))
    assert folded((1, proof()), ended, other, next_one, (2, again))[1].builds[2].proof == proof()


def test_a_proof_that_nobody_vouches_for_is_not_reused():
    facts, state = folded((1, proof()), (1, make(e.BuildAbandoned)))
    found = find_unvouched(state, facts, Vouching(builds=frozenset(), unsigned_until=0))
    assert [event.key for event in found.withdrawals] == ["p"]
    withdraw(state, found)
    assert state.step_cache.passed == {}
    kept = find_unvouched(state, facts, Vouching(builds=frozenset({1}), unsigned_until=0))
    assert kept.withdrawals == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"artifact": "none"},
        {"size": -1},
        {"size": "7"},
        {"size": "gone"},
        {"pictures": "gone"},
        {"right": None},
        {"better_half_right_ppm": "all"},
        {"near_mm": "200"},
    ],
)
def test_a_proof_that_says_nothing_is_refused(wrong):
    with pytest.raises(DamagedHistoryError, match="expected a proof to name"):
        folded((1, proof(**wrong)))


def test_figures_for_programs_and_people():
    assert answers_of(proof()) == ANSWERS
    figures = figures_of(proof())
    assert figures == {
        "pictures": 4,
        "right": 3,
        "within_m": 50,
        "at": 1,
        "min": 0.7,
        "near_m": None,
        "better_half_right": 0.5,
    }
    assert described(figures) == (
        "3 of 4 photographs found within 50 m, at least 70 % asked for; "
        "of the half with the larger margin 50 % are right"
    )
    figures = figures_of(proof(at=5, better_half_right_ppm=None))
    assert described(figures) == (
        "3 of 4 photographs found within 50 m by one of the first 5 candidates, at least 70 % asked for"
    )
    assert described(figures_of(proof(near_mm=200_000, better_half_right_ppm=None))) == (
        "3 of 4 photographs found within 50 m, searched within 200 m of a guess, at least 70 % asked for"
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """The document of a manifest of a cache of chunks."""
    from store.cache.view import open_view
    from store.disk.layout import Layout

    layout = Layout(tmp_path_factory.mktemp("proof") / "cache")
    record_builds(layout, Scenario(chunks=True), Scenario())
    names = layout.manifest_files()
    return open_view(layout).state, *(
        decode((layout.manifests / names[number]).read_bytes()[:-1]) for number in (1, 2)
    )


def with_proof(document, *, asked=True, named=True):
    body = dict(document["body"])
    if asked:
        body["inputs"] = {**body["inputs"], "proof": {"count": 4}}
        body["identity"] = build_identity(body["inputs"])
    if named:
        body["proof"] = {"sha256": ANSWERS.sha256, "size": ANSWERS.size}
    return encode({**document, "body": body}) + b"\n"


def test_a_manifest_names_the_answers(manifest):
    _, chunks, tiles = manifest
    found = parse(with_proof(chunks))
    assert found.proof == ANSWERS
    assert (PROOF, ANSWERS) in [*found.artifacts()]
    assert parse(encode(chunks) + b"\n").proof is None
    for document, options in (
        (chunks, {"asked": False}),
        (chunks, {"named": False}),
        (tiles, {}),
    ):
        with pytest.raises(NoGoError, match="the proof is not the one asked for"):
            parse(with_proof(document, **options))


def test_a_build_without_the_proof_asked_for_has_no_body(manifest):
    from dataclasses import replace

    state = manifest[0]
    build = state.builds[1]
    assert "proof" not in body_of(state, build)
    asked = replace(build, inputs={**build.inputs, "proof": {}})
    with pytest.raises(DamagedHistoryError, match="no proof"):
        body_of(state, asked)
    assert body_of(state, replace(asked, proof=proof()))["proof"] == {"sha256": "ab" * 32, "size": 7}
