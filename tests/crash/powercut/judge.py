"""What must hold for the folder that a cut leaves, without anybody's help."""

from dataclasses import dataclass

from journal import JournalError
from store.base.canonical_json import sha256
from store.cache.view import read_history
from store.disk.layout import Layout
from store.errors import ErrorKind, NoGoError, StoreError
from store.reader import FlightCache
from store.testing import FakeClock
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.crash.powercut.writer import RESERVE, SIGNER, TRUSTED, CacheWriter, proven_site, scenario
from tests.played_builds import play

FAKE = {"engine place", "descriptor index"}
"""What `play` makes is no engine and no index; that they cannot be loaded is no finding."""


@dataclass(frozen=True, slots=True)
class Past:
    """What really happened: chain digest of every record, manifest digest of every generation."""

    chains: tuple[str, ...]
    manifests: tuple[str, ...]

    @classmethod
    def of(cls, cache):
        view = read_history(Layout(cache))
        generations = view.state.generations
        return cls(
            tuple(fact.chain for fact in view.facts),
            tuple(generations[number].manifest_sha256 for number in sorted(generations)),
        )


def judge(top, promise, past, *, build=True, thorough=False):
    """Hold a folder against what was promised and what happened.

    Args:
        top: The folder that holds the cache.
        promise: What was acknowledged before the cut.
        past: What happened, to the end; None if nobody knows.
        build: Whether to build on.
        thorough: Whether to verify in full as well.

    Raises:
        AssertionError: With what is wrong.
    """
    layout = Layout(top / "cache")
    site = _site(top)
    keys = TRUSTED if site is None else site.trusted_keys
    shown = aboard(layout, promise, past, keys)
    _projected(layout)
    seen = ground(layout, promise, past)
    assert shown <= seen, f"aboard generation {shown} is seen, the journal holds {seen}"
    if site is None:
        _builds(layout, promise, seen, build=build)
    else:
        _builds_really(site, seen, build=build)
    after = aboard(layout, promise, None, keys) if build or shown != seen else shown
    assert after == seen + build, f"generation {seen + build} was expected aboard, found {after}"
    if thorough and after:
        found = verify(layout, depth=Depth.FULL, trusted_keys=keys)
        wrong = [
            str(problem)
            for problem in found.problems
            if problem.kind is not ProblemKind.CONTENT or problem.subject not in FAKE
        ]
        assert not wrong, f"verification: {wrong[:3]}"
    return {"shown": shown, "seen": seen}


def _site(top):
    """The site around a cache that the pipeline built, or nothing for one that was played."""
    if (top.parent / "ground").exists():
        return proven_site(top)
    if not (top / "net.onnx").exists():
        return None
    from tests.crash.damage.signed import SignedSite

    return SignedSite(top)


def aboard(layout, promise, past, keys):
    """What the aircraft sees: a generation that is whole, and none older than the acknowledged one."""
    try:
        with FlightCache.open(layout.root, trusted_keys=keys) as cache:
            cache.verify()
            shown = cache.manifest.envelope.generation
            raw = (layout.manifests / layout.manifest_name(shown)).read_bytes()
    except NoGoError as error:
        assert promise.generation == 0, f"NO-GO after generation {promise.generation}: {error}"
        assert not layout.manifest_files(), f"NO-GO beside a manifest: {error}"
        return 0
    assert shown >= promise.generation, f"aboard {shown}, acknowledged {promise.generation}"
    if past is not None:
        assert shown <= promise.generation + 1, f"aboard {shown}, acknowledged {promise.generation}"
        assert sha256(raw) == past.manifests[shown - 1], f"another manifest of generation {shown}"
    return shown


def _projected(layout):
    """Nobody must see a generation before everything of it is there."""
    segments = layout.segment_files()
    for number, name in layout.manifest_files().items():
        assert number in segments, f"manifest {name} is there without its segment"
        signature = layout.manifests / (name.removesuffix(".json") + ".sig")
        # A collection takes an older generation away signature first, so that nobody accepts what is left of it.
        newest = number == max(segments)
        assert signature.exists() or not newest, f"manifest {name} is there without its signature"


def ground(layout, promise, past):
    """What the ground sees without writing: a prefix of what happened, with everything acknowledged in it."""
    try:
        view = read_history(layout)
    except StoreError as error:
        assert error.kind is ErrorKind.NO_CACHE, f"the ground: {error}"
        assert promise.seq == 0, f"no journal after record {promise.seq}"
        return 0
    except JournalError as error:
        raise AssertionError(f"the ground: {error}") from error
    chains = tuple(fact.chain for fact in view.facts)
    assert len(chains) >= promise.seq, f"{len(chains)} records, {promise.seq} acknowledged"
    assert not promise.seq or chains[promise.seq - 1] == promise.chain, "another record than acknowledged"
    seen = len(view.state.generations)
    if past is not None:
        assert chains == past.chains[: len(chains)], "a history that did not happen"
        assert seen in {promise.generation, promise.generation + 1}, f"head {seen}, {promise}"
    assert seen >= promise.generation, f"head {seen}, acknowledged {promise.generation}"
    return seen


def _builds(layout, promise, seen, *, build):
    born = build or not layout.exists()
    with CacheWriter.open(
        layout, clock=FakeClock(), create=born, reserve_bytes=RESERVE, signer=SIGNER
    ) as store:
        assert len(store.state.generations) == seen, "opening changed the head"
        if build:
            chosen = scenario("next", tiles={(9, 9): "z"})
            generation, _ = play(store, chosen)
            assert generation.number == seen + 1
    assert promise.generation <= seen


def _builds_really(site, seen, *, build):
    from tests.small_builds import words

    if build:
        if hasattr(site, "tiles"):
            site.tiles[6, 0, 24] = words(815)
        report = site.build(flight_id="next")
        assert (report.outcome, report.generation) == ("built", seen + 1), f"next build: {report.error}"
    else:
        with CacheWriter.open(site.layout, clock=FakeClock(), create=True, reserve_bytes=RESERVE) as store:
            assert len(store.state.generations) == seen, "opening changed the head"
