"""What must hold of a cache after whatever was done to a writer of it, with nobody mending anything by hand."""

import fcntl
import hashlib
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from journal import Journal
from journal.lock import lock_holder
from store.cache.view import HistoryView, open_view, read_history
from store.disk.artifacts import Artifacts
from store.disk.layout import KNOWN_ENTRIES, MIRROR_MARK, Layout
from store.disk.scratch import RESERVE_NAME
from store.domain.events import (
    CellEmbedded,
    CheckPassed,
    EngineCompiled,
    IndexBuilt,
    IndexExtended,
    TilesPacked,
)
from store.domain.proof import PROOF
from store.domain.state import State
from store.errors import ErrorKind, NoGoError, RequestRefusedError
from store.files.regular_file import read_regular
from store.maintenance.collect_garbage import collect
from store.manifest.file_names import MAX_MANIFEST_BYTES
from store.manifest.manifest import parse
from store.policy.retention import KeepPolicy
from store.verify.coverage import named_by, referenced_by, walk
from tests.crash.harness.bench import Acknowledged, Bench
from tests.crash.harness.drivers import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """The cache as it was: how many generations the journal and the readers knew, and the bytes of its files."""

    committed: int = 0
    visible: int = 0
    files: tuple[tuple[str, str], ...] = ()


def remember(layout: Layout, *, damaged: bool = False) -> Before:
    """Look at a cache before something is done to it; the journal of a damaged one cannot be asked."""
    if not layout.manifests.is_dir():
        return Before()
    visible = max(layout.manifest_files(), default=0)
    # A mirror has no journal either.
    damaged = damaged or not layout.journal.exists()
    return Before(
        committed=visible if damaged else len(open_view(layout).state.generations),
        visible=visible,
        files=tuple(_files(layout)),
    )


def _files(layout: Layout) -> Iterator[tuple[str, str]]:
    for folder in (layout.manifests, layout.segments):
        for path in sorted(folder.iterdir()):
            yield f"{folder.name}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest()


class Judge:
    """Gathers everything that is wrong."""

    def __init__(self, driver: Driver, bench: Bench, before: Before, told: Acknowledged, commits: int):
        self.driver, self.bench, self.before, self.told = driver, bench, before, told
        self.layout = bench.layout
        self.allowed = range(before.committed, before.committed + commits + 1)
        self.problems: list[str] = []

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Turn whatever goes wrong into a problem."""
        try:
            yield
        except AssertionError as error:
            self.problems.append(f"{what}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a problem
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.problems.append(f"{what}: {type(error).__name__}: {error} ({where.name}:{where.lineno})")

    def judge(self) -> list[str]:
        """Look at the cache as it was left, build again, and look once more; returns what is wrong."""
        with self.trying("locks"):
            self._locks()
        with self.trying("readers see"):
            self._visible()
        with self.trying("files"):
            self._tree()
        if self.driver.copies:
            with self.trying("next mirror"):
                self.driver.build(self.bench, "next")
                self._fly(self.before.visible + self.driver.commits)
                self._holds()
            return self.problems
        state = None
        if self.driver.mends:
            with self.trying("mending"):
                self.driver.act(self.bench)
        with self.trying("journal"):
            state = self._journal()
        with self.trying("next build"):
            self.driver.build(self.bench, "next")
            self._holds()
            self._whole(state)
        with self.trying("acknowledged"):
            if self.layout.journal.exists():
                self._kept(read_history(self.layout))
        return self.problems

    def _holds(self) -> None:
        if self.driver.holds is not None:
            self.driver.holds(self.bench)

    def _locks(self) -> None:
        assert lock_holder(self.layout.build_lock) is None, "the build lock is held by nobody alive"
        for path in (self.layout.build_lock, self.layout.artifacts_lock):
            if path.exists():
                fd = os.open(path, os.O_RDWR)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                finally:
                    os.close(fd)

    def _visible(self) -> None:
        """Nothing was opened for writing yet: this is what an aircraft would find."""
        manifests, segments = self.layout.manifest_files(), self.layout.segment_files()
        shown = max(manifests, default=0)
        acked = max((number for number, _ in self.told.commits), default=0)
        assert shown >= acked, f"generation {acked} was acknowledged, readers see {shown}"
        assert shown in range(self.before.visible, self.allowed.stop), f"readers see generation {shown}"
        if self.driver.copies:
            ends = {self.before.visible, self.before.visible + self.driver.commits}
            assert shown in ends, f"readers see generation {shown}, neither the old head nor the new"
        assert not manifests.keys() - segments.keys(), "a manifest is visible before its segment"
        for name, digest in self.before.files:
            if self.driver.collects and not (self.layout.root / name).exists():
                continue
            found = hashlib.sha256((self.layout.root / name).read_bytes()).hexdigest()
            assert found == digest, f"{name} changed"
        if not shown:
            try:
                self.bench.fly()
            except NoGoError:
                return
            raise AssertionError("a cache without a generation was handed out")
        if not self.driver.damaged:
            self._fly(shown)
            for number in manifests.keys() - {shown}:
                self._fly_older(number, manifests[number])

    def _fly_older(self, number: int, name: str) -> None:
        try:
            with self.bench.fly(number) as cache:
                cache.verify()
        except NoGoError:
            # A collection that died removes the signature first, of what it had planned to remove and nothing else.
            unsigned = not (self.layout.manifests / name).with_suffix(".sig").exists()
            if not (
                self.driver.collects
                and unsigned
                and number in open_view(self.layout).state.collected_generations
            ):
                raise

    def _fly(self, number: int) -> None:
        with self.bench.fly() as cache:
            cache.verify()
            assert cache.manifest.envelope.generation == number

    def _tree(self) -> None:
        """Whatever has a name is whole, and nothing has a name that should not."""
        if not self.layout.root.exists():
            return
        names = {entry.name for entry in os.scandir(self.layout.root)}
        known = KNOWN_ENTRIES | {MIRROR_MARK} if self.driver.copies else KNOWN_ENTRIES
        assert names <= known, f"strangers: {sorted(names - known)}"
        if self.driver.damaged:
            return
        if self.layout.artifacts.exists():
            for digest, entry in Artifacts(self.layout).names():
                assert digest, f"{entry.name} among the artifacts"
                assert hashlib.sha256(Path(entry.path).read_bytes()).hexdigest() == digest, (
                    f"artifact {digest[:12]} is torn"
                )
        if self.layout.quarantine.exists() and not self.driver.evidence:
            assert not list(self.layout.quarantine.iterdir()), "something is in quarantine"

    def _journal(self) -> State | None:
        try:
            view = read_history(self.layout)
        except RequestRefusedError as error:
            assert error.kind == ErrorKind.NO_CACHE, error
            assert not self.before.committed, "the journal is gone"
            assert not self.told.appends, "an acknowledged event is gone with the journal"
            return None
        assert len(view.state.generations) in self.allowed, f"{len(view.state.generations)} generations"
        assert max(self.layout.manifest_files(), default=0) <= len(view.state.generations)
        self._kept(view)
        self._named(view.state)
        known = {number for number in view.state.generations if number <= self.before.visible}
        gone = known - set(view.state.collected_generations) - set(self.layout.manifest_files())
        assert not gone, f"generations {sorted(gone)} are gone and nobody planned it"
        return view.state

    def _named(self, state: State) -> None:
        """An artifact was durable before the event that names it: what the journal would reuse is there."""
        if self.driver.damaged:
            return
        artifacts = Artifacts(self.layout)
        gone = [digest for digest in referenced_by(state) if artifacts.size(digest) is None]
        assert self.driver.collects or not gone, f"artifact {gone[0][:12]} is named and was never stored"

    def _kept(self, view: HistoryView) -> None:
        chains = {fact.seq: fact.chain for fact in view.facts}
        for seq, chain in self.told.appends:
            assert chains.get(seq) == chain, f"record {seq} was acknowledged and is gone"
        for number, digest in self.told.commits:
            found = view.state.generations.get(number)
            assert found is not None, f"generation {number} was acknowledged and is gone"
            assert found.manifest_sha256 == digest, f"generation {number} is another one"

    def _whole(self, earlier: State | None) -> None:
        """After a build that nobody disturbed, everything is as if nothing had ever happened."""
        view = read_history(self.layout)
        state, count = view.state, len(view.state.generations)
        assert state.head is not None
        assert state.open_build is None
        assert state.head.origin == max(state.builds), "the next build is not the head"
        assert count - 1 in self.allowed, f"{count} generations after one more build"
        kept = set(state.generations) - set(state.collected_generations)
        shown = set(self.layout.manifest_files())
        # What a dead collection had planned to remove may still be there; the next one removes it.
        assert shown == kept or (self.driver.collects and shown > kept), f"manifests of {sorted(shown)}"
        assert set(self.layout.segment_files()) == set(state.generations), "a segment is missing"
        self._fly(count)
        if earlier is not None:
            self._nothing_twice(view, earlier)
        with Journal.open(self.layout.journal) as journal:
            assert journal.verify() == view.head
        self._covered(state, count)
        with self.bench.store() as store:
            assert store.recovered == (), f"left to recover: {store.recovered}"
            assert store.writes == 0, "there was something left to set right"
        left = {entry.name for entry in os.scandir(self.layout.scratch)} - {RESERVE_NAME}
        assert not left, f"left in the scratch folder: {sorted(left)}"
        self._collected(count)

    def _collected(self, head: int) -> None:
        """Collection removes everything that nothing needs, and then nothing more."""
        policy = KeepPolicy(keep=2, unfinished=False)
        with self.bench.store(alone=True) as store:
            collect(store, policy)
            assert collect(store, policy).empty, "collection left something that it would collect"
            state = store.state
        self._fly(head)
        assert set(self.layout.manifest_files()) == set(state.generations) - set(state.collected_generations)
        names = {entry.name for entry in os.scandir(self.layout.manifests)}
        alone = {name for name in names if f"{name.partition('.')[0]}.json" not in names}
        assert not alone, f"left without its manifest: {sorted(alone)}"
        found = walk(Artifacts(self.layout), {}, referenced=referenced_by(state), full=False, threads=1)
        assert not found.unreferenced, f"{len(found.unreferenced)} unreferenced artifacts after a collection"
        assert not found.foreign_files

    def _nothing_twice(self, view: HistoryView, earlier: State) -> None:
        """What the journal held is not made again."""
        memo, artifacts = earlier.step_cache, Artifacts(self.layout)
        had: dict[type, set[str]] = {
            EngineCompiled: set(memo.engines),
            IndexBuilt: set(memo.indexes),
            IndexExtended: set(memo.indexes),
            CellEmbedded: {event.key for name in memo.blocks for event in memo.blocks_of(name)},
            TilesPacked: set(memo.packs),
            CheckPassed: {key for check, key in memo.passed if check == PROOF},
        }
        if self.driver.damaged:
            return
        for fact in view.facts:
            if fact.seq > earlier.position.seq and type(fact.event) in had:
                again = fact.event.key in had[type(fact.event)]
                assert not again, f"{type(fact.event).__name__} was in the journal and was made again"
        assert artifacts.created == 0

    def _covered(self, state: State, number: int) -> None:
        artifacts, layout = Artifacts(self.layout), self.layout
        raw = read_regular(layout.manifests / layout.manifest_files()[number], limit=MAX_MANIFEST_BYTES)
        assert raw is not None
        named = named_by(parse(raw), artifacts)
        found = walk(artifacts, named, referenced=referenced_by(state), full=True, threads=1)
        assert not found.problems, f"coverage: {found.problems[0]}"
