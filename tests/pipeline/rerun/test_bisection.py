"""The search for the one tile that ends every worker."""

from math import ceil, log2

from hypothesis import given
from hypothesis import strategies as st

from pipeline.rerun.bisection import bisect

SIZES = st.integers(1, 700)


class Portions:
    """Tries parts and records them."""

    def __init__(self, deadly):
        self.deadly = deadly
        self.tried = []

    def __call__(self, portion):
        self.tried.append(tuple(portion))
        return self.deadly(set(portion))


@given(SIZES, st.data())
def test_one_culprit_is_found_and_proved(count, data):
    culprit = data.draw(st.integers(0, count - 1))
    portions = Portions(lambda portion: culprit in portion)
    found = bisect(range(count), portions)
    assert (found.culprit, found.smallest) == (culprit, (culprit,))
    assert found.runs == len(portions.tried) <= ceil(log2(count)) + 1
    assert (culprit,) in portions.tried


def test_a_window_of_256_takes_nine_runs_at_most():
    runs = [bisect(range(256), lambda portion, bad=bad: bad in portion).runs for bad in range(256)]
    assert max(runs) == 9


@given(SIZES)
def test_nobody_is_blamed_where_nothing_happens(count):
    portions = Portions(lambda _: False)
    found = bisect(range(count), portions)
    assert (found.culprit, found.smallest) == (None, ())
    assert tuple(range(count)) in portions.tried


@given(st.integers(2, 300), st.data())
def test_where_only_several_together_do_it_they_are_suspects(count, data):
    pair = data.draw(st.sets(st.integers(0, count - 1), min_size=2, max_size=2))
    found = bisect(range(count), lambda portion: pair <= set(portion))
    assert found.culprit is None
    assert pair <= set(found.smallest)


@given(SIZES, st.data())
def test_of_several_culprits_one_is_found(count, data):
    culprits = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=4))
    found = bisect(range(count), lambda portion: bool(culprits & set(portion)))
    assert found.culprit in culprits
