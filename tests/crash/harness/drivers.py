"""Writers to be killed and hindered: each prepares a cache, changes it, and says what builds it again.

The light ones work through the store with `tests.played_builds.play`, the heavy ones through the provisioner with the fakes
of `pipeline.testing`; both write to the cache exactly as the product does, from one process.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from journal.lock import BuildLock
from store.cache import optimistic_append as beside
from store.cache.projections import Projections
from store.cache.view import open_view
from store.disk.artifacts import Artifacts
from store.domain.events import EngineCompiled
from store.domain.manifest_projection import project
from store.domain.state import FLIGHT
from store.maintenance.collect_garbage import collect
from store.maintenance.rebuild_journal import rebuild
from store.manifest.manifest import parse
from store.policy import rollback
from store.policy.retention import KeepPolicy
from store.transfer.export import export
from store.transfer.import_bundle import import_bundle
from store.transfer.mirror import mirror
from store.trust.signatures import Signer
from store.verify.coverage import named_by
from tests.crash.harness import proven
from tests.crash.harness.bench import LOCK_TIMEOUT_S, Bench
from tests.damaging import flip
from tests.played_builds import LEAST, PHOTOGRAPHS, Scenario, StopDeadError, make, play
from tools.exit_codes import CODES, ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A writer.

    Attributes:
        name: What it is called.
        prepare: Makes the cache that it finds.
        act: What is killed or hindered; returns an exit code, or raises.
        build: A build that must always succeed afterwards, for a flight.
        commits: How many generations `act` may add.
        heavy: Whether it needs the libraries of the pipeline.
        beside: What another process does to the cache while `act` is under way, when `act` asks for it.
        damaged: Whether artifacts of the cache that it finds are damaged.
        evidence: Whether something may be put into quarantine.
        collects: Whether generations and artifacts may go.
        mends: Whether a journal may be missing or damaged until `act` is done once more, as every command then says.
        signer: Signs what is committed.
        holds: Asks more of the newest generation after the next build, or the next mirror.
        copies: Whether it writes a mirror of a cache elsewhere, which has no journal, and shows the old head or the new.
    """

    name: str
    prepare: Callable[[Bench], None]
    act: Callable[[Bench], int]
    build: Callable[[Bench, str], None]
    commits: int = 1
    heavy: bool = False
    beside: Callable[[Bench], None] | None = None
    damaged: bool = False
    evidence: bool = False
    collects: bool = False
    mends: bool = False
    signer: Signer | None = None
    copies: bool = False
    holds: Callable[[Bench], None] | None = None


# Light: through the store.

TILES = {(0, 0): "a", (1, 0): "b", (20, 3): "c"}
SIGNER = Signer.of(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
CHANGED = TILES | {(1, 0): "other", (40, 3): "d"}
PROVEN = {"chunks": True, "proof": PHOTOGRAPHS, "carry": True}
"""What a build with everything that a manifest of format 3 names is played with."""


def scenario(**fields: object) -> Scenario:
    """A build whose engine the reader of this machine accepts."""
    settings = {"version": metadata.version("onnxruntime"), "tiles": TILES} | fields
    return Scenario(**settings)  # type: ignore[arg-type]


def play_build(bench: Bench, **fields: object) -> int:
    """Play one build under the lock; returns its exit code."""
    with bench.store(create=True) as store:
        generation, _ = play(store, scenario(**fields))
    return ExitCode.DONE if generation else ExitCode.BUILD_FAILED


def build_light(bench: Bench, flight: str, **fields: object) -> None:
    """The build that must always work."""
    with bench.store(create=True) as store:
        generation, _ = play(store, scenario(flight=flight, tiles=CHANGED, extend=True, **fields))
    assert generation is not None


def one_generation(bench: Bench, **fields: object) -> None:
    """A cache with one generation."""
    assert play_build(bench, flight="f1", **fields) == ExitCode.DONE


def two_generations(bench: Bench, **fields: object) -> None:
    """A cache with two generations of different builds."""
    one_generation(bench, **fields)
    assert play_build(bench, flight="f2", tiles=CHANGED, extend=True, **fields) == ExitCode.DONE


def carries_and_proves(bench: Bench) -> None:
    """The aircraft sees the tiles and the answers of `CHANGED`."""
    with bench.fly() as cache:
        for (x, y), text in CHANGED.items():
            assert cache.tile_bytes(6, x, y) == text.encode(), f"tile {x}/{y} is another"
        proof = cache.manifest.proof
        assert proof is not None
        answers = bench.layout.artifact(proof.sha256).read_bytes()
        index = cache.manifest.index.artifact if cache.manifest.index.delta is None else None
        assert answers.startswith(
            f"{PHOTOGRAPHS} are found in {'' if index is None else index.sha256}".encode()
        )


def left_open(bench: Bench) -> None:
    """A cache whose second build died in the middle, with something in the scratch folder."""
    one_generation(bench)
    died = False
    try:
        play_build(bench, flight="f2", tiles=CHANGED, die_at="index")
    except StopDeadError:
        died = True
    assert died
    (bench.layout.scratch / "draft-1-left").write_bytes(b"half")
    (bench.layout.scratch / "journal-left").mkdir()
    (bench.layout.scratch / "journal-left" / "journal.mdb").write_bytes(b"half")


def unprojected(bench: Bench) -> None:
    """A cache whose second build died right after its commit."""
    one_generation(bench)
    with replaced(Projections, "write", _stop_dead):
        try:
            play_build(bench, flight="f2", tiles=CHANGED)
        except StopDeadError:
            return
    raise AssertionError("expected the build to die")


def _stop_dead(*_: object) -> None:
    raise StopDeadError


def roll_back_light(bench: Bench) -> int:
    """Roll back to the build before."""
    with bench.store() as store:
        planned = rollback.plan(store.state, to=None, why="crash test")
        assert planned is not None
        store.roll_back(planned)
    return ExitCode.DONE


def recover_light(bench: Bench) -> int:
    """Open the cache for writing, and nothing else."""
    with bench.store():
        return ExitCode.DONE


def accept_light(bench: Bench) -> None:
    """Mark the first generation as good: one transaction, without the build lock."""
    found = beside.accept(bench.layout, 1, why="crash test", host={}, clock=bench.clock)
    assert found.accepted


def engine_beside(bench: Bench) -> None:
    """Store an engine outside of any build: an artifact, then one transaction."""
    with (
        beside.open_for_append(bench.layout, clock=bench.clock, create=True) as found,
        found.artifacts.shared_lock(),
    ):
        artifact = found.artifacts.put(b"engine of another network")
        event = make(
            EngineCompiled, model="other", purpose=FLIGHT, key="e" * 64, artifact=artifact, elapsed_ms=1
        )
        found.append(lambda state: [] if event.key in state.step_cache.engines else [event])


def much_to_collect(bench: Bench, **fields: object) -> None:
    """A cache with four generations, of which the first is accepted, and an artifact that nothing names."""
    two_generations(bench, **fields)
    for flight, tile in (("f3", "x"), ("f4", "y")):
        changed = {"engine": flight, "tiles": TILES | {(1, 0): tile}} | fields
        assert play_build(bench, flight=flight, **changed) == ExitCode.DONE
    accept_light(bench)
    with bench.store() as store:
        store.artifacts.put(b"left by a kill")


def collect_light(bench: Bench) -> int:
    """Collect all but the head and what is accepted."""
    with bench.store(alone=True) as store:
        assert collect(store, KeepPolicy(keep=1)).done
    return ExitCode.DONE


def damaged_journal(bench: Bench) -> None:
    """A cache with two generations, whose journal lost its second half."""
    two_generations(bench)
    path = bench.layout.journal
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def rebuild_light(bench: Bench) -> int:
    """Make the journal again, and whatever was left to do."""
    with BuildLock(bench.layout.build_lock, timeout_s=LOCK_TIMEOUT_S):
        rebuild(bench.layout)
    return ExitCode.DONE


def origin_of(bench: Bench) -> Bench:
    """The cache that is mirrored: beside the copy, where nothing is counted."""
    return Bench(bench.root / "origin", signer=bench.signer, clock=bench.clock)


def two_to_mirror(bench: Bench, **fields: object) -> None:
    """A cache with two generations, and no copy of it."""
    origin = origin_of(bench)
    origin.root.mkdir()
    two_generations(origin, **fields)


def one_mirrored(bench: Bench, **fields: object) -> None:
    """A cache with two generations, and a copy of the first, with something in its scratch folder."""
    origin = origin_of(bench)
    origin.root.mkdir()
    one_generation(origin, **fields)
    assert mirror_light(bench) == ExitCode.DONE
    (bench.layout.scratch / "draft-1-left").write_bytes(b"half")
    assert play_build(origin, flight="f2", tiles=CHANGED, **fields) == ExitCode.DONE


def two_to_import(bench: Bench) -> None:
    """A bundle of a cache with two generations, and no cache to import it."""
    two_to_mirror(bench, **PROVEN)
    export(origin_of(bench).layout, bench.root / "bundle")


def import_light(bench: Bench) -> int:
    """Import the bundle: all its records and artifacts, if they are not there."""
    bench.layout.make_root()
    trusted = [bench.signer.public] if bench.signer else []
    with BuildLock(bench.layout.build_lock, timeout_s=LOCK_TIMEOUT_S):
        import_bundle(bench.layout, bench.root / "bundle", clock=bench.clock, host={}, trusted_keys=trusted)
    return ExitCode.DONE


def import_again(bench: Bench, flight: str) -> None:
    """The import that must always work, and a build after it, which makes nothing again."""
    import_light(bench)
    before = open_view(bench.layout).state
    build_light(bench, flight, **PROVEN)
    assert len(before.generations) >= 2, "the import is not whole"
    assert open_view(bench.layout).state.step_cache.packs.keys() == before.step_cache.packs.keys()


def mirror_light(bench: Bench) -> int:
    """Bring the copy to the head."""
    mirror(origin_of(bench).layout, bench.layout.root)
    return ExitCode.DONE


def mirror_again(bench: Bench, _: str) -> None:
    """The mirror that must always work: it moves the bytes that are missing, and then there is nothing left to do."""
    origin, copy = origin_of(bench).layout, bench.layout
    state = open_view(origin).state
    named = named_by(parse(project(state, state.head)), Artifacts(origin))
    wanted = [origin.artifact(digest) for digest in named]
    wanted += sorted(origin.segments.iterdir())
    head = f"{state.head.number:08d}."
    wanted += [path for path in origin.manifests.iterdir() if path.name.startswith(head)]
    lacking = [path for path in wanted if not (copy.root / path.relative_to(origin.root)).exists()]
    done = mirror(origin, copy.root)
    assert (done.files, done.size) == (len(lacking), sum(path.stat().st_size for path in lacking))
    assert done.generation == state.head.number
    assert not mirror(origin, copy.root).changed
    for path in wanted:
        assert (copy.root / path.relative_to(origin.root)).read_bytes() == path.read_bytes(), path.name
    assert not list(copy.scratch.iterdir()), "something is left in the scratch folder"


def build_with_company(bench: Bench) -> int:
    """A build beside which another process compiles an engine and accepts the head, just before the commit."""
    from tests import played_builds

    reach = played_builds._fail_or_die_at

    def reach_with_company(told: Scenario, step: str) -> None:
        reach(told, step)
        if step == "commit" and bench.helper is not None:
            bench.helper()

    with replaced(played_builds, "_fail_or_die_at", reach_with_company):
        return play_build(bench, flight="f2", tiles=CHANGED)


def company(bench: Bench) -> None:
    """What the other process does."""
    engine_beside(bench)
    accept_light(bench)


@contextmanager
def replaced(owner: object, name: str, value: object):
    """Replace an attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield before
    finally:
        setattr(owner, name, before)


def done(action: Callable[[Bench], None]) -> Callable[[Bench], int]:
    """An action that ends well unless it raises."""

    def act(bench: Bench) -> int:
        action(bench)
        return ExitCode.DONE

    return act


# Heavy: through the provisioner.


def site_of(bench: Bench, **options: object):
    """A site with fakes around the bench's cache."""
    from tests.small_builds import FakeSite, spread, words

    site = FakeSite(bench.root, spread(2, 2, content=words), **options)
    site.clock = bench.clock
    return site


def change_tiles(site) -> None:
    """Other content for one tile, and one more."""
    from tests.small_builds import ZOOM, words

    first = min(site.tiles)
    site.tiles |= {first: words(500), (ZOOM, 24, 24): words(501)}


def report_code(report) -> int:
    """The exit code that the command line would give."""
    return ExitCode.DONE if report.error is None else CODES[report.error.category]


def build_heavy(bench: Bench, flight: str) -> None:
    """The build that must always work, embeds what is missing and nothing else, and then has nothing left to do."""
    site = site_of(bench)
    change_tiles(site)
    provisioner = site.provisioner()
    request = site.request(flight_id=flight)
    inputs = provisioner._resolve(request)
    wanted = {tile.sha256 for tile in inputs.selection.tiles}
    missing = wanted - (site.held_digests(inputs.networks[0][0]) if bench.layout.journal.exists() else set())
    report = provisioner.build_cache_artifacts(request)
    assert str(report.outcome) in {"built", "reused"}, report.error
    assert sorted(site.batcher.embedded) == sorted(missing), "the build embedded what the journal held"
    warm = provisioner.build_cache_artifacts(request)
    assert (str(warm.outcome), warm.writes) == ("reused", 0)


def provision(bench: Bench, *, changed: bool = False, fail_at: str = "", **fields: object) -> int:
    """One build through the provisioner; returns its exit code."""
    from pipeline.errors import EmbedError
    from pipeline.testing import raising

    site = site_of(bench)
    if changed:
        change_tiles(site)
    if fail_at:
        site.calls.faults[fail_at] = raising(EmbedError("told to fail"))
    report = site.provisioner().build_cache_artifacts(site.request(**fields))
    if report.error is not None and not fail_at:
        bench.say(f"W {report.error.category} {report.error.kind}")
    return report_code(report)


def one_heavy(bench: Bench) -> None:
    """A cache with one generation, by the provisioner."""
    assert provision(bench) == ExitCode.DONE


def two_heavy(bench: Bench) -> None:
    """A cache with two."""
    one_heavy(bench)
    assert provision(bench, changed=True, flight_id="f2") == ExitCode.DONE


def one_heavy_damaged(bench: Bench) -> None:
    """A cache with one generation, of which a block and the engine are damaged."""
    one_heavy(bench)
    site = site_of(bench)
    head = site.state().head_build
    block = next(event.block for name in site.blocks() for event in site.state().step_cache.blocks_of(name))
    for ref in (head.engines[0][1].artifact, block):
        path = bench.layout.artifact(ref.sha256)
        flip(path)
        path.chmod(0o444)


def roll_back_heavy(bench: Bench) -> int:
    """Roll back through the provisioner."""
    site_of(bench).provisioner().rollback(why="crash test")
    return ExitCode.DONE


def engines_heavy(bench: Bench) -> int:
    """Compile another network beside everything."""
    from tests.small_builds import tiny_network

    site = site_of(bench)
    if not (bench.root / "other.onnx").exists():
        site.write("other.onnx", tiny_network(seed=7))
    report = site.provisioner().compile_engines_for_corpus(site.request(network="other.onnx"))
    return report_code(report)


def repair_heavy(bench: Bench) -> int:
    """Repair what is damaged."""
    report = site_of(bench).provisioner().repair()
    return ExitCode.DONE if report.go else ExitCode.NO_GO


_LIGHT = Driver(name="build", prepare=one_generation, act=lambda bench: 0, build=build_light)
_PROVEN = replace(
    _LIGHT,
    name="proven",
    prepare=partial(one_generation, **PROVEN),
    act=lambda bench: play_build(bench, flight="f2", tiles=CHANGED, **PROVEN),
    build=partial(build_light, **PROVEN),
    holds=carries_and_proves,
)
_PROVE = Driver(
    name="prove",
    prepare=proven.one_proven,
    act=lambda bench: proven.prove(bench, proven.ACTED, flight_id="f2"),
    build=proven.prove_next,
    heavy=True,
    holds=proven.holds,
)
_HEAVY = Driver(name="provision", prepare=one_heavy, act=lambda bench: 0, build=build_heavy, heavy=True)
_GC = replace(_LIGHT, name="gc", prepare=much_to_collect, act=collect_light, commits=0, collects=True)

_MIRROR = Driver(
    name="mirror",
    prepare=one_mirrored,
    act=mirror_light,
    build=mirror_again,
    signer=SIGNER,
    copies=True,
)

DRIVERS = {
    driver.name: driver
    for driver in (
        replace(
            _LIGHT,
            name="birth",
            prepare=lambda bench: None,
            act=lambda bench: play_build(bench, flight="f1"),
        ),
        replace(_LIGHT, name="build", act=lambda bench: play_build(bench, flight="f2", tiles=CHANGED)),
        replace(
            _PROVEN,
            name="chunks",
            prepare=one_generation,
            act=lambda bench: play_build(bench, flight="f2", tiles=CHANGED, **PROVEN),
        ),
        _PROVEN,
        replace(
            _PROVEN,
            name="proof-failed",
            act=lambda bench: play_build(bench, flight="f2", tiles=CHANGED, **PROVEN | {"proof": LEAST - 1}),
            commits=0,
        ),
        replace(
            _PROVEN, name="proven-rollback", prepare=partial(two_generations, **PROVEN), act=roll_back_light
        ),
        replace(
            _PROVEN,
            name="proven-gc",
            prepare=partial(much_to_collect, **PROVEN),
            act=collect_light,
            commits=0,
            collects=True,
            signer=SIGNER,
        ),
        replace(
            _PROVEN,
            name="import",
            prepare=two_to_import,
            act=import_light,
            build=import_again,
            commits=2,
            signer=SIGNER,
        ),
        replace(
            _LIGHT,
            name="failed",
            act=lambda bench: play_build(bench, flight="f2", tiles=CHANGED, fail_at="index"),
            commits=0,
        ),
        replace(_LIGHT, name="rollback", prepare=two_generations, act=roll_back_light),
        replace(_LIGHT, name="recovery-open", prepare=left_open, act=recover_light, commits=0),
        replace(_LIGHT, name="recovery-commit", prepare=unprojected, act=recover_light, commits=0),
        replace(_LIGHT, name="accept", act=done(accept_light), commits=0),
        replace(_LIGHT, name="engine", act=done(engine_beside), commits=0),
        replace(_LIGHT, name="company", act=build_with_company, beside=company),
        replace(
            _LIGHT,
            name="signed",
            act=lambda bench: play_build(bench, flight="f2", tiles=CHANGED),
            signer=SIGNER,
        ),
        _GC,
        replace(_GC, name="gc-signed", signer=SIGNER),
        replace(
            _LIGHT,
            name="rebuild",
            prepare=damaged_journal,
            act=rebuild_light,
            commits=0,
            evidence=True,
            mends=True,
        ),
        _MIRROR,
        replace(_MIRROR, name="mirror-birth", prepare=two_to_mirror, commits=2),
        replace(
            _MIRROR, name="proven-mirror", prepare=partial(one_mirrored, **PROVEN), holds=carries_and_proves
        ),
        replace(_PROVE, name="prove-birth", prepare=proven.nothing_yet, act=proven.prove),
        _PROVE,
        replace(_PROVE, name="prove-failed", act=proven.prove_and_fail, commits=0),
        replace(_PROVE, name="prove-rollback", prepare=proven.two_proven, act=proven.roll_back),
        replace(
            _PROVE,
            name="prove-damaged",
            prepare=proven.one_damaged,
            act=lambda bench: proven.prove(bench, flight_id="f2"),
            damaged=True,
            evidence=True,
            holds=proven.mended,
        ),
        replace(
            _PROVE,
            name="prove-repair",
            prepare=proven.one_damaged,
            act=proven.repair,
            commits=0,
            damaged=True,
            evidence=True,
            holds=proven.mended,
        ),
        replace(_HEAVY, name="provision-birth", prepare=lambda bench: None, act=provision),
        replace(_HEAVY, name="provision", act=lambda bench: provision(bench, changed=True, flight_id="f2")),
        replace(
            _HEAVY,
            name="provision-failed",
            act=lambda bench: provision(bench, changed=True, flight_id="f2", fail_at="index"),
            commits=0,
        ),
        replace(_HEAVY, name="provision-rollback", prepare=two_heavy, act=roll_back_heavy),
        replace(
            _HEAVY,
            name="provision-damaged",
            prepare=one_heavy_damaged,
            act=lambda bench: provision(bench, flight_id="f2"),
            damaged=True,
            evidence=True,
        ),
        replace(
            _HEAVY,
            name="provision-engines",
            act=engines_heavy,
            commits=0,
        ),
        replace(
            _HEAVY,
            name="provision-repair",
            prepare=one_heavy_damaged,
            act=repair_heavy,
            commits=0,
            damaged=True,
            evidence=True,
        ),
    )
}
