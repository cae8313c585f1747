"""Embedding on a Ray cluster: the same blocks as local workers, lost workers and nodes, unequal nodes."""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.build.report import BuildOutcome
from pipeline.composition import build_cache_provisioner
from pipeline.config import C10ProvisionerConfig
from pipeline.embed.batcher import LocalDescriptorBatcher
from pipeline.embed.cells import plan_windows
from pipeline.embed.ray.actor import TileEmbedder, decode_frame, software
from pipeline.embed.ray.batcher import ATTEMPTS, RayDescriptorBatcher
from pipeline.embed.ray.cluster import (
    ClusterNodes,
    _keep_sigterm_handler,
    actor_options,
    connected,
    living_nodes,
    resource_of,
)
from pipeline.embed.ray.scaling import AdaptiveTimeout
from pipeline.embed.worker_messages import worker_setup
from pipeline.errors import EmbedError, ErrorKind, RequestError
from pipeline.processes.framing import encode
from pipeline.processes.serve import FAILED, FINISHED
from pipeline.testing import FakeTiles
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.tile_columns import TileColumns
from store.cache.view import read_history
from store.domain.event_codec import encode as encode_event
from store.domain.events import BuildFailed, CellEmbedded, StepRetried
from store.policy.retention import KeepPolicy
from store.verify.verify import Depth, verify
from tests.embedding import (
    PREPROCESSING,
    embed,
    picture,
    rows_by_digest,
    windows_of,
    write_engine,
    write_pictures,
)
from tests.small_builds import FakeSite, Site, spread, tree
from tests.toy_networks import DIMENSIONS
from tools.exit_codes import CODES

MARK = "C10_TEST_CLUSTER"

on_ray = [
    pytest.mark.ray,
    pytest.mark.deep,  # a cluster takes seconds to start
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`"),
    # Ray and its children leave resources open that C10 cannot close.
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
    return write_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture
def tiles(tmp_path):
    return write_pictures(tmp_path, 60)


@contextlib.contextmanager
def cluster_of(nodes, monkeypatch):
    """A cluster of nodes with the given resources and a head with none; this process is connected."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv(MARK, str(os.getpid()))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    before = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        added = [cluster.add_node(**each) for each in nodes]
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster, added
    finally:
        ray.shutdown()
        cluster.shutdown()
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def cluster(monkeypatch):
    with cluster_of([{"num_cpus": 1}] * 2, monkeypatch) as made:
        yield made


def processes():
    """Yield each process's number, command, status and environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command, environ = ((folder / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            yield int(folder.name), command, (folder / "status").read_text(), environ


def actor_pids(node=None):
    """Return the actors of clusters that this process started, or those on one node."""
    parent = f"PPid:\t{node.all_processes['raylet'][0].process.pid}\n" if node else ""
    return [
        pid
        for pid, command, status, environ in processes()
        if command[0].startswith(b"ray::TileEmbedder")
        and f"{MARK}={os.getpid()}".encode() in environ
        and parent in status
    ]


def bad_of(results):
    return sorted((bad.sha256, bad.kind) for result in results for bad in result.bad)


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
    assert rows_by_digest(remote) == rows_by_digest(local)
    assert len(rows_by_digest(remote)) == 58
    assert (
        bad_of(remote)
        == bad_of(local)
        == sorted((tiles[number].sha256, ErrorKind.SOURCE_CHANGED) for number in (3, 11))
    )
    assert sum(done) == 60, "those that are bad are done, too"
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
    assert len(rows_by_digest(results)) == 60
    assert [retry.attempt for retry in retries] == [1]
    assert "ActorDiedError" in retries[0].why


@pytest.fixture
def after_sending(monkeypatch):
    """Have something done with the reference of every window, right after it was sent to an actor."""

    def patch(act):
        import ray

        send = ray.actor.ActorHandle._actor_method_call

        def sent(self, method, *rest, **named):
            ref = send(self, method, *rest, **named)
            if method == "embed":
                act(ref)
            return ref

        monkeypatch.setattr(ray.actor.ActorHandle, "_actor_method_call", sent)

    return patch


def all_up(count):
    """Wait until so many actors run and have had time to load their engine."""
    ends = time.monotonic() + 60
    while len(actor_pids()) < count and time.monotonic() < ends:
        time.sleep(0.1)
    time.sleep(2)


def until(done, window, at, *, limit_s=60.0):
    """Yield the same window under new numbers until `done`; `at` has an action for some numbers."""
    ends = time.monotonic() + limit_s
    for number in itertools.count():
        if done() or time.monotonic() > ends:
            return
        at.get(number, lambda: None)()
        yield replace(window, number=number)


def embed_until(windows, engine, **callbacks):
    """Embed them on the cluster; each must come back once, and all with the same rows."""
    batcher = RayDescriptorBatcher(address="auto")
    results = list(batcher.embed(windows, engine=engine, preprocessing=PREPROCESSING, **callbacks))
    numbers = [result.window.number for result in results]
    assert sorted(numbers) == list(range(len(numbers)))
    assert len({result.vectors.tobytes() for result in results}) == 1
    return results


@ray_test
def test_a_node_that_vanishes_while_its_actor_lives_on_costs_its_windows(tiles, engine, cluster):
    made, (_, removals) = cluster
    retries = []
    (window,) = windows_of(tiles[:5], 5)
    vanish = {3: lambda: made.remove_node(removals, allow_graceful=False)}
    embed_until(until(lambda: retries, window, vanish), engine, on_retry=retries.append)
    assert [retry.attempt for retry in retries] == [1]


@ray_test
def test_a_worker_that_hangs_is_ended_and_its_window_embedded_elsewhere(tiles, engine, cluster, monkeypatch):
    monkeypatch.setattr("pipeline.embed.ray.scaling.MIN_LIMIT_S", 2.0)
    stopped, retries, replaced = [], [], []
    (window,) = windows_of(tiles[:5], 5)

    def stop():
        stopped.append(actor_pids()[0])
        os.kill(stopped[0], signal.SIGSTOP)

    def over():
        # The stopped process is gone, and another replaces it.
        if retries and len(actor_pids()) == 2 and stopped[0] not in actor_pids():
            replaced.append(True)
        return replaced

    embed_until(until(over, window, {5: lambda: all_up(2), 20: stop}), engine, on_retry=retries.append)
    assert [(retry.attempt, retry.workers) for retry in retries] == [(1, 1)]
    assert retries[0].why.startswith("no answer within ")
    assert replaced


@ray_test
def test_the_only_worker_hangs_and_is_replaced(tiles, engine, monkeypatch):
    monkeypatch.setattr("pipeline.embed.ray.scaling.MIN_LIMIT_S", 2.0)
    retries = []
    with cluster_of([{"num_cpus": 1}], monkeypatch):

        def stop(window):
            if window.number == 4:
                os.kill(actor_pids()[0], signal.SIGSTOP)

        results = embed(
            RayDescriptorBatcher(address="auto"), tiles, engine, on_dispatch=stop, on_retry=retries.append
        )
        assert len(rows_by_digest(results)) == 60
        assert [(retry.attempt, retry.workers) for retry in retries] == [(1, 0)]


@ray_test
def test_a_node_whose_actor_is_killed_continues_with_half_of_them(tiles, engine, monkeypatch):
    retries, since = [], []
    (window,) = windows_of(tiles[:5], 5)
    with cluster_of([{"num_cpus": 4}], monkeypatch):

        def kill():
            since.append(time.monotonic())
            os.kill(actor_pids()[0], signal.SIGKILL)

        def over():
            # Long enough for a replacement to appear if one were wanted.
            return since and time.monotonic() - since[0] > 6 and left.append(len(actor_pids())) is None

        left = []
        embed_until(until(over, window, {5: lambda: all_up(4), 40: kill}), engine, on_retry=retries.append)
        assert len(retries) == 1
        assert left == [2]


@ray_test
def test_memory_that_runs_out_in_an_actor_costs_a_worker_and_no_tile(tiles, engine, monkeypatch):
    retries = []
    (small,) = windows_of(tiles[:5], 5)
    many = np.tile(np.arange(len(tiles)), 130)
    columns = TileColumns.of(tiles).take(many)
    large = replace(small, units=RetrievalUnits.of_tiles(columns), tiles=columns)
    with cluster_of([{"num_cpus": 2}], monkeypatch):

        def starving():
            for number in range(24):
                if number == 5:
                    all_up(2)
                elif number == 20:
                    resource.prlimit(actor_pids()[0], resource.RLIMIT_AS, (1 << 20, 1 << 20))
                yield replace(small if number < 20 else large, number=number)

        results = list(
            RayDescriptorBatcher(address="auto").embed(
                starving(), engine=engine, preprocessing=PREPROCESSING, on_retry=retries.append
            )
        )
        assert sorted(result.window.number for result in results) == list(range(24))
        assert {len(result.units) for result in results} == {5, 7800}
        assert [(retry.attempt, retry.workers) for retry in retries] == [(1, 1)]


@ray_test
def test_on_a_cluster_without_memory_fewer_workers_are_tried_before_the_build_fails(
    tiles, engine, monkeypatch
):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "50")
    retries = []
    with (
        cluster_of([{"num_cpus": 3}], monkeypatch),
        pytest.raises(EmbedError, match="out of memory: OutOfMemoryError") as caught,
    ):
        embed(RayDescriptorBatcher(address="auto"), tiles, engine, on_retry=retries.append)
    assert caught.value.kind is ErrorKind.WORKER_DIED
    # Twice with one worker fewer, then as often as one worker may fail.
    assert 2 <= len(retries) <= 2 + ATTEMPTS


@ray_test
def test_engines_of_a_gpu_go_to_nodes_that_have_one(tiles, engine, monkeypatch):
    spec = replace(engine, backend="tensorrt")
    nodes = [{"num_cpus": 2}, {"num_cpus": 2, "num_gpus": 2}]
    # It is placed, and then refused because a library is missing, not room.
    refused = pytest.raises(EmbedError, match="RuntimeUnavailableError: an engine of tensorrt")
    with cluster_of(nodes, monkeypatch), refused:
        embed(RayDescriptorBatcher(address="auto"), tiles, spec)
    monkeypatch.setattr("pipeline.embed.ray.actor_pool.ROOM_LIMIT_S", 2.0)
    with cluster_of([{"num_cpus": 2}], monkeypatch), pytest.raises(EmbedError, match="found 0 GPU free"):
        embed(RayDescriptorBatcher(address="auto"), tiles, spec)


@ray_test
def test_an_answer_that_cannot_be_fetched_costs_its_window_and_no_worker(tiles, engine, monkeypatch):
    import ray

    kinds = ray.exceptions
    pending, retries, since, left = [], [], [], []
    (window,) = windows_of(tiles[:5], 5)
    fetched = ray.get

    def get(refs, **named):
        if pending:
            raise pending.pop()
        return fetched(refs, **named)

    faults = {
        20: kinds.GetTimeoutError("the network is slow"),
        40: kinds.ObjectLostError("ab" * 14, None, ""),
        60: kinds.ObjectFetchTimedOutError("ab" * 14, None, ""),
        80: kinds.ActorUnavailableError("a blip", b"x" * 16),
    }

    def over():
        return since and time.monotonic() - since[0] > 8 and left.append(len(actor_pids())) is None

    at = {number: functools.partial(pending.append, error) for number, error in faults.items()}
    at |= {5: lambda: all_up(4), 81: lambda: since.append(time.monotonic())}
    monkeypatch.setattr("ray.get", get)
    with cluster_of([{"num_cpus": 4}], monkeypatch):
        embed_until(until(over, window, at), engine, on_retry=retries.append)
        assert [retry.why.split(":")[:2] for retry in retries] == [
            ["lost", f" {type(error).__name__}"] for error in faults.values()
        ]
        assert left == [4]


@ray_test
def test_a_window_whose_answers_are_lost_too_often_fails_the_build(
    tiles, engine, cluster, monkeypatch, after_sending
):
    import ray

    fetched, asked = ray.get, set()

    def get(ref, **named):
        if ref in asked:
            raise ray.exceptions.ObjectLostError("ab" * 14, None, "")
        return fetched(ref, **named)

    after_sending(asked.add)
    monkeypatch.setattr("ray.get", get)
    with pytest.raises(EmbedError, match="found: lost: ObjectLostError") as caught:
        embed(RayDescriptorBatcher(address="auto"), tiles, engine, size=60)
    assert caught.value.kind is ErrorKind.WORKER_DIED
    assert caught.value.hint.startswith("check the network")


@ray_test
def test_time_outside_of_the_batcher_does_not_count_for_the_timeout(tiles, engine, cluster, monkeypatch):
    recorded, kept_s = [], 5.0
    record = AdaptiveTimeout.record

    def recording(self, tiles, seconds):
        recorded.append(seconds)
        record(self, tiles, seconds)

    monkeypatch.setattr(AdaptiveTimeout, "record", recording)
    batcher = RayDescriptorBatcher(address="auto", workers=1)
    for result in batcher.embed(windows_of(tiles, 5), engine=engine, preprocessing=PREPROCESSING):
        if result.window.number == 3:
            time.sleep(kept_s)
    assert len(recorded) == 12
    assert 0 < max(recorded) < kept_s


@ray_test
@pytest.mark.parametrize("where", ["put", "nodes", "embed"])
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ("ObjectStoreFullError", "embed-failed", "expected room in the object store"),
        ("OutOfDiskError", "disk-full", "expected disk space"),
        ("RaySystemError", "backend-unavailable", "expected a Ray cluster that works"),
    ],
)
def test_an_error_of_ray_itself_fails_the_build_and_says_what_to_do(
    tmp_path, cluster, monkeypatch, after_sending, where, error, kind, said
):
    import ray

    def broken(*_, **__):
        raise getattr(ray.exceptions, error)("no more")

    if where == "embed":
        after_sending(broken)
    else:
        monkeypatch.setattr(f"ray.{where}", broken)
    site = Site(tmp_path)
    site.write_tiles(spread(2, 2))
    config = C10ProvisionerConfig(cache_root=site.cache, executor="ray", ray_address="auto", workers=1)
    report = build_cache_provisioner(config, host={}).build_cache_artifacts(site.request())
    assert report.outcome is BuildOutcome.FAILED
    assert (report.error.kind, report.error.step) == (kind, "cells")
    assert report.error.message.startswith(said)
    assert f"{error}: " in report.error.message
    assert report.error.hint
    assert CODES[report.error.category] == (8 if kind == "disk-full" else 3)


@ray_test
def test_a_window_that_ends_every_worker_fails_the_build(tiles, engine, cluster, after_sending):
    retries = []
    results = RayDescriptorBatcher(address="auto", workers=1).embed(
        windows_of(tiles, 60), engine=engine, preprocessing=PREPROCESSING, on_retry=retries.append
    )
    after_sending(lambda _: os.kill(actor_pids()[0], signal.SIGKILL))
    with pytest.raises(EmbedError) as caught:
        list(results)
    assert caught.value.kind is ErrorKind.WORKER_DIED
    assert len(retries) == ATTEMPTS - 1


@ray_test
def test_a_cluster_without_room_is_reported(tiles, engine, monkeypatch):
    monkeypatch.setattr("pipeline.embed.ray.actor_pool.ROOM_LIMIT_S", 2.0)
    with cluster_of([], monkeypatch), pytest.raises(EmbedError, match="found 0 CPU free"):
        embed(RayDescriptorBatcher(address="auto"), tiles, engine)


@ray_test
def test_an_address_without_a_cluster_is_reported(tiles, engine):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(EmbedError, match=r"expected a Ray cluster at '127\.0\.0\.1:1'") as caught:
        embed(RayDescriptorBatcher(address="127.0.0.1:1"), tiles, engine)
    assert caught.value.kind is ErrorKind.BACKEND_UNAVAILABLE
    assert signal.getsignal(signal.SIGTERM) is handler


@ray_test
@pytest.mark.parametrize("after", [0.3, 1.0])
def test_a_build_that_is_terminated_while_ray_starts_records_it(tmp_path, after):
    site = Site(tmp_path)
    site.write_tiles(spread())
    site.write_request()
    with started(site, "build", "request.toml", "--executor", "ray", "--workers", "1") as build:
        for line in build.stderr:
            if line.startswith("embed: "):
                break
        time.sleep(after)
        build.terminate()
        build.communicate()
    assert build.returncode == 143
    (failed,) = site.events(BuildFailed)
    assert (failed.kind, failed.step) == ("interrupted", "cells")
    assert command(site, "build", "request.toml")["outcome"] == "built"


class InterruptedStart(KeyboardInterrupt):
    """Raised by a signal handler."""


def ray_processes():
    """Return the commands of Ray's child processes of this process."""
    return [
        command[0]
        for _, command, status, _ in processes()
        if f"PPid:\t{os.getpid()}\n" in status and any(b"/ray/" in word for word in command)
    ]


@ray_test
@pytest.mark.parametrize(
    "step",
    [
        "ray._private.services.start_gcs_server",
        "ray._private.services.start_raylet",
        "ray._private.worker.connect",
    ],
)
def test_a_cluster_whose_start_is_interrupted_is_ended(monkeypatch, step):
    import ray

    module, name = step.rsplit(".", 1)
    begun = getattr(importlib.import_module(module), name)
    seen = []

    def interrupted(*given, **named):
        done = begun(*given, **named)
        seen.extend(ray_processes())
        signal.raise_signal(signal.SIGALRM)
        return done

    def handler(*_):
        raise InterruptedStart

    monkeypatch.setattr(step, interrupted)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(InterruptedStart), connected("local", 1):
            pytest.fail("expected the start to be interrupted")
        # Nothing here may end what `connected` has left.
        assert seen
        assert ray_processes() == []
        assert not ray.is_initialized()
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGALRM, before)
    with connected("local", 1):
        assert ray.is_initialized()
    assert ray_processes() == []


def test_a_sigterm_that_a_library_turned_into_an_exit_reaches_our_handler():
    received = []

    def taken():
        with _keep_sigterm_handler():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    def left():
        with _keep_sigterm_handler():
            sys.exit(3)

    before = signal.signal(signal.SIGTERM, lambda *_: received.append("ours"))
    try:
        with pytest.raises(SystemExit):
            taken()
        assert received == ["ours"]
        with pytest.raises(SystemExit):
            left()
        assert received == ["ours"]
    finally:
        signal.signal(signal.SIGTERM, before)


@ray_test
def test_a_build_on_two_nodes_where_one_dies_equals_a_local_build(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr("pipeline.stages.embed.plan_windows", functools.partial(plan_windows, size=2))
    made, nodes = cluster
    far, near = Site(tmp_path / "far"), Site(tmp_path / "near")
    for site in (far, near):
        site.write_tiles(spread())
    batcher = LosesANode(made, nodes)
    report = far.provisioner(descriptor_batcher=batcher).build_cache_artifacts(far.request())
    assert report.outcome is BuildOutcome.BUILT, report.error
    local = near.build()
    # The node had two windows without an answer: it worked on one, the other waited.
    (retried,) = far.events(StepRetried)
    assert retried.subjects
    assert not near.events(StepRetried)
    assert batcher.lost
    assert blocks_of(far) == blocks_of(near)
    assert (report.identity, report.body_sha256) == (local.identity, local.body_sha256)
    assert what_happened(far) == what_happened(near)
    for site in (far, near):
        assert verify(site.layout, depth=Depth.FULL).go
    assert far.build().outcome is near.build().outcome is BuildOutcome.REUSED


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


@ray_test
def test_commands_build_plan_and_repair_on_the_named_cluster(tmp_path, cluster):
    made, _ = cluster
    site = Site(tmp_path)
    site.write_tiles(spread())
    site.write_request()
    there = ("--executor", "ray", "--ray-address", made.address)
    assert command(site, "plan", "request.toml", *there)["to_embed"] == 40
    assert command(site, "build", "request.toml", "--dry-run", *there)["to_embed"] == 40
    assert command(site, "build", "request.toml", *there)["tiles_embedded"] == 40
    assert command(site, "build", "request.toml")["outcome"] == "reused"
    block = site.layout.artifact(site.events(CellEmbedded)[3].block.sha256)
    data = block.read_bytes()
    block.unlink()
    report = command(site, "repair", *there)
    assert report["go"]
    assert block.read_bytes() == data


@ray_test
def test_an_address_without_a_cluster_fails_the_build(tmp_path):
    site = Site(tmp_path)
    site.write_tiles(spread(2, 2))
    site.write_request()
    nowhere = ("--executor", "ray", "--ray-address", "127.0.0.1:1")
    error = command(site, "build", "request.toml", *nowhere, code=3)["error"]
    assert (error["kind"], error["step"]) == ("backend-unavailable", "cells")
    assert "expected a Ray cluster at '127.0.0.1:1'" in error["message"]
    assert command(site, "build", "request.toml")["outcome"] == "built"


class LosesANode(RayDescriptorBatcher):
    """Uses an actor on each of two nodes; one of them stops, gets windows, and is lost with its node."""

    def __init__(self, made, nodes):
        super().__init__(address="auto")
        self._made, self._nodes = made, nodes
        self._doomed = self._pid = None
        self.lost = False

    def embed(self, windows, *, on_dispatch, **rest):
        def dispatched(window):
            on_dispatch(window)
            if window.number == 0:
                # The other actor loads its engine meanwhile and is ready for the next windows.
                all_up(2)
            elif window.number == 6:
                self._doomed = self._nodes[1]
                (self._pid,) = actor_pids(self._doomed)
                os.kill(self._pid, signal.SIGSTOP)
            elif window.number == 12:
                os.kill(self._pid, signal.SIGKILL)
                self._made.remove_node(self._doomed, allow_graceful=False)
                self.lost = True

        return super().embed(windows, on_dispatch=dispatched, **rest)


def test_an_actor_refuses_another_engine_other_software_and_no_engine(engine):
    setup = {**worker_setup(engine, PREPROCESSING), "software": dict(software())}
    data = Path(engine.path).read_bytes()
    actor = TileEmbedder()
    assert decode_frame(actor.embed(encode([])))[0] == FAILED
    kind, said = decode_frame(actor.load(data + b"x", encode(setup)))
    assert kind == FAILED
    assert engine.sha256 in said["message"]
    assert set(software()) == {"c10", "numpy", "pillow", "simplejpeg"}
    for name in software():
        kind, said = decode_frame(
            actor.load(data, encode({**setup, "software": {**software(), name: "0.1"}}))
        )
        assert kind == FAILED
        assert f"expected {name} 0.1" in said["message"]
    assert decode_frame(actor.load(data, encode(setup))) == [FINISHED, None]
    content = picture(1)
    kind, (seconds, answer) = decode_frame(
        actor.embed(
            encode(
                {
                    "tiles": [[1, hashlib.sha256(content).hexdigest(), content], [2, "00", content]],
                    "chunks": None,
                    "tile_edges": [],
                }
            )
        )
    )
    assert kind == FINISHED
    assert seconds > 0
    assert answer["vectors"].shape == (1, DIMENSIONS)
    assert [number for number, *_ in answer["bad_tiles"]] == [1]


@pytest.mark.parametrize(
    ("decoder", "version"), [(None, "none"), (SimpleNamespace(__version__="9.9"), "9.9")]
)
def test_the_fast_decoder_is_part_of_the_software(monkeypatch, decoder, version):
    monkeypatch.setattr("pipeline.tiles.images.decode._FAST_JPEG", decoder)
    assert software()["simplejpeg"] == version


def test_an_actor_asks_for_a_processor_and_for_a_gpu_where_its_engine_needs_one():
    needs = {
        backend: (
            resource_of(backend),
            actor_options(backend)["num_cpus"],
            actor_options(backend)["num_gpus"],
        )
        for backend in ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
    }
    assert needs == {
        "onnxruntime": ("CPU", 1, 0),
        "openvino": ("CPU", 1, 0),
        "tensorrt": ("GPU", 1, 1),
        "tensorrt-rtx": ("GPU", 1, 1),
    }
    # The build decides and records what is tried again; Ray does not retry.
    assert actor_options("tensorrt")["max_restarts"] == actor_options("tensorrt")["max_task_retries"] == 0


def test_room_is_counted_on_living_nodes():
    listed = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}},
        {"NodeID": "b", "Alive": True, "Resources": {"memory": 1.0}},
        {"NodeID": "c", "Alive": True, "Resources": {"CPU": 2.0}},
        {"NodeID": "d", "Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0}},
    ]
    assert living_nodes(listed, "CPU") == ClusterNodes(alive=frozenset("abc"), room=6)
    assert living_nodes(listed, "GPU") == ClusterNodes(alive=frozenset("abc"), room=2)


@pytest.fixture
def without_ray(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest)
    )


def test_without_ray_commands_that_embed_are_refused_before_they_change_anything(without_ray, tmp_path):
    site = FakeSite(tmp_path)
    site.build()
    before = tree(site.cache)
    config = C10ProvisionerConfig(cache_root=site.cache, executor="ray")
    asked = build_cache_provisioner(
        config, engine_compiler=site.compiler, tile_metadata_store=FakeTiles(tiles=site.tiles)
    )
    for embeds in (
        lambda: asked.build_cache_artifacts(site.request()),
        lambda: asked.plan(site.request()),
        lambda: asked.repair(dry_run=True),
        asked.repair,
    ):
        with pytest.raises(RequestError, match="expected the package ray for 'ray', found none") as caught:
            embeds()
        assert caught.value.hint == "pip install 'c10[ray]', or choose the executor 'local'"
    assert tree(site.cache) == before


def test_without_ray_commands_that_embed_nothing_work(without_ray, tmp_path):
    site = FakeSite(tmp_path)
    site.build()
    config = C10ProvisionerConfig(cache_root=site.cache, executor="ray")
    asked = build_cache_provisioner(config, engine_compiler=site.compiler)
    assert asked.compile_engines_for_corpus(site.request()).error is None
    assert asked.rollback(to=1).changed is False
    assert asked.collect(KeepPolicy()).done is False
    _, report = asked.rebuild()
    assert report.go


def test_the_executor_is_not_in_the_identity(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.embed.ray.batcher.require_ray", lambda: None)
    site = FakeSite(tmp_path)
    identities = {
        build_cache_provisioner(
            C10ProvisionerConfig(cache_root=site.cache, **settings),
            engine_compiler=site.compiler,
            tile_metadata_store=FakeTiles(tiles=site.tiles),
        )
        .plan(site.request())
        .identity
        for settings in (
            {},
            {"workers": 3},
            {"executor": "ray"},
            {"executor": "ray", "ray_address": "10.0.0.1:6379", "workers": 200},
        )
    }
    assert len(identities) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"executor": "dask"},
        {"executor": 3},
        *(
            {"ray_address": wrong}
            for wrong in (
                " ",
                1,
                "head",
                ":6379",
                "head:",
                "head:x",
                "head:0",
                "head:65536",
                "ray://head:10001",
            )
        ),
    ],
)
def test_invalid_settings_are_refused(tmp_path, settings):
    with pytest.raises(RequestError, match=next(iter(settings))):
        C10ProvisionerConfig.from_settings(settings, cache_root=tmp_path)


@pytest.mark.parametrize("address", ["local", "auto", "head:6379", "10.0.0.1:65535", "[::1]:6379"])
def test_addresses_of_clusters(tmp_path, address):
    assert C10ProvisionerConfig(cache_root=tmp_path, ray_address=address).ray_address == address


def test_without_windows_no_cluster_is_needed(engine):
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


UNEQUAL = {"elapsed_ms", "cache_id", "host", "manifest_sha256", "version"}
"""Fields of events that no two caches or runs have in common."""


def what_happened(site):
    """Return every event of a site but retries, as plain data, sorted."""
    found = []
    for fact in read_history(site.layout).facts:
        if isinstance(fact.event, StepRetried):
            continue
        tag, _, payload = encode_event(fact.event)
        found.append((tag, repr(sorted((k, v) for k, v in payload.items() if k not in UNEQUAL))))
    return sorted(found)


def started(site, name, *rest):
    """Start a command in a process of its own, which prints a line of JSON."""
    return subprocess.Popen(
        [sys.executable, "-m", "tools.cli", name, *rest, "--cache", str(site.cache), "--json"],
        cwd=site.root,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[4])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(site, name, *rest, code=0):
    """Run a command and return its line of JSON."""
    with started(site, name, *rest) as running:
        output, errors = running.communicate()
    assert running.returncode == code, errors
    return json.loads(output)
