"""Items that a thread computes before they are asked for."""

import threading
from itertools import count, islice

import pytest

from pipeline.processes.run_ahead import MOST_ITEMS, run_ahead
from store.errors import CacheUnusableError


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "run-ahead"]


def test_all_items_come_in_their_order():
    assert list(run_ahead(range(1000))) == list(range(1000))
    assert list(run_ahead([])) == []
    assert not threads()


def test_the_thread_is_ahead_by_as_many_items_as_it_says():
    begun, reached = [], threading.Event()

    def items():
        for number in count():
            begun.append(number)
            if number == 4 + MOST_ITEMS - 1:
                reached.set()
            yield number

    ahead = run_ahead(items())
    assert list(islice(ahead, 5)) == [0, 1, 2, 3, 4]
    # The item 4 is in use: two more exist, and not a third.
    assert reached.wait(10)
    assert not threads()[0].join(0.1)
    assert len(begun) == 4 + MOST_ITEMS
    ahead.close()
    assert not threads()


@pytest.mark.parametrize("error", [ValueError("a bad item"), MemoryError(), KeyboardInterrupt()])
def test_an_error_is_raised_in_its_place(error):
    def items():
        yield 1
        yield 2
        raise error

    ahead = run_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(type(error)) as caught:
        next(ahead)
    assert caught.value is error
    assert not threads()


def test_closing_early_ends_a_thread_that_waits_for_room():
    for taken in range(4):
        ahead = run_ahead(range(3))
        assert list(islice(ahead, taken)) == list(range(min(taken, 3)))
        ahead.close()
        assert not threads()


def test_a_process_without_threads_says_so(monkeypatch):
    def full(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    with pytest.raises(CacheUnusableError, match="can't start new thread"):
        next(run_ahead([1]))
