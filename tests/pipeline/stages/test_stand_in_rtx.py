"""A real cache for another device: TensorRT for RTX compiles without a GPU, and ONNX Runtime embeds."""

import pytest

from pipeline.build.report import BuildOutcome
from pipeline.request.options import EngineOptions
from store.domain.events import EngineCompiled
from store.domain.state import FLIGHT, STAND_IN
from store.errors import IncompatibleDeviceError
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.backends.gpu import gpus
from store.verify.report import Depth
from store.verify.verify import verify
from tests.cache_facts import warnings_of
from tests.small_builds import picture, spread
from tools.commands.query import read_image, search

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'c10[rtx]'")
pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(bool(gpus()), reason="a GPU is here, which runs the engine itself"),
]
RTX = {"backend": "tensorrt-rtx"}


@pytest.fixture
def site(real_site):
    real_site.write_tiles(spread(content=picture))
    return real_site


def built(site, **options):
    report = site.build(engine=EngineOptions(**RTX, **options))
    assert report.error is None, report.error
    return report


def test_a_build_from_request_to_query(site):
    first = built(site)
    assert (first.outcome, first.engines_compiled, first.tiles_embedded) == (BuildOutcome.BUILT, 1, 40)
    assert built(site).outcome is BuildOutcome.REUSED
    # Each option gives another engine for the other device; the stand-in stays the same.
    for options in ({"precision": "fp16"}, {"precision": "bf16"}, {"target": "sm86"}, {"tf32": True}):
        report = built(site, **options)
        assert (report.outcome, report.engines_compiled, report.tiles_embedded) == (BuildOutcome.BUILT, 1, 0)
    purposes = [event.purpose for event in site.events(EngineCompiled)]
    assert purposes == [FLIGHT, STAND_IN, *[FLIGHT] * 4]
    found = verify(site.layout, depth=Depth.FULL)
    assert found.problems == ()
    assert "other-device" in dict(warnings_of(found))
    with pytest.raises(IncompatibleDeviceError):
        FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED)
    hits = search(site.cache, read_image(site.root / "tiles/6/8/12.png"), top=1)
    assert [(hit["z"], hit["x"], hit["y"]) for hit in hits] == [(6, 8, 12)]
    assert hits[0]["score"] > 0.9999
    # A build for this machine uses the stand-in as its engine and keeps every descriptor.
    report = site.build()
    assert (report.outcome, report.engines_compiled, report.tiles_embedded) == (BuildOutcome.BUILT, 0, 0)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        cache.engine("place")
