"""Every step is one function, which build, repair, rerun and `c10 engines` all run.

The test replaces the body of the function, and so for every caller. A second implementation of the step would
still work.
"""

import inspect

import pytest

from pipeline.errors import CompileError, EmbedError, ErrorKind
from pipeline.request.options import CoverageOptions, IndexKind, IndexOptions
from pipeline.stages.checks import check_index
from pipeline.stages.embed import embed_windows
from pipeline.stages.engines.check_engine import check_engine
from pipeline.stages.engines.compile import compile_network
from pipeline.stages.extend_index import extend_index
from pipeline.stages.index import write_index
from pipeline.stages.survey import survey_selection
from pipeline.testing import Calls, FakeCompiler, FakeIndexBuilder, raising
from store.domain.events import IndexExtended
from store.domain.index_files import delta_of, whole_of
from store.formats.tables import decode_blocks
from tests.forensics import plants
from tests.forensics.plants import Machine
from tests.small_builds import DIMENSIONS, words
from tools.analysis.rerun import run_again
from tools.forensics.sources import from_cache

REPLACED = "the one function of this step"


def replaced(*_values, **_ports):
    # Not `REPLACED`: the body runs with the globals of the module that it is put into.
    raise RuntimeError("the one function of this step")


def replaced_rows(*_values, **_ports):
    raise RuntimeError("the one function of this step")
    yield


@pytest.fixture
def replace_step(monkeypatch):
    def replace(step):
        other = replaced_rows if inspect.isgeneratorfunction(step) else replaced
        monkeypatch.setattr(step, "__code__", other.__code__)

    return replace


def compiler_fails(machine):
    storm = CompileError("expected calm, found a storm", hint="wait", kind=ErrorKind.COMPILE_CRASHED)
    calls = Calls(faults={"compile place": raising(storm)})
    machine.with_tiles().fail(ports={"engine_compiler": FakeCompiler(calls=calls, dimensions=DIMENSIONS)})


def engine_disagrees(machine):
    compiler = FakeCompiler(calls=Calls(), dimensions=DIMENSIONS)
    compiler.instead["place"] = machine.write("wrong.onnx", plants.tiny_network(seed=9))
    machine.with_tiles().fail(ports={"engine_compiler": compiler})


def index_fails(machine):
    storm = EmbedError("expected calm, found a storm", hint="wait", kind=ErrorKind.INDEX_FAILED)
    builder = FakeIndexBuilder(calls=Calls(faults={"index": raising(storm)}))
    machine.with_tiles().fail(ports={"index_builder": builder})


def index_finds_nothing(machine):
    machine.with_tiles().fail(ports={"index_builder": FakeIndexBuilder(calls=Calls(), wrong=True)})


def area_is_too_empty(machine):
    machine.with_tiles().fail(coverage=CoverageOptions(min_fraction=0.9))


FAILURES = {
    compile_network: compiler_fails,
    embed_windows: plants.corrupt_tile,
    write_index: index_fails,
    survey_selection: area_is_too_empty,
    check_engine: engine_disagrees,
    check_index: index_finds_nothing,
}
"""Each step to a function that makes a build fail at it."""


def name_of(step):
    return step.__name__


@pytest.mark.parametrize("step", FAILURES, ids=name_of)
def test_a_build_and_a_rerun_run_the_same_function(step, site, tmp_path, replace_step):
    machine = Machine(tmp_path / "machine")
    FAILURES[step](machine)
    replace_step(step)
    assert REPLACED in site.build().error.message
    with pytest.raises(RuntimeError, match=REPLACED):
        run_again(from_cache(machine.layout), 1)


@pytest.mark.parametrize("step", [compile_network, check_engine], ids=name_of)
def test_an_engine_run_runs_the_function_of_a_build(step, site, replace_step):
    replace_step(step)
    with pytest.raises(RuntimeError, match=REPLACED):
        site.provisioner().compile_engines_for_corpus(site.request())


def extended(site):
    """Build twice: the second time one tile has changed, and the index is extended."""
    options = IndexOptions(kind=IndexKind.HNSW)
    assert site.build(index=options).error is None
    site.tiles[6, 0, 0] = words("changed")
    return site.build(index=options, flight_id="f2")


@pytest.fixture
def large(site, monkeypatch):
    """The site, with indexes that count as large from eight rows on."""
    monkeypatch.setattr("pipeline.index.plan.FLAT_BELOW", 8)
    return site


def artifacts(site):
    """Return the artifact of each step of the newest build."""
    build = site.state().head_build
    return {
        compile_network: dict(build.engines)["place"].artifact,
        embed_windows: decode_blocks(site.artifact(build.index.blocks).read_bytes())[0].ref,
        write_index: whole_of(build.index),
        extend_index: delta_of(build.index),
        survey_selection: build.coverage.geography,
    }


@pytest.mark.parametrize(
    "step", [compile_network, embed_windows, write_index, extend_index, survey_selection], ids=name_of
)
def test_a_repair_runs_the_function_of_a_build(step, large, replace_step):
    assert extended(large).error is None
    large.artifact(artifacts(large)[step]).unlink()
    replace_step(step)
    with pytest.raises(RuntimeError, match=REPLACED):
        large.provisioner().repair()


def test_a_build_extends_an_index_with_that_function(large, replace_step):
    replace_step(extend_index)
    assert REPLACED in extended(large).error.message
    assert not large.events(IndexExtended)
