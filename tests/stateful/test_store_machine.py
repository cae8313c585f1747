"""Compare the store with a plain model: builds, failures, deaths, rollbacks, collections, lost projections and journals.

Builds make tiles or chunks of ground findable, may ask for photographs, too few of which are found at times, and may
carry their tiles.

`SOAK` is the number of histories: twelve, of which the default run tries a quarter; for a longer run set the
environment variable `C10_STORE_MACHINE` to a larger number of histories.
"""

import copy
import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from journal import Journal
from store.base.identity import build_identity
from store.base.values import ArtifactRef
from store.cache.event_mapper import to_record
from store.cache.projections import Projections
from store.cache.view import open_view, read_history
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.maintenance_events import GenerationAccepted
from store.domain.manifest_projection import project
from store.domain.state import BuildStatus
from store.errors import DamagedHistoryError, ErrorKind, NoGoError, RequestRefusedError
from store.maintenance.collect_garbage import collect
from store.maintenance.rebuild_journal import rebuild
from store.manifest.manifest import parse
from store.policy import rollback
from store.policy.recovery import Project
from store.policy.retention import KeepPolicy, kept_origins
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.capabilities import library_version
from store.verify.coverage import named_by
from tests.examples_tried import examples
from tests.played_builds import LEAST, PHOTOGRAPHS, STEPS, Scenario, StopDeadError, Work, make, play
from tests.store_caches import InterruptingClock

SOAK = int(os.environ.get("C10_STORE_MACHINE", examples(12)))
HISTORY_STEPS = 20
VERSION = library_version("onnxruntime") or "1"
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

positions = st.sampled_from([(0, 0), (1, 0), (15, 15), (20, 3), (40, 40)])
scenarios = st.builds(
    Scenario,
    flight=st.sampled_from(["f1", "f2"]),
    engine=st.sampled_from(["n1", "n2"]),
    tiles=st.dictionaries(positions, st.sampled_from("ab"), min_size=1, max_size=4),
    version=st.just(VERSION),
    chunks=st.booleans(),
    carry=st.booleans(),
    proof=st.none() | st.sampled_from([LEAST - 1, PHOTOGRAPHS]),
)
AFTER_PROOF = STEPS[STEPS.index("proof") :]
steps = st.sampled_from(STEPS)


class DyingProjections(Projections):
    """Projections whose process dies just before the n-th one is written."""

    def _put(self, folder, name, data):
        if DyingStore.lives == 0:
            raise StopDeadError(name)
        DyingStore.lives -= 1
        super()._put(folder, name, data)


class DyingStore(CacheWriter):
    """A writer that dies while it projects."""

    lives = -1

    def _recover(self):
        self.projections = DyingProjections(self.layout)
        super()._recover()


@dataclass
class ModelBuild:
    identity: str
    status: str = "open"
    parent: int | None = None


@dataclass
class Model:
    """The content of the journal, as plain lists and maps."""

    builds: list[ModelBuild] = field(default_factory=list)
    generations: list[tuple[int, int | None]] = field(default_factory=list)
    engines: set[str] = field(default_factory=set)
    cells: dict[tuple[str, int, int, int], list[dict]] = field(default_factory=dict)
    indexes: set[tuple] = field(default_factory=set)
    proofs: set[tuple] = field(default_factory=set)
    packs: set[tuple] = field(default_factory=set)
    collected: set[int] = field(default_factory=set)
    accepted: set[int] = field(default_factory=set)

    @property
    def head(self):
        return self.generations[-1] if self.generations else None

    def cost(self, scenario, until=""):
        """Play the build and return its cost. `until` is where it ends early."""
        reached = STEPS.index(until) if until else len(STEPS)
        cost = Work()
        if scenario.engine not in self.engines:
            if reached <= STEPS.index("engine"):
                return cost
            cost.compiled = 1
            self.engines.add(scenario.engine)
        if reached > STEPS.index("check"):
            wanted = {}
            steps = 2 if scenario.chunks else 1
            for (x, y), content in scenario.tiles.items():
                cell = (scenario.engine, steps, steps * x >> 4, steps * y >> 4)
                wanted.setdefault(cell, {})[x, y] = content
            for cell, tiles in wanted.items():
                known = self.cells.setdefault(cell, [])
                if tiles not in known:
                    cost.embedded += len(tiles)
                    known.append(tiles)
        index = (scenario.engine, scenario.chunks, *sorted(scenario.tiles.items()))
        if reached > STEPS.index("cells"):
            cost.indexed = int(index not in self.indexes)
            self.indexes.add(index)
        if reached > STEPS.index("index") and scenario.proves:
            cost.asked = int((index, scenario.proof) not in self.proofs)
            if scenario.fails_its_proof:
                return cost
            self.proofs.add((index, scenario.proof))
        if reached > STEPS.index("proof") and scenario.carry:
            cells = {}
            for (x, y), content in sorted(scenario.tiles.items()):
                cells.setdefault((x >> 4, y >> 4), []).append((x, y, content))
            wanted = set(map(tuple, cells.values()))
            cost.packed = len(wanted - self.packs)
            self.packs |= wanted
        return cost

    def collect(self, kept, scenarios):
        """Forget what none of some builds needs."""
        needed = Model()
        for number in kept:
            needed.cost(scenarios[self.builds[number - 1].identity])
        self.engines, self.cells, self.indexes = needed.engines, needed.cells, needed.indexes
        self.proofs, self.packs = needed.proofs, needed.packs
        self.collected |= {origin for origin, _ in self.generations} - set(kept)

    def ancestors(self, build):
        found = []
        while (build := self.builds[build - 1].parent) is not None:
            found.append(build)
        return found

    def ends_early(self, scenario, step):
        """Return whether a build that is to end at this step gets there: it reuses its engine, or fails its proof."""
        if step == "engine" and scenario.engine in self.engines:
            return ""
        return "" if scenario.fails_its_proof and step in AFTER_PROOF else step


class StoreMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY, prefix="c10-store-"))
        self.layout = Layout(self.folder / "cache")
        self.clock = InterruptingClock()
        self.model = Model()
        self.durable = (
            Model()
        )  # what the segments hold: the model at the last commit whose segment is on disk
        self.recovered = Model()  # what they will hold after the next opening
        self.manifests = {}  # generation -> bytes of every manifest that was ever visible
        self.bodies = {}  # origin -> body digest as committed first
        self.scenarios = {}
        self.state = None

    def teardown(self):
        shutil.rmtree(self.folder)

    @initialize()
    def birth(self):
        with self.opened() as store:
            assert store.recovered == ()
            assert store.state.head is None

    def opened(self, cls=CacheWriter, lives=-1):
        DyingStore.lives = lives
        self.durable = self.recovered  # opening writes the missing segments
        for build in self.model.builds:  # what opening does to a build whose process died
            if build.status == "open":
                build.status = "abandoned"
        return cls.open(self.layout, clock=self.clock, create=True, reserve_bytes=1 << 12)

    def committed(self, origin, parent, *, segment=True):
        self.model.generations.append((origin, parent))
        self.recovered = copy.deepcopy(self.model)
        if segment:
            self.durable = self.recovered

    def ended(self, number, build):
        """Note a build that ran to its end."""
        if build.status == "committed":
            self.committed(number, build.parent)

    def started(self, scenario):
        identity = build_identity(scenario.inputs())
        self.scenarios[identity] = scenario
        self.model.builds.append(ModelBuild(identity))
        return len(self.model.builds), self.model.builds[-1]

    def build(self, store, scenario):
        """Run a build that succeeds, unless it fails its proof."""
        number, build = self.started(scenario)
        expected = self.model.cost(scenario)
        shown, work = play(store, scenario)
        assert work == expected
        if scenario.fails_its_proof:
            build.status = "failed"
            assert shown is None
            failed = store.state.builds[number]
            assert (failed.failure.step, failed.proof) == ("proof", None)
            return number, build
        build.parent = self.model.head[0] if self.model.head else None
        build.status = "committed"
        assert (shown.origin, shown.parent) == (number, build.parent)
        return number, build

    @rule(scenario=scenarios)
    def builds(self, scenario):
        with self.opened() as store:
            number, build = self.build(store, scenario)
            self.state = store.state.copy()
        self.ended(number, build)
        assert build.status == "failed" or build.identity not in self.state.undone

    @precondition(lambda self: self.model.generations)
    @rule(scenario=scenarios, reads=st.integers(1, 16))
    def builds_while_somebody_accepts(self, scenario, reads):
        generation = len(self.model.generations)
        with self.opened() as store:

            def accept():
                accepted = make(GenerationAccepted, generation=generation)
                store.journal.append([to_record(accepted, build=None, wall_ns=5, mono_ns=5)])
                self.model.accepted.add(generation)

            self.clock.reads, self.clock.due = reads, accept
            number, build = self.build(store, scenario)
            self.clock.due = None
            self.state = store.state.copy()
        self.ended(number, build)

    @precondition(lambda self: self.model.generations)
    @rule()
    def builds_what_is_shown(self):
        """Building what is shown repeats no work, however it came to be shown."""
        identity = self.model.builds[self.model.head[0] - 1].identity
        assert copy.deepcopy(self.model).cost(self.scenarios[identity]) == Work()
        with self.opened() as store:
            number, build = self.build(store, self.scenarios[identity])
            self.state = store.state.copy()
        self.ended(number, build)

    @precondition(lambda self: self.scenarios)
    @rule(data=st.data())
    def builds_what_was_built_before(self, data):
        """Repeat the identity of an earlier build: one that was left, that failed, or that is shown."""
        identity = data.draw(st.sampled_from(sorted(self.scenarios)))
        with self.opened() as store:
            number, build = self.build(store, self.scenarios[identity])
            self.state = store.state.copy()
        self.ended(number, build)
        assert build.status == "failed" or identity not in self.state.undone

    @rule(scenario=scenarios, step=steps)
    def fails(self, scenario, step):
        at = self.model.ends_early(scenario, step)
        with self.opened() as store:
            if not at:
                self.builds_inside(store, scenario)
                return
            _, build = self.started(scenario)
            expected = self.model.cost(scenario, at)
            shown, work = play(store, replace(scenario, fail_at=step))
            assert shown is None
            assert work == expected
            self.state = store.state.copy()
        build.status = "failed"
        last = self.state.builds[len(self.model.builds)]
        assert (last.failure.step, last.failure.inputs) == (step, {"step": step})

    def builds_inside(self, store, scenario):
        number, build = self.build(store, scenario)
        self.state = store.state.copy()
        self.ended(number, build)

    @rule(scenario=scenarios, step=steps)
    def dies_and_is_built_again(self, scenario, step):
        if not self.dies(scenario, step):
            return
        left = open_view(self.layout).state
        assert left.open_build == len(self.model.builds)
        self.check()
        with self.opened() as store:
            assert left.open_build in {action.build for action in store.recovered if hasattr(action, "build")}
            number, build = self.build(store, scenario)
            self.state = store.state.copy()
        self.ended(number, build)

    @rule(scenario=scenarios, step=steps)
    def is_left_dead(self, scenario, step):
        self.dies(scenario, step)

    def dies(self, scenario, step):
        """Die in a build, if it gets to the step; return whether it did."""
        at = self.model.ends_early(scenario, step)
        with self.opened() as store:
            if not at:
                self.builds_inside(store, scenario)
                return False
            self.started(scenario)
            self.model.cost(scenario, at)
            with pytest.raises(StopDeadError):
                play(store, replace(scenario, die_at=step))
            self.state = store.state.copy()
        return True

    @rule(scenario=scenarios, lives=st.integers(0, 1))
    def dies_after_the_commit(self, scenario, lives):
        """Commit a generation of which nothing, or only its segment, is on disk."""
        number, build = len(self.model.builds) + 1, None
        if scenario.fails_its_proof:
            with self.opened() as store:
                self.builds_inside(store, scenario)
            return
        with self.opened(DyingStore) as store:
            DyingStore.lives = lives
            _, build = self.started(scenario)
            self.model.cost(scenario)
            with pytest.raises(StopDeadError):
                play(store, scenario)
            self.state = store.state.copy()
        build.status, build.parent = "committed", self.model.head[0] if self.model.head else None
        self.committed(number, build.parent, segment=lives > 0)
        assert len(self.model.generations) not in self.layout.manifest_files()

    @precondition(lambda self: self.model.generations)
    @rule(data=st.data(), lives=st.none() | st.integers(0, 1))
    def rolls_back(self, data, lives):
        number = len(self.model.generations)
        to = data.draw(st.none() | st.integers(1, number + 1))
        origin, parent = self.model.head
        refusal, target = None, None
        if to is None:
            target, refusal = parent, None if parent is not None else ErrorKind.NOTHING_TO_ROLL_BACK
        elif to > number:
            refusal = ErrorKind.UNKNOWN_GENERATION
        else:
            target = self.model.generations[to - 1][0]
        if refusal is None and target in self.model.collected:
            refusal = ErrorKind.COLLECTED
        changes = refusal is None and target != origin
        with self.opened(DyingStore) as store:
            if refusal is not None:
                with pytest.raises(RequestRefusedError) as refused:
                    rollback.plan(store.state, to=to, why="test")
                assert refused.value.kind is refusal
            planned = None if refusal is not None else rollback.plan(store.state, to=to, why="test")
            assert (planned is not None) == changes
            if planned is not None and lives is None:
                shown = store.roll_back(planned)
                assert (shown.origin, shown.rolled_back.left) == (target, origin)
            elif planned is not None:
                DyingStore.lives = lives
                with pytest.raises(StopDeadError):
                    store.roll_back(planned)
            self.state = store.state.copy()
        if changes:
            self.committed(target, self.model.builds[target - 1].parent, segment=lives != 0)
            left = self.model.builds[origin - 1].identity
            shows = self.model.builds[target - 1].identity
            if origin not in self.model.ancestors(target):  # going forward leaves nothing behind
                assert (left in self.state.undone) == (left != shows)

    @precondition(lambda self: self.model.generations)
    @rule(keep=st.integers(1, 2))
    def collects_and_builds_what_is_shown(self, keep):
        """The build makes the collection durable: a journal that is lost comes back without what follows a commit."""
        policy = KeepPolicy(keep=keep, unfinished=False)
        with self.opened() as store:
            kept = kept_origins(store.state, policy)
            assert self.model.head[0] in kept
        with CacheWriter.open(
            self.layout, clock=self.clock, reserve_bytes=1 << 12, exclusive_within_s=1.0
        ) as store:
            collect(store, policy)
            assert collect(store, policy).empty
        self.model.collect(kept, self.scenarios)
        for number in set(self.manifests) - set(self.layout.manifest_files()):
            assert self.model.generations[number - 1][0] in self.model.collected
        self.builds_what_is_shown()

    @precondition(lambda self: self.model.generations)
    @rule()
    def somebody_accepts(self):
        generation = len(self.model.generations)
        with Journal.open(self.layout.journal) as journal:
            accepted = make(GenerationAccepted, generation=generation)
            journal.append([to_record(accepted, build=None, wall_ns=5, mono_ns=5)])
        self.model.accepted.add(generation)
        self.state = open_view(self.layout).state

    @precondition(lambda self: self.model.generations)
    @rule(data=st.data())
    def loses_projections(self, data):
        """Delete all projections; they are written again byte for byte."""
        with self.opened():
            pass  # recovers what earlier deaths left open
        files = sorted((*self.layout.manifests.iterdir(), *self.layout.segments.iterdir()))
        gone = data.draw(st.sets(st.sampled_from(files), min_size=1) | st.just(set(files)))
        before = {path: path.read_bytes() for path in files}
        with Journal.open(self.layout.journal) as journal:
            inside = journal.projections()
            assert inside
            journal.append([], dict.fromkeys(inside))
        for path in gone:
            path.unlink()
        with self.opened() as store:
            assert store.recovered
            assert all(isinstance(action, Project) for action in store.recovered)
            assert store.writes == len(gone) + 1
            assert store.journal.projections() == inside
            self.state = store.state.copy()
        assert {path: path.read_bytes() for path in sorted(before)} == before

    @precondition(lambda self: self.model.generations)
    @rule(data=st.data())
    def dies_while_projecting_again(self, data):
        with self.opened():
            pass
        files = sorted((*self.layout.manifests.iterdir(), *self.layout.segments.iterdir()))
        for path in files:
            path.unlink()
        lives = data.draw(st.integers(0, len(files) - 1))
        with pytest.raises(StopDeadError), self.opened(DyingStore, lives):
            pytest.fail("it has to die while it opens")
        self.check()
        with self.opened() as store:
            self.state = store.state.copy()
        assert sorted((*self.layout.manifests.iterdir(), *self.layout.segments.iterdir())) == files

    @rule(damage=st.sampled_from(["unlink", "truncate"]))
    def loses_the_journal(self, damage):
        """Rebuild the LMDB file from the segments, which loses what came after the last commit."""
        self.layout.journal.unlink()
        self.layout.journal.with_name("journal.mdb-lock").unlink(missing_ok=True)
        if damage == "truncate":
            self.layout.journal.write_bytes(b"C10")
        if not self.layout.segment_files():
            with pytest.raises(DamagedHistoryError):
                rebuild(self.layout)
            self.layout.journal.unlink(missing_ok=True)
            self.model, self.durable, self.recovered, self.state = Model(), Model(), Model(), None
            self.birth()
            return
        if damage == "unlink":
            with (
                pytest.raises(DamagedHistoryError),
                CacheWriter.open(self.layout, clock=self.clock, create=True),
            ):
                pytest.fail("a journal was created although there are generations")
        state = rebuild(self.layout).state
        self.recovered = self.durable
        self.model = copy.deepcopy(self.durable)
        assert len(self.model.generations) >= max(self.manifests, default=0)
        assert open_view(self.layout).state == state
        with self.opened() as store:
            self.state = store.state.copy()

    @invariant()
    def check(self):
        if not self.layout.journal.exists():
            return
        view = open_view(self.layout)
        assert view.state == read_history(self.layout).state
        self.agrees_with_the_model(view.state)
        visible = self.layout.manifest_files()
        for number, name in visible.items():
            raw = (self.layout.manifests / name).read_bytes()
            assert raw == self.manifests.setdefault(number, raw)
            assert raw == project(view.state, view.state.generations[number])
        artifacts = Artifacts(self.layout)
        for number, generation in view.state.generations.items():
            manifest = parse(project(view.state, generation))
            assert manifest.envelope.generation == number
            origin = (generation.origin, manifest.identity)
            assert manifest.body_sha256 == self.bodies.setdefault(origin, manifest.body_sha256)
            assert (manifest.sha256, manifest.body_sha256) == (
                generation.manifest_sha256,
                generation.body_sha256,
            )
            if number == len(view.state.generations):
                for digest, (role, size) in named_by(manifest, artifacts).items():
                    assert artifacts.damage(ArtifactRef(sha256=digest, size=size)) is None, role
        self.flies(visible)

    def agrees_with_the_model(self, state):
        model = self.model
        assert [(one.origin, one.parent) for one in state.generations.values()] == model.generations
        assert [one.status for one in state.builds.values()] == [
            BuildStatus(one.status) for one in model.builds
        ]
        assert [one.identity for one in state.builds.values()] == [one.identity for one in model.builds]
        assert state.accepted == model.accepted
        if model.head:
            assert state.head_build.status is BuildStatus.COMMITTED
            assert state.head_build.identity not in state.undone
        if self.state is not None and self.state.position == state.position:
            assert self.state == state

    def flies(self, visible):
        if not visible:
            with pytest.raises(NoGoError) as refused:
                FlightCache.open(self.layout.root, trusted_keys=ALLOW_UNSIGNED)
            assert refused.value.kind is ErrorKind.NO_GENERATION
            return
        with FlightCache.open(self.layout.root, trusted_keys=ALLOW_UNSIGNED) as cache:
            assert cache.manifest.envelope.generation == max(visible)
            assert cache.verify().files >= 6
            scenario = self.scenarios[cache.manifest.identity]
            assert (cache.manifest.proof is not None) == scenario.proves
            for (x, y), text in scenario.tiles.items():
                if scenario.carry:
                    assert cache.tile_bytes(6, x, y) == text.encode()
                else:
                    with pytest.raises(RequestRefusedError):
                        cache.tile_bytes(6, x, y)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=SOAK,
    stateful_step_count=HISTORY_STEPS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
