"""Embedding on a Ray cluster: the same blocks as here, lost workers and nodes, nodes that are not alike."""

import contextlib
import functools
import hashlib
import importlib.util
import itertools
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from pipeline.cells import group_cells, plan_windows, shared_digests
from pipeline.child import FAILED, FINISHED
from pipeline.composition import build_cache_provisioner
from pipeline.config import C10ProvisionerConfig
from pipeline.descriptors import EngineSpec, LocalDescriptorBatcher, worker_setup
from pipeline.errors import EmbedError, ErrorKind, RequestError
from pipeline.frames import encode
from pipeline.ray_actor import TileEmbedder, decoded, software
from pipeline.ray_batcher import ATTEMPTS, RayDescriptorBatcher
from pipeline.report import BuildOutcome
from pipeline.tiles.tile import Tile
from store.events import CellEmbedded, StepRetried
from store.preprocessing import Preprocessing
from tests.small_builds import Site, picture, spread
from tests.toy_networks import DIMENSIONS, toy_network

BATCH = 4
PREPROCESSING = Preprocessing(size=(32, 32), mean=(100.0, 110.0, 120.0), std=(50.0, 51.0, 52.0))
MARK = "C10_TEST_CLUSTER"

on_ray = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`"),
    # What Ray and its own children leave behind is not ours to close.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
    ),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def ray_test(function):
    for mark in on_ray:
        function = mark(function)
    return function


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "engine.onnx"
    data = toy_network(batch=BATCH, size=(32, 32)).SerializeToString()
    path.write_bytes(data)
    return EngineSpec(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        backend="onnxruntime",
        version=onnxruntime.__version__,
        input="input",
        output="descriptor",
        batch=BATCH,
        dimensions=DIMENSIONS,
    )


@pytest.fixture
def tiles(tmp_path):
    out = []
    for number in range(60):
        content = picture(number)
        path = tmp_path / f"{number}.tile"
        path.write_bytes(content)
        out.append(
            Tile(
                z=12,
                x=16 * (number // 5),
                y=number % 5,
                sha256=hashlib.sha256(content).hexdigest(),
                size=len(content),
                captured=None,
                locator=("file", str(path)),
            )
        )
    return out


@contextlib.contextmanager
def cluster_of(nodes, monkeypatch):
    """A cluster of nodes with one processor each besides the head, which has none; this process is connected to it."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv(MARK, str(os.getpid()))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    before = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        added = [cluster.add_node(num_cpus=1) for _ in range(nodes)]
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster, added
    finally:
        ray.shutdown()
        cluster.shutdown()
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def cluster(monkeypatch):
    with cluster_of(2, monkeypatch) as made:
        yield made


def actor_pids(node=None):
    """The actors of clusters that this process started, or those on one node."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environ = (folder / "environ").read_bytes().split(b"\0")
            mine = f"{MARK}={os.getpid()}".encode() in environ
            if node:
                (raylet,) = node.all_processes["raylet"]
                status = (folder / "status").read_text()
                mine = mine and f"PPid:\t{raylet.process.pid}\n" in status
            if mine and (folder / "cmdline").read_bytes().startswith(b"ray::TileEmbedder"):
                found.append(int(folder.name))
    return found


def windows_of(tiles, size=5):
    cells = group_cells(tiles)
    return plan_windows(cells, shared=shared_digests(cells), size=size)


def embed(batcher, tiles, engine, size=5, **callbacks):
    return list(
        batcher.embed(windows_of(tiles, size), engine=engine, preprocessing=PREPROCESSING, **callbacks)
    )


def by_digest(results):
    rows = [
        (tile.sha256, (vector.tobytes(), texture.tobytes()))
        for result in results
        for tile, vector, texture in zip(result.tiles, result.vectors, result.texture, strict=True)
    ]
    assert len(dict(rows)) == len(rows), "a window came back twice"
    return dict(rows)


def bad_of(results):
    return sorted((bad.tile.sha256, bad.kind) for result in results for bad in result.bad)


@ray_test
def test_rows_and_bad_tiles_are_those_of_local_workers(tiles, engine, cluster):
    Path(tiles[3].locator[1]).unlink()
    Path(tiles[11].locator[1]).write_bytes(b"other bytes")
    local = embed(LocalDescriptorBatcher(workers=2), tiles, engine, size=7)
    dispatched, done = [], []
    remote = embed(
        RayDescriptorBatcher(address="auto"),
        tiles,
        engine,
        size=7,
        on_dispatch=dispatched.append,
        on_progress=done.append,
    )
    assert by_digest(remote) == by_digest(local)
    assert len(by_digest(remote)) == 58
    assert (
        bad_of(remote)
        == bad_of(local)
        == sorted((tiles[number].sha256, ErrorKind.SOURCE_CHANGED) for number in (3, 11))
    )
    assert sum(done) == 58
    assert sorted(window.number for window in dispatched) == list(range(len(remote)))


@ray_test
def test_a_killed_worker_costs_its_window_and_is_replaced(tiles, engine, cluster):
    killed, retries = [], []

    def kill_one(window):
        if window.number == 3:
            killed.append(actor_pids()[0])
            os.kill(killed[0], signal.SIGKILL)

    results = embed(
        RayDescriptorBatcher(address="auto"), tiles, engine, on_dispatch=kill_one, on_retry=retries.append
    )
    assert len(killed) == 1
    assert len(by_digest(results)) == 60
    assert [retry.attempt for retry in retries] == [1]
    assert "ActorDiedError" in retries[0].why


@ray_test
def test_a_node_that_vanishes_while_its_actor_lives_on_costs_its_windows(tiles, engine, cluster):
    made, (_, doomed) = cluster
    retries = []
    (window,) = windows_of(tiles[:5], 5)

    def until_noticed():
        until = time.monotonic() + 60
        for number in itertools.count():
            if retries or time.monotonic() > until:
                return
            if number == 3:
                made.remove_node(doomed, allow_graceful=False)
            yield replace(window, number=number)

    results = list(
        RayDescriptorBatcher(address="auto").embed(
            until_noticed(), engine=engine, preprocessing=PREPROCESSING, on_retry=retries.append
        )
    )
    assert [retry.attempt for retry in retries] == [1]
    numbers = [result.window.number for result in results]
    assert sorted(numbers) == list(range(len(numbers)))
    assert len({result.vectors.tobytes() for result in results}) == 1


@ray_test
def test_a_window_that_ends_every_worker_is_given_up(tiles, engine, cluster, monkeypatch):
    retries = []
    results = RayDescriptorBatcher(address="auto", workers=1).embed(
        windows_of(tiles, 60), engine=engine, preprocessing=PREPROCESSING, on_retry=retries.append
    )
    import ray

    taken = ray.actor.ActorHandle._actor_method_call

    def fatal(self, method, *rest, **named):
        ref = taken(self, method, *rest, **named)
        if method == "embed":
            os.kill(actor_pids()[0], signal.SIGKILL)
        return ref

    monkeypatch.setattr(ray.actor.ActorHandle, "_actor_method_call", fatal)
    with pytest.raises(EmbedError) as told:
        list(results)
    assert told.value.kind is ErrorKind.WORKER_DIED
    assert len(retries) == ATTEMPTS - 1


@ray_test
def test_a_cluster_without_room_is_said(tiles, engine, monkeypatch):
    monkeypatch.setattr("pipeline.ray_batcher.START_LIMIT_S", 2.0)
    with cluster_of(0, monkeypatch), pytest.raises(EmbedError, match="found 0 CPU free"):
        embed(RayDescriptorBatcher(address="auto"), tiles, engine)


@ray_test
def test_no_cluster_at_the_address_is_said(tiles, engine):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(EmbedError, match=r"expected a Ray cluster at '127\.0\.0\.1:1'") as told:
        embed(RayDescriptorBatcher(address="127.0.0.1:1"), tiles, engine)
    assert told.value.kind is ErrorKind.BACKEND_UNAVAILABLE
    assert signal.getsignal(signal.SIGTERM) is handler


@ray_test
def test_a_build_on_two_nodes_of_which_one_dies_commits_the_blocks_of_a_local_one(
    tmp_path, cluster, monkeypatch
):
    monkeypatch.setattr("pipeline.embedding.plan_windows", functools.partial(plan_windows, size=2))
    made, nodes = cluster
    far, near = Site(tmp_path / "far"), Site(tmp_path / "near")
    for site in (far, near):
        site.write_tiles(spread())
    batcher = LosesANode(made, nodes, after=4)
    report = far.provisioner(descriptor_batcher=batcher).build_cache_artifacts(far.request())
    assert report.outcome is BuildOutcome.BUILT, report.error
    near.build()
    assert far.events(StepRetried)
    assert blocks_of(far) == blocks_of(near)
    assert far.state().head_build.index.artifact == near.state().head_build.index.artifact
    assert far.build().outcome is BuildOutcome.REUSED


@ray_test
def test_a_cluster_of_this_machine_is_started_and_ended(tmp_path):
    import ray

    site = Site(tmp_path)
    site.write_tiles(spread(2, 2))
    config = C10ProvisionerConfig(cache_root=site.cache, executor="ray", workers=1)
    report = build_cache_provisioner(config, host={}).build_cache_artifacts(site.request())
    assert report.outcome is BuildOutcome.BUILT, report.error
    assert not ray.is_initialized()
    assert site.build().outcome is BuildOutcome.REUSED


class LosesANode(RayDescriptorBatcher):
    """One actor, whose node is lost with it; the work goes on upon another."""

    def __init__(self, made, nodes, *, after):
        super().__init__(address="auto", workers=1)
        self._made, self._nodes, self._after = made, nodes, after

    def embed(self, windows, *, on_dispatch, **rest):
        def dispatched(window):
            on_dispatch(window)
            if window.number == self._after:
                ((doomed, pid),) = [(node, pid) for node in self._nodes for pid in actor_pids(node)]
                os.kill(pid, signal.SIGKILL)
                self._made.remove_node(doomed, allow_graceful=False)

        return super().embed(windows, on_dispatch=dispatched, **rest)


def test_an_actor_refuses_another_engine_other_software_and_no_engine(engine):
    setup = {**worker_setup(engine, PREPROCESSING), "software": dict(software())}
    data = Path(engine.path).read_bytes()
    actor = TileEmbedder()
    assert decoded(actor.embed(encode([])))[0] == FAILED
    kind, said = decoded(actor.load(data + b"x", encode(setup)))
    assert kind == FAILED
    assert engine.sha256 in said["message"]
    kind, said = decoded(actor.load(data, encode({**setup, "software": {**software(), "numpy": "0.1"}})))
    assert kind == FAILED
    assert "expected numpy 0.1" in said["message"]
    assert decoded(actor.load(data, encode(setup))) == [FINISHED, None]
    content = picture(1)
    kind, answer = decoded(
        actor.embed(encode([[hashlib.sha256(content).hexdigest(), content], ["00", content]]))
    )
    assert kind == FINISHED
    assert answer["vectors"].shape == (1, DIMENSIONS)
    assert [number for number, *_ in answer["bad"]] == [1]


def test_without_ray_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    config = C10ProvisionerConfig(cache_root=tmp_path / "cache", executor="ray")
    with pytest.raises(RequestError) as told:
        build_cache_provisioner(config)
    assert told.value.hint == "pip install 'c10[ray]'"


@pytest.mark.parametrize(
    "settings", [{"executor": "dask"}, {"executor": 3}, {"ray_address": " "}, {"ray_address": 1}]
)
def test_settings_that_mean_nothing_are_refused(tmp_path, settings):
    with pytest.raises(RequestError, match=next(iter(settings))):
        C10ProvisionerConfig.from_settings(settings, cache_root=tmp_path)


def test_no_work_asks_for_no_cluster(engine):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra `ray`")
    started = time.monotonic()
    assert embed(RayDescriptorBatcher(address="127.0.0.1:1"), [], engine) == []
    assert time.monotonic() - started < 60


def blocks_of(site):
    return sorted(
        (event.zoom, event.cell_x, event.cell_y, event.key, event.block.sha256)
        for event in site.events(CellEmbedded)
    )
