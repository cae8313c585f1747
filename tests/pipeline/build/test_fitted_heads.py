"""Heads that are fitted on the area: when they are fitted, kept and lost, and what a request may not ask."""

import json
import shutil

import pytest
from click.testing import CliRunner

from pipeline.build.report import BuildOutcome
from pipeline.errors import CompileError, RequestError
from pipeline.request.options import ModelRole, ModelSpec
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import to_toml
from pipeline.testing import Calls, FakeCompiler, RecordingProgress
from store.disk.artifacts import Artifacts
from store.domain.attachments import GOLDEN, NETWORK, attached
from store.domain.events import EngineCompiled
from store.domain.maintenance_events import Repaired
from store.manifest.manifest import parse
from store.policy.retention import KeepPolicy
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.testing import FakeClock
from store.transfer.export import export
from store.transfer.import_bundle import import_bundle
from store.trust.key_files import write_key_pair
from store.verify.verify import Depth, verify
from tests.ground import GROUND, PIXEL_M, ROW, GroundSite, chunk_middle, frame_at, picture_of
from tests.small_builds import local_network, tiny_network, tree
from tools.cli import cli

pytestmark = pytest.mark.deep

HEAD = {"kind": "vlad", "words": 8, "dimensions": 32}
ANEW = HEAD | {"fit": "anew"}
OTHER_TILE = (6, 5)
"""A tile of the ground that the tests change; it lies under chunks of the sample."""


class HeadSite(GroundSite):
    """A site whose network gives local features, and whose requests put a head on it."""

    def __init__(self, root, **options):
        super().__init__(root, **options)
        self.write("net.onnx", local_network())

    def request(self, *, head=HEAD, **fields):
        return super().request(**{"model": {} if head is None else {"head": head}} | fields)

    def made(self, **fields):
        report = self.build(**fields)
        assert report.outcome is BuildOutcome.BUILT, report.error
        return report

    def change_tile(self, seed=1):
        self.write_ground(picture_of(seed), [OTHER_TILE])

    @property
    def engine(self):
        """The engine of the build that is shown."""
        return dict(self.state().head_build.engines)["place"]

    @property
    def manifest(self):
        return parse(self.head_bytes())

    @property
    def network(self):
        """The file of network and head of the build that is shown."""
        return attached(self.engine)[NETWORK]

    def lose_network(self):
        path = self.artifact(self.network)
        path.chmod(0o644)
        path.unlink()

    def damage_network(self):
        path = self.artifact(self.network)
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.fixture
def site(tmp_path):
    return HeadSite(tmp_path / "site")


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    made = HeadSite(tmp_path_factory.mktemp("built") / "site")
    made.made()
    return made


@pytest.fixture
def built(built_once, tmp_path):
    """A copy of a site with one generation."""
    shutil.copytree(built_once.root, tmp_path / "built", copy_function=shutil.copy2)
    return HeadSite(tmp_path / "built")


def run(site, *words, code=0):
    found = CliRunner().invoke(cli, [*words, "--cache", str(site.cache)])
    assert found.exit_code == code, found.output
    return found


def test_a_cache_with_a_head_is_a_cache_like_any_other(built):
    (event,) = built.events(EngineCompiled)
    assert event.signature["dimensions"] == 32
    assert event.components["onnx"] == built.network.sha256 != event.components["head"]["network"]
    assert Artifacts(built.layout).damage(built.network) is None
    assert json.loads(built.head_bytes())["format"] == 3, "for its chunks"
    assert built.network.sha256 not in {ref.sha256 for _, ref in built.manifest.artifacts()}
    assert verify(built.layout, depth=Depth.FULL).problems == ()
    with FlightCache.open(built.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        answer = cache.locate(frame_at(*chunk_middle(9, 7)), metres_per_pixel=PIXEL_M, heading_deg=0.0)
    assert answer.candidates[0].score > 0.9
    assert built.build().outcome is BuildOutcome.REUSED


def test_the_same_request_has_the_same_identity_and_bytes_in_another_cache(built, tmp_path):
    other = HeadSite(tmp_path / "other")
    assert other.made().identity == built.state().head_build.identity
    assert (other.network, other.engine.artifact) == (built.network, built.engine.artifact)


def test_a_later_build_keeps_the_head(built):
    before = built.engine
    built.change_tile()
    assert built.provisioner().plan(built.request()).to_embed == 25
    report = built.made()
    assert (report.chunks_embedded, report.chunks_copied, report.engines_compiled) == (25, 264, 0)
    assert built.engine == before


def test_asked_anew_it_is_fitted_where_the_sample_has_changed(built):
    assert built.build(head=ANEW).outcome is BuildOutcome.REUSED
    before = built.engine
    built.change_tile()
    report = built.made(head=ANEW)
    assert (report.chunks_embedded, report.engines_compiled) == (289, 1)
    sample, network = before.components["head"]["sample"], before.components["head"]["network"]
    assert built.engine.components["head"]["sample"] != sample
    assert built.engine.components["head"]["network"] == network
    assert built.network != attached(before)[NETWORK]
    assert built.build(head=ANEW).outcome is BuildOutcome.REUSED
    assert built.build().outcome is BuildOutcome.REUSED, "and from then on that one is kept"
    text = run(built, "why", "engine/place").stdout
    assert "head.sample" in text
    assert "head.words" not in text
    assert "network of engine place" in run(built, "why", built.network.sha256[:12]).stdout


@pytest.mark.parametrize("change", [{"words": 9}, {"dimensions": 31}])
def test_another_head_is_fitted(built, change):
    report = built.made(head=HEAD | change)
    assert (report.chunks_embedded, report.engines_compiled) == (289, 1)
    (name,) = change
    assert f"changed: head.{name}, onnx" in run(built, "why", "engine/place").stdout
    back = built.made()
    assert (back.chunks_embedded, back.engines_compiled) == (0, 0), "the first head is still there"


def test_other_pictures_for_the_network_are_another_head(built):
    built.made(model={"head": HEAD, "std": (2.0, 2.0, 2.0)})
    assert built.engine.components["head"]["preprocessing"]["std"] == ["2.0", "2.0", "2.0"]


def test_after_a_rollback_the_head_that_is_shown_again_is_kept(built):
    first = built.network
    built.change_tile()
    built.made(head=ANEW)
    second = built.network
    built.provisioner().rollback()
    built.change_tile(seed=2)
    assert built.made().engines_compiled == 0
    assert built.network == first != second


def test_collection_keeps_the_file_as_long_as_a_generation_with_its_engine(built):
    first = built.network
    built.change_tile()
    built.made(head=ANEW)
    second = built.network
    artifacts = Artifacts(built.layout)
    built.provisioner().collect(KeepPolicy(keep=2), dry_run=False)
    assert artifacts.present(first)
    assert artifacts.present(second)
    built.made(flight_id="f2")
    built.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
    assert artifacts.present(second)
    built.made(flight_id="f3")
    built.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
    assert not artifacts.present(first)
    assert verify(built.layout, depth=Depth.FULL).problems == ()


def test_a_plan_knows_the_identity_and_writes_nothing(site, built):
    assert site.provisioner().plan(site.request()).identity == built.state().head_build.identity
    assert not site.cache.exists()
    before = tree(built.cache)
    built.change_tile()
    plan = built.provisioner().plan(built.request(head=ANEW))
    assert tree(built.cache) == before
    assert built.made(head=ANEW).identity == plan.identity


@pytest.mark.parametrize("harm", ["lose_network", "damage_network"])
def test_a_lost_file_is_warned_of_and_repaired(built, harm):
    lost, before = built.network, built.head_bytes()
    getattr(built, harm)()
    report = verify(built.layout, depth=Depth.FULL)
    assert report.problems == ()
    (said,) = [each for each in report.warnings if each.kind == "fitted-network-damaged"]
    assert "network with fitted head place" in said.message
    assert "c10 repair" in said.hint
    report = built.provisioner().repair()
    assert [(action.what, action.ok) for action in report.actions] == [
        ("network with fitted head place", True)
    ]
    assert [event.sha256 for event in built.events(Repaired)] == [lost.sha256]
    assert Artifacts(built.layout).damage(lost) is None
    assert built.head_bytes() == before
    assert verify(built.layout, depth=Depth.FULL).warnings == ()


def test_a_lost_file_is_not_repaired_from_other_tiles(site):
    site.made()
    site.lose_network()
    site.change_tile()
    (action,) = site.provisioner().repair().actions
    assert not action.ok
    assert "head.sample" in action.action


def test_file_and_engine_lost_together_are_made_again_from_the_recorded_inputs(built):
    engine = built.engine.artifact
    built.damage_network()
    built.artifact(engine).chmod(0o644)
    built.artifact(engine).write_bytes(b"x" * engine.size)
    assert all(action.ok for action in built.provisioner().repair().actions)
    assert verify(built.layout, depth=Depth.FULL).problems == ()


def test_a_lost_engine_is_compiled_from_the_kept_file_whatever_the_tiles_are_now(site):
    site.made(head=ANEW)
    engine = site.engine.artifact
    site.artifact(engine).chmod(0o644)
    site.artifact(engine).write_bytes(b"x" * engine.size)
    site.change_tile()
    assert [action.ok for action in site.provisioner().repair().actions] == [True]
    assert verify(site.layout, depth=Depth.FULL).problems == ()


@pytest.mark.parametrize("harm", ["lose_network", "damage_network"])
def test_without_its_file_a_head_is_fitted_anew(built, harm):
    lost = built.network
    getattr(built, harm)()
    report = built.build(force=True)
    assert (report.chunks_embedded, report.engines_compiled) == (0, 0), "the same sample gives the same head"
    assert built.network == lost
    assert Artifacts(built.layout).damage(lost) is None, "and the build stores it again"
    built.lose_network()
    built.change_tile()
    report = built.made()
    assert (report.chunks_embedded, report.engines_compiled) == (289, 1)


class Interrupting(RecordingProgress):
    """Interrupts the build once so many chunks went through the network below the head."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def advance(self, amount=1, *, phase=""):
        self.after -= amount
        if self.after <= 0:
            raise KeyboardInterrupt
        super().advance(amount, phase=phase)


@pytest.mark.parametrize("after", [64, 300, 560])
def test_a_build_that_is_interrupted_while_it_fits_is_fitted_again_to_the_same_bytes(site, built, after):
    interrupted = site.provisioner(progress=Interrupting(after))
    with pytest.raises(KeyboardInterrupt):
        interrupted.build_cache_artifacts(site.request())
    assert site.made().identity == built.state().head_build.identity
    assert site.network == built.network


def test_what_a_failed_build_fitted_is_used_by_the_next(site):
    tile = site.root / f"tiles/12/{site.column + 5}/{ROW + 5}.png"
    sound = tile.read_bytes()
    tile.write_bytes(sound[:200])
    report = site.build()
    assert (report.outcome, report.error.kind) == (BuildOutcome.FAILED, "bad-tile")
    (event,) = site.events(EngineCompiled)
    tile.write_bytes(sound)
    report = site.made()
    assert report.engines_compiled == 0
    assert site.engine == event


def test_an_engine_run_fits_and_a_build_takes_that_head(site, built):
    report = site.provisioner().compile_engines_for_corpus(site.request())
    assert report.error is None
    (event,) = site.events(EngineCompiled)
    report = site.made()
    assert report.engines_compiled == 0
    assert (site.engine, site.network) == (event, built.network)
    assert site.provisioner().compile_engines_for_corpus(site.request()).engines[0].outcome == "reused"


@pytest.mark.parametrize(("harm", "repaired"), [("lose_network", 0), ("damage_network", 1)])
def test_an_engine_run_stores_a_lost_file_again(built, harm, repaired):
    lost = built.network
    getattr(built, harm)()
    report = built.provisioner().compile_engines_for_corpus(built.request())
    assert report.engines[0].outcome == "reused"
    assert Artifacts(built.layout).damage(lost) is None
    assert [event.sha256 for event in built.events(Repaired)] == [lost.sha256] * repaired
    before = tree(built.cache)
    built.provisioner().compile_engines_for_corpus(built.request())
    assert tree(built.cache) == before


def test_a_stand_in_has_the_head_too(site):
    compiler = FakeCompiler(calls=Calls(), dimensions=32, device="another")

    def build(**fields):
        found = site.provisioner(engine_compiler=compiler).build_cache_artifacts(site.request(**fields))
        assert found.outcome is BuildOutcome.BUILT, found.error
        return found

    assert build().engines_compiled == 1
    engine = site.engine
    ((_, stand_in),) = site.state().head_build.stand_ins
    assert attached(engine)[NETWORK] == attached(stand_in)[NETWORK]
    assert attached(stand_in).keys() == {NETWORK, GOLDEN}
    site.change_tile()
    assert build().chunks_embedded == 25
    site.damage_network()
    compiler.calls.made.clear()
    report = site.provisioner(engine_compiler=compiler).repair()
    assert not all(action.ok for action in report.actions), "the tile of the sample has changed"
    site.write_ground(GROUND)
    site.provisioner(engine_compiler=compiler).repair()
    assert verify(site.layout, depth=Depth.FULL).problems == ()


def test_a_head_stands_beside_another_network(site):
    site.write("other.onnx", tiny_network())
    models = (
        ModelSpec(name="a", role=ModelRole.DESCRIPTOR, onnx="other.onnx"),
        ModelSpec(name="b", role=ModelRole.DESCRIPTOR, onnx="net.onnx", head=HEAD, weight=0.5),
    )
    site.made(models=models[:1])
    report = site.made(models=models)
    assert (report.engines_compiled, report.chunks_embedded) == (1, 289)
    assert site.manifest.index.dimensions == 48


def test_a_bundle_brings_the_head(built, tmp_path):
    bundle = export(built.layout, tmp_path / "x.bundle").path
    other = HeadSite(tmp_path / "other")
    import_bundle(other.layout, bundle, clock=FakeClock(), host={}, follows=True)
    other.change_tile()
    report = other.made()
    assert (report.engines_compiled, report.chunks_embedded) == (0, 25)


def test_a_head_that_no_key_vouches_for_is_not_kept(built, tmp_path):
    """Whoever may write to the folder must not choose the words by which places are told apart."""
    keys = write_key_pair(tmp_path / "key")
    owner = {
        "signing_key": keys.private,
        "trusted_keys": (str(keys.public),),
        "digest_cache_folder": tmp_path / "notes",
    }
    report = built.provisioner(**owner).build_cache_artifacts(built.request(flight_id="signed"))
    assert report.engines_compiled == 0, "the first key takes over an unsigned cache"
    own = built.network
    built.change_tile()
    built.made(head=ANEW, flight_id="a stranger's")
    foreign = built.network
    built.write_ground(GROUND)
    report = built.provisioner(**owner).build_cache_artifacts(built.request(flight_id="signed again"))
    assert report.outcome is BuildOutcome.BUILT, report.error
    assert (built.network, report.engines_compiled) == (own, 0)
    assert own != foreign


def test_a_network_that_disagrees_is_compared_again_from_the_records(site):
    compiler = FakeCompiler(calls=Calls(), dimensions=32)
    other = HeadSite(site.root / "other")
    other.write("net.onnx", local_network(seed=5))
    other.made()
    compiler.instead["place"] = other.artifact(other.network)
    report = site.provisioner(engine_compiler=compiler).build_cache_artifacts(site.request())
    assert report.error.kind == "check-failed"
    rerun = json.loads(run(site, "replay", "--rerun", "--json").stdout)["rerun"]
    assert rerun["verdict"] == "reproduced", rerun
    assert not [line for line in rerun["differences"] if "head" in line]


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ({"words": 1}, "whole number from 2 to 256"),
        ({"words": 257}, "whole number from 2 to 256"),
        ({"dimensions": 1001}, "whole number from 2 to 1000"),
        ({"kind": "netvlad"}, 'one of "vlad"'),
        ({"fit": "later"}, 'one of "area", "anew"'),
        ({"word": 8}, "did you mean 'words'?"),
        ({"words": 64, "dimensions": 289}, "lower it to 288"),
    ],
)
def test_a_head_that_cannot_be_fitted_is_refused_and_says_what_to_lower(site, head, told):
    request = to_toml(site.request()).replace(
        'head = {kind = "vlad", words = 8, dimensions = 32, fit = "area"}',
        "head = {" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in (HEAD | head).items()) + "}",
    )
    path = site.write("request.toml", request.encode())
    for command in ("plan", "build"):
        found = run(site, command, str(path), code=2)
        assert told in found.output
    assert not site.cache.exists()


def test_more_words_than_features_are_refused(site):
    site.write("net.onnx", local_network(size=16))
    with pytest.raises(RequestError, match=r"head\.words: expected at most 105, found 106.*lower it"):
        site.build(head=HEAD | {"words": 106})


def test_a_head_of_very_many_numbers_is_refused(site):
    site.write("net.onnx", local_network(channels=512))
    with pytest.raises(RequestError, match=r"head\.words: expected at most 128 for features of 512 numbers"):
        site.build(head=HEAD | {"words": 129})


def test_more_dimensions_than_the_head_has_numbers_are_refused(site):
    site.write("net.onnx", local_network(channels=4))
    with pytest.raises(RequestError, match=r"head\.dimensions: expected at most 32, words .* found 33"):
        site.build(head=HEAD | {"dimensions": 33})


def test_an_area_without_texture_is_too_small(site):
    site.write_ground(picture_of() // 255)
    with pytest.raises(RequestError, match="widen the area: it shows hardly any texture"):
        site.build()


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (tiny_network(), {}),
        (local_network(flat=True), {"output": "descriptor"}),
    ],
)
def test_a_network_without_local_features_is_refused(site, network, options):
    site.write("net.onnx", network)
    path = site.write_request(head=HEAD, model={"head": HEAD} | options)
    found = run(site, "build", str(path), code=2)
    assert "expected local features of float [N,C,H,W] or [N,T,C]" in found.output
    assert "set output to the network's local features" in found.output


def test_features_with_the_channels_last_are_not_mistaken(site):
    with pytest.raises(RequestError, match=r"expected local features of float \[N,T,C\]") as caught:
        site.provisioner().plan(site.request(model={"head": HEAD, "layout": "nhwc"}))
    assert "rows and columns as one axis" in caught.value.hint


def test_a_network_with_local_features_alone_says_that_it_needs_a_head(site):
    with pytest.raises(CompileError, match="expected a descriptor output") as caught:
        site.provisioner().plan(site.request(head=None))
    assert 'head = {kind = "vlad"}' in caught.value.hint


def test_operators_that_are_too_old_are_refused(site):
    site.write("net.onnx", local_network(opset=12))
    report = site.build()
    assert (report.error.kind, "opset 13 or newer" in report.error.message) == ("bad-model", True)
    with pytest.raises(CompileError, match="opset"):
        site.provisioner().plan(site.request())


@pytest.mark.parametrize("options", [{"rank": 3}, {"flat": True}, {"batch": 4}])
def test_each_kind_of_network_gets_its_head(site, options):
    site.write("net.onnx", local_network(**options))
    chosen = {"output": "local"} if "flat" in options else {}
    site.made(model={"head": HEAD} | chosen)
    assert verify(site.layout, depth=Depth.FULL).problems == ()


def test_a_recorded_request_keeps_the_head(site):
    request = site.request(head=ANEW)
    assert BuildRequest.parse(to_toml(request), base=request.base, name="x").models == request.models
    assert "head" not in to_toml(site.request(head=None))


def test_tiles_get_heads_too(tmp_path):
    site = HeadSite(tmp_path)
    report = site.build(chunks=None, head=HEAD | {"dimensions": 16})
    assert (report.outcome, report.tiles_embedded) == (BuildOutcome.BUILT, 64), report.error


def test_a_plan_that_fits_a_head_says_so_meanwhile(site):
    request = site.write("request.toml", to_toml(site.request()).encode())
    result = CliRunner().invoke(cli, ["plan", str(request), "--cache", str(site.cache)])
    assert result.exit_code == 0, result.output
    assert "head" in result.stderr
