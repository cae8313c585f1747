"""Phases within phases become one progress number."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.backends.tensorrt_progress import BuildPhases

NAMES = ["a", "b", "c", "d"]
CALLS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(NAMES), st.sampled_from([None, *NAMES]), st.integers(0, 9)),
    st.tuples(st.just("step"), st.sampled_from(NAMES), st.integers(0, 9)),
    st.tuples(st.just("finish"), st.sampled_from(NAMES)),
)


def test_steps_of_an_inner_phase_count_within_the_step_of_the_outer_one():
    phases = BuildPhases()
    phases.start("build", None, 4)
    phases.step("build", 0)
    assert phases.part == 0.25
    phases.start("tune", "build", 10)
    phases.step("tune", 4)
    assert phases.part == 0.375
    assert phases.name == "tune"
    phases.finish("tune")
    assert 0.375 < phases.part < 0.5
    phases.step("build", 1)
    assert phases.part == 0.5
    for step in (2, 3):
        phases.step("build", step)
    phases.finish("build")
    assert phases.part >= 0.99


def test_a_name_may_be_used_again_and_an_unknown_one_is_ignored():
    phases = BuildPhases()
    phases.start("build", None, 2)
    for _ in range(3):
        phases.start("copy", "build", 1)
        phases.step("copy", 0)
        phases.finish("copy")
    phases.step("unheard of", 3)
    phases.finish("unheard of")
    assert 0 < phases.part < 0.5


@given(st.lists(CALLS, max_size=60))
def test_the_part_never_falls_and_stays_a_part(calls):
    phases = BuildPhases()
    before = 0.0
    for name, *values in calls:
        getattr(phases, name)(*values)
        assert before <= phases.part <= 1.0
        before = phases.part
