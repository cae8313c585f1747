"""A plan tells how long the build takes: from earlier builds here, or from a measured second."""

import time

import pytest

from pipeline.build import measure
from pipeline.build.host_facts import host_facts
from pipeline.build.measure import Meter, NotMeasurableError, _EnoughError
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.errors import CompileError
from tests.small_builds import ZOOM, Site, picture, tree


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def meter_of(*reports):
    """What a meter makes of (seconds, units) since the start."""
    clock = Clock()
    meter = Meter(clock=clock)
    meter.start()
    try:
        for when, amount in reports:
            clock.now = when
            meter.advance(amount)
    except _EnoughError:
        pass
    return meter


def test_the_start_of_the_workers_is_told_from_their_pace():
    """Two seconds until the first 10 units, then 100 a second."""
    found = meter_of((2.0, 10), *((2.0 + 0.1 * k, 10) for k in range(1, 20))).result(0.5, 1.0)
    assert found.rate == pytest.approx(100)
    assert found.start_s == pytest.approx(1.9)
    assert found.compile_s == 0.5
    assert found.seconds(1000) == pytest.approx(11.9)


def test_it_ends_a_second_after_the_first_units():
    meter = meter_of((5.0, 1), *((5.0 + 0.3 * k, 1) for k in range(1, 20)))
    assert meter.last == pytest.approx(6.2)


def test_workers_that_were_not_started_count_by_scale():
    assert meter_of((1.0, 10), (1.5, 50)).result(None, 4.0).rate == pytest.approx(400)


def test_all_in_one_go_takes_as_long_as_it_took():
    found = meter_of((2.0, 30)).result(None, 1.0)
    assert found.seconds(30) == pytest.approx(2.0)


def test_nothing_done_is_nothing_measured():
    with pytest.raises(NotMeasurableError):
        Meter().result(None, 1.0)


@pytest.fixture
def here(real_site, real_workers):
    """A site that knows its machine; what is measured are the workers of a build."""
    own = real_site.provisioner

    def provisioner(**ports):
        return own(**({"host": host_facts(), "workers": 2} | ports))

    real_site.provisioner = provisioner
    real_site.write_tiles({(ZOOM, x, y): picture(10 * x + y) for x in range(8) for y in range(4)})
    return real_site


def told(plan):
    return {each["step"]: each for each in plan.time}


def test_a_first_plan_is_measured_and_writes_nothing(here):
    before = tree(here.root)
    plan = here.provisioner().plan(here.request(), measure=True)
    assert {step: each["basis"] for step, each in told(plan).items()} == {
        "compile": "measured now",
        "embed": "measured now",
        "index": "measured now",
    }
    assert 0 < plan.seconds == pytest.approx(sum(each["seconds"] for each in plan.time), abs=0.2)
    assert tree(here.root) == before


def test_nothing_is_measured_unless_it_is_asked_for(here, monkeypatch):
    monkeypatch.setattr(measure, "measure_embedding", None)
    plan = here.provisioner().plan(here.request())
    assert plan.seconds is None
    assert {each["basis"] for each in plan.time} == {None}
    assert all(each["why"] for each in plan.time)


def test_a_later_plan_follows_from_the_build_and_measures_nothing(here, monkeypatch):
    assert here.build().error is None
    monkeypatch.setattr(measure, "measure_embedding", None)
    here.write_tiles({(ZOOM, 0, 0): picture(99)})
    plan = here.provisioner().plan(here.request(), measure=True)
    assert {step: each["basis"] for step, each in told(plan).items()} == {
        "embed": "build 1",
        "index": "build 1",
    }
    for other in ({"workers": 3}, {"host": host_facts() | {"host": "elsewhere"}}):
        elsewhere = here.provisioner(**other).plan(here.request())
        assert told(elsewhere)["embed"]["basis"] is None


def test_a_known_engine_is_measured_without_a_compile(here, monkeypatch):
    assert here.provisioner().compile_engines_for_corpus(here.request()).engines
    monkeypatch.setattr(measure, "_compiled", None)
    plan = here.provisioner().plan(here.request(), measure=True)
    assert set(told(plan)) == {"embed", "index"}
    assert told(plan)["embed"]["basis"] == "measured now"


class Minutes(OnnxRuntimeCompiler):
    """A backend whose compiler needs longer than a plan waits."""

    limits = ()

    def compile(self, job, *, scratch, on_progress=None):
        self.limits += (job.timeout_s,)
        raise CompileError(f"expected an engine within {job.timeout_s:.0f} s, found none", hint="wait")


class OtherBackend(OnnxRuntimeCompiler):
    backend = "tensorrt"


@pytest.mark.parametrize(
    ("compiler", "why"), [(Minutes(), "not compiled in 3 s"), (OtherBackend(), "tensorrt are not tried out")]
)
def test_a_network_that_compiles_for_minutes_is_not_run_and_it_says_so(here, compiler, why, monkeypatch):
    monkeypatch.setattr(measure, "LocalDescriptorBatcher", None)
    began = time.monotonic()
    plan = here.provisioner(engine_compiler=compiler).plan(here.request(), measure=True)
    assert time.monotonic() - began < 10
    assert plan.seconds is None
    assert why in told(plan)["embed"]["why"]
    assert told(plan)["index"]["basis"] == "measured now"


def test_a_network_whose_first_batch_takes_too_long_is_given_up(here, tmp_path, monkeypatch):
    (tmp_path / "stuck_worker.py").write_text(
        "import time\n"
        "from pipeline.embed import worker\n"
        "from pipeline.processes.serve import serve\n"
        "worker.Embedder.describe = lambda *_: time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    serve(worker.start)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pipeline.embed.batcher.WORKER", "stuck_worker")
    monkeypatch.setattr(measure, "LIMIT_S", 1.0)
    plan = here.provisioner().plan(here.request(), measure=True)
    assert "no answer within 1 s" in told(plan)["embed"]["why"]


def test_a_plan_for_anywhere_looks_at_no_folder(tmp_path):
    site = Site(tmp_path, cache="/dev/null")
    site.write_tiles({(ZOOM, 0, 0): picture(1), (ZOOM, 1, 0): picture(2)})
    assert site.provisioner().plan(site.request(), anywhere=True).to_embed == 2
