"""The inputs that a failure records, so that it can be investigated elsewhere."""

from hashlib import sha256

import pytest

from journal import BuildLockHeldError
from pipeline.build.failure_record import MAX_BYTES
from pipeline.build.report import BuildOutcome
from pipeline.embed.cells import Window
from pipeline.embed.worker_messages import window_name
from pipeline.errors import CompileError, EmbedError, ErrorKind
from pipeline.request.options import CoverageOptions
from pipeline.testing import raising
from store.base.canonical_json import decode
from store.disk.artifacts import Artifacts
from store.domain.events import BuildDenied, BuildFailed, StepStarted
from store.errors import DiskFullError
from store.errors import ErrorKind as StoreKind
from store.formats import tile_pack
from store.maintenance.collect_garbage import preview
from store.policy.retention import KeepPolicy
from store.verify.coverage import referenced_by
from tests.small_builds import ZOOM, Site, picture, spread, tiny_network


def failed(site):
    return site.events(BuildFailed)[-1]


def attached(site, name):
    ref = failed(site).inputs["attached"][name]
    data = site.layout.artifact(ref["sha256"]).read_bytes()
    assert (sha256(data).hexdigest(), len(data)) == (ref["sha256"], ref["size"])
    return data


def test_a_bad_tile_is_kept_as_it_was(real_site):
    real_site.write_tiles(spread())
    whole = picture(1)
    broken = real_site.write(f"tiles/{ZOOM}/8/12.png", whole[: len(whole) // 2])
    report = real_site.build()
    assert (report.outcome, report.error.kind) == (BuildOutcome.FAILED, "bad-tile")
    tile = failed(real_site).inputs["tile"]
    assert (tile["place"], tile["sha256"]) == (f"{ZOOM}/8/12", tile["found_sha256"])
    assert tile["locator"] == ["file", str(broken)]
    broken.write_bytes(whole)
    assert attached(real_site, "tile") == whole[: len(whole) // 2]
    engine = failed(real_site).inputs["engine"]
    assert real_site.layout.artifact(engine["sha256"]).is_file()


def test_a_tile_that_cannot_be_read_is_said_to_be_so(site):
    digest = sha256(b"bad").hexdigest()
    site.tiles[ZOOM, 8, 12] = b"bad"
    site.batcher.bad[digest] = ("bad-tile", "expected a whole image, found half")
    site.build()
    inputs = failed(site).inputs
    assert "unreadable" in inputs["tile"]
    assert "attached" not in inputs
    assert inputs["disk"]["free"] <= inputs["disk"]["total"]


def test_a_long_tile_is_not_kept(real_site):
    real_site.write_tiles(spread())
    real_site.write(f"tiles/{ZOOM}/8/12.png", b"\x89PNG" + bytes(MAX_BYTES))
    real_site.build()
    inputs = failed(real_site).inputs
    assert inputs["tile"]["found_size"] == MAX_BYTES + 4
    assert "attached" not in inputs


class Dying:
    """A batcher whose first window ends its worker again and again."""

    def __init__(self):
        self.window = None

    def embed(self, windows, *, on_dispatch=None, **_):
        window = next(iter(windows))
        self.window = window
        on_dispatch(window)
        raise EmbedError(
            f"expected descriptors for {window_name(window)}, found: died by SIGKILL",
            hint="",
            kind=ErrorKind.WORKER_DIED,
            subject=window_name(window),
        )
        yield


def test_a_window_in_which_a_worker_died_is_stored_whole(real_site):
    tiles = spread()
    real_site.write_tiles(tiles)
    batcher = Dying()
    report = real_site.provisioner(descriptor_batcher=batcher).build_cache_artifacts(real_site.request())
    assert report.error.kind == "worker-died"
    recorded = failed(real_site).inputs["window"]
    assert isinstance(batcher.window, Window)
    assert recorded["cells"] == list(batcher.window.subjects)
    assert recorded["tiles"] == [[str(tile.place), tile.sha256, tile.size] for tile in batcher.window.tiles]
    assert [tuple(locator) for locator in recorded["locators"]] == [
        tile.locator for tile in batcher.window.tiles
    ]
    images = [image for _, image in tile_pack.decode(attached(real_site, "window"))]
    assert [sha256(image).hexdigest() for image in images] == [tile.sha256 for tile in batcher.window.tiles]
    assert real_site.events(StepStarted)[-1].subjects == tuple(recorded["cells"])


def test_a_network_that_does_not_compile_is_kept(site):
    site.calls.faults["compile place"] = raising(CompileError("expected A, found operator Frob", hint="C"))
    site.build()
    network = failed(site).inputs["network"]
    assert (network["model"], network["backend"]) == ("place", "onnxruntime")
    assert network["file"] == str(site.root / "net.onnx")
    assert attached(site, "network") == (site.root / "net.onnx").read_bytes()


def test_too_little_of_an_area_leaves_its_map(site):
    site.build(coverage=CoverageOptions(min_fraction=0.9))
    document = decode(attached(site, "geography"))
    assert document["present"] == 40
    assert len(document["holes"]) > 1


def test_foreign_files_are_listed(site):
    site.build()
    for number in range(3):
        (site.layout.artifacts / "00" / f"notes{number}.txt").write_text("hello")
    site.build(flight_id="f2")
    assert len(failed(site).inputs["problems"]) == 3


def test_nothing_is_stored_on_a_full_disk(site):
    site.tiles[ZOOM, 8, 12] = b"new"
    site.calls.faults["compile place"] = raising(DiskFullError("no space left", kind=StoreKind.DISK_FULL))
    site.build()
    inputs = failed(site).inputs
    assert failed(site).kind == "disk-full"
    assert "attached" not in inputs
    assert inputs["disk"]["total"] > 0


def test_an_interruption_records_no_more_than_its_place(site):
    site.calls.faults["window 0"] = raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        site.build()
    assert set(failed(site).inputs) == {"step", "subject"}


def test_names_that_are_no_text_do_not_keep_a_failure_from_being_recorded(tmp_path):
    site = Site(tmp_path / "site \udcff")
    site.write_tiles(spread(columns=1))
    site.write("net.onnx", tiny_network(unit=False))
    assert site.build().outcome is BuildOutcome.FAILED
    assert "\\udcff" in failed(site).inputs["network"]["file"]


def test_what_is_attached_is_referenced_and_kept_while_its_failure_is_young(real_site):
    real_site.write_tiles(spread())
    broken = real_site.write(f"tiles/{ZOOM}/8/12.png", b"broken")
    real_site.build()
    digest = failed(real_site).inputs["attached"]["tile"]["sha256"]
    broken.write_bytes(picture(1))
    for flight in ("f2", "f3"):
        assert real_site.build(flight_id=flight).outcome is BuildOutcome.BUILT
    assert digest in referenced_by(real_site.state())
    removals = {each.sha256 for each in preview(real_site.layout, KeepPolicy(keep=1)).decision.removals}
    assert digest in removals
    assert digest not in {each.sha256 for each in preview(real_site.layout, KeepPolicy()).decision.removals}


def test_a_run_that_met_a_held_lock_leaves_one_word(site):
    site.build()
    site.write_tiles(spread())
    other = Site(site.root)
    with site.provisioner().lock:
        for _ in range(2):
            with pytest.raises(BuildLockHeldError):
                other.build(flight_id="f7")
        with pytest.raises(BuildLockHeldError):
            other.build(flight_id="f8")
    first, second = site.events(BuildDenied)
    assert (first.inputs["flight_id"], second.inputs["flight_id"]) == ("f7", "f8")
    assert first.holder["pid"] > 0
    assert first.waited_ms >= 100
    assert first.identity != second.identity
    assert other.build(flight_id="f7").outcome is BuildOutcome.BUILT


def test_a_run_that_met_a_held_lock_before_there_is_a_cache_makes_none(site):
    with site.provisioner().lock, pytest.raises(BuildLockHeldError):
        site.build()
    assert not site.layout.journal.exists()


def test_artifacts_stay_readable(site):
    site.calls.faults["compile place"] = raising(CompileError("expected A, found B", hint="C"))
    site.build()
    artifacts = Artifacts(site.layout)
    for ref in failed(site).inputs["attached"].values():
        assert artifacts.size(ref["sha256"]) == ref["size"]
