"""Time limits of windows, and the number of workers."""

from pipeline.embed.ray.scaling import (
    FIRST_TILE_S,
    MIN_LIMIT_S,
    MIN_TILES,
    SLOWDOWN,
    AdaptiveTimeout,
    WorkerScaling,
)


def test_until_a_window_is_done_each_tile_may_take_seconds():
    assert AdaptiveTimeout().limit_s(256) == 256 * FIRST_TILE_S > MIN_LIMIT_S
    assert AdaptiveTimeout().limit_s(1) == MIN_TILES * FIRST_TILE_S


def test_the_slowest_window_so_far_sets_the_limit_by_its_tiles():
    timeout = AdaptiveTimeout()
    timeout.record(256, 256.0)
    timeout.record(256, 25.0)
    assert timeout.limit_s(256) == SLOWDOWN * 256.0
    assert timeout.limit_s(512) == SLOWDOWN * 512.0


def test_no_limit_is_below_the_least_one():
    timeout = AdaptiveTimeout()
    timeout.record(256, 0.2)
    assert timeout.limit_s(256) == MIN_LIMIT_S


def test_a_small_window_that_was_slow_says_little_about_a_large_one():
    timeout = AdaptiveTimeout()
    timeout.record(1, 32.0)
    assert timeout.limit_s(256) == SLOWDOWN * 256.0


def test_a_node_without_memory_continues_with_half_of_its_workers():
    scaling = WorkerScaling(16)
    assert not scaling.is_reduced
    assert scaling.reduce_node("a", 8) == 4
    assert scaling.is_reduced
    assert scaling.wanted(alive={"a", "b"}, room=16) == 12
    assert scaling.reduce_node("a", 4) == 2
    assert scaling.reduce_node("b", 3) == 1
    assert scaling.wanted(alive={"a", "b"}, room=16) == 8


def test_a_node_keeps_its_only_worker():
    scaling = WorkerScaling(2)
    assert scaling.reduce_node("a", 1) == 1
    assert not scaling.is_reduced
    assert scaling.wanted(alive={"a", "b"}, room=2) == 2


def test_a_worker_that_waits_for_room_does_not_take_a_freed_place():
    scaling = WorkerScaling(10)
    assert scaling.wanted(alive={"a"}, room=4) == 10
    scaling.reduce_node("a", 4)
    assert scaling.wanted(alive={"a"}, room=4) == 2


def test_a_node_that_is_gone_no_longer_counts():
    scaling = WorkerScaling(8)
    scaling.reduce_node("a", 4)
    assert scaling.wanted(alive={"b"}, room=4) == 8
    assert not scaling.is_reduced
    assert scaling.wanted(alive={"a", "b"}, room=8) == 8


def test_at_least_one_worker_is_wanted():
    scaling = WorkerScaling(4)
    scaling.reduce_node("a", 4)
    assert scaling.wanted(alive={"a"}, room=1) == 1


def test_memory_that_ran_out_on_an_unknown_node_costs_one_worker_but_not_the_last():
    scaling = WorkerScaling(3)
    assert [scaling.reduce() for _ in range(3)] == [True, True, False]
    assert scaling.wanted(alive={"a"}, room=4) == 1
