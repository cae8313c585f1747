"""Caches that carry their tiles: what is packed, when it is packed again, and what the aircraft reads."""

import io
import json
import shutil
import sys
from itertools import product

import numpy as np
import pytest
from PIL import Image

from pipeline.build.report import BuildOutcome
from pipeline.errors import RequestError
from pipeline.planning import resolve_inputs
from pipeline.request.options import CarryOptions, ChunkLevelOptions, ChunkOptions
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import to_toml
from pipeline.stages import packs
from pipeline.tiles.images.decode import decode
from store.base.canonical_json import encode
from store.base.geometry.lattice import Level, chunk_id, chunk_of, tile_span
from store.base.geometry.mosaic import full_size, render_chunks
from store.base.identity import build_identity, descriptor_id, tile_of
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import StepReused, TilesCarried, TilesPacked
from store.errors import CacheUnusableError, ErrorKind, NoGoError, RequestRefusedError
from store.formats import carried_tiles
from store.formats.tables import decode_blocks, decode_packs
from store.maintenance import collect_garbage
from store.manifest.manifest import parse
from store.policy.retention import KeepPolicy
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.testing import FakeClock
from store.transfer.export import export
from store.transfer.import_bundle import import_bundle
from store.transfer.mirror import mirror
from store.verify.report import Depth
from store.verify.verify import verify
from tests.damaging import flip
from tests.small_builds import Site, encoded, picture, spread

CARRY = CarryOptions(tiles=True)
Z = 6


class CarryingSite(Site):
    """A site whose requests want their tiles carried."""

    def request(self, **fields):
        return super().request(**{"carry": CARRY} | fields)

    def open(self, layout=None):
        return FlightCache.open((layout or self.layout).root, trusted_keys=ALLOW_UNSIGNED)

    def manifest(self):
        return parse(self.head_bytes())

    def packs(self):
        """The rows of the head's pack table."""
        return decode_packs(Artifacts(self.layout).read(self.manifest().carried.packs))

    def pack_path(self, x, y):
        """The file of the pack of the cell of a tile."""
        (row,) = (row for row in self.packs() if (row.cell_x, row.cell_y) == (x >> 4, y >> 4))
        return self.artifact(row.ref)


def built(report):
    assert report.outcome is BuildOutcome.BUILT, report.error
    return report


@pytest.fixture
def site(tmp_path):
    """A site of which nothing was built."""
    made = CarryingSite(tmp_path)
    made.write_tiles(spread())
    return made


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A site with one build; never change it. Its records name the folder in which the copies lie."""
    root = tmp_path_factory.mktemp("carried")
    site = CarryingSite(root / "site")
    site.write_tiles(spread())
    built(site.build())
    shutil.copytree(site.root, root / "saved")
    return root


@pytest.fixture
def done(prepared):
    """The site with one build, as new."""
    shutil.rmtree(prepared / "site")
    shutil.copytree(prepared / "saved", prepared / "site")
    return CarryingSite(prepared / "site")


def test_every_tile_flies_as_it_was_packed_by_cell_and_named_in_the_manifest(done):
    document = json.loads(done.head_bytes())
    assert document["format"] == 3
    assert document["body"]["inputs"]["carry"] == {"tiles": True}
    tiles = spread()
    assert document["body"]["carried"]["tiles"] == len(tiles)
    assert document["body"]["carried"]["size"] == sum(map(len, tiles.values()))
    rows = done.packs()
    assert {(row.zoom, row.cell_x, row.cell_y) for row in rows} == {(z, x >> 4, y >> 4) for z, x, y in tiles}
    for row in rows:
        held = carried_tiles.decode(Artifacts(done.layout).read(row.ref))
        assert row.rows == len(held)
        assert held == {
            descriptor_id(*place): content
            for place, content in tiles.items()
            if (place[1] >> 4, place[2] >> 4) == (row.cell_x, row.cell_y)
        }
    with done.open() as cache:
        for place, content in tiles.items():
            assert cache.tile_bytes(*place) == content
            pixels = cache.tile_image(*place)
            assert pixels.dtype == np.uint8
            assert (pixels == decode(content)).all()
        cache.verify()
        cache.load_all()
    for depth in Depth:
        report = verify(done.layout, depth=depth)
        assert report.go, report.problems
    assert report.unreferenced == 0


def test_requests_that_do_not_carry_have_the_identity_and_the_format_that_they_had(site):
    built(site.build(carry=None))
    assert b"carr" not in site.head_bytes()
    assert json.loads(site.head_bytes())["format"] == 1
    # A limit alone is no content.
    report = site.build(carry=CarryOptions(max_bytes=1 << 30))
    assert report.outcome is BuildOutcome.REUSED
    assert not site.events(TilesCarried)
    built(site.build())
    with pytest.raises(RequestError):
        site.build(carry=CarryOptions(max_bytes=1000))
    report = site.build(carry=CarryOptions(tiles=True, max_bytes=1 << 30))
    assert report.outcome is BuildOutcome.REUSED


def test_a_build_of_the_same_tiles_packs_nothing(done):
    packed = len(done.events(TilesPacked))
    assert packed == len(done.packs())
    built(done.build(flight_id="f2"))
    assert len(done.events(TilesPacked)) == packed
    assert [each.count for each in done.events(StepReused) if each.kind == "packs"] == [packed]
    assert len({each.table for each in done.events(TilesCarried)}) == 1


def test_a_changed_tile_packs_one_cell_again(done):
    before = set(done.packs())
    place = (Z, 8, 12)
    done.write_tiles({place: picture(5)})
    built(done.build())
    after = set(done.packs())
    ((row,), (old,)) = after - before, before - after
    assert (row.cell_x, row.cell_y) == (old.cell_x, old.cell_y) == (0, 0)
    with done.open() as cache:
        assert cache.tile_bytes(*place) == picture(5)


def test_tiles_that_are_skipped_or_left_out_are_not_carried(site):
    bad = (Z, 8, 12)
    site.write_tiles({bad: b"no picture"})
    dates = "\n".join(f"{z},{x},{y},{'2000' if (x, y) == (0, 0) else '2024'}-01-01" for z, x, y in spread())
    site.write("dates.csv", f"z,x,y,captured\n{dates}\n".encode())
    import datetime as dt

    built(
        site.build(
            tiles={
                "on_bad": "skip",
                "captured": "dates.csv",
                "too_old": "exclude",
                "as_of": dt.date(2024, 6, 1),
            }
        )
    )
    assert site.manifest().carried.tiles == len(spread()) - 2
    with site.open() as cache:
        for place in (bad, (Z, 0, 0), (Z, 1, 1), (Z, 63, 63)):
            with pytest.raises(KeyError, match=f"{place[0]}/{place[1]}/{place[2]}"):
                cache.tile_bytes(*place)
        assert cache.tile_bytes(Z, 8, 0) == spread()[Z, 8, 0]
        cache.verify()


def jpeg(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def test_pixels_on_board_are_those_that_the_ground_prepared(tmp_path):
    random = np.random.default_rng(3)
    rough = random.integers(0, 256, (32, 32, 4), np.uint8)
    smooth = np.kron(random.integers(0, 256, (4, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    clear = rough.copy()
    clear[:8, :, 3], clear[8:, :, 3] = 0, 255
    contents = [
        jpeg(smooth),
        jpeg(smooth, subsampling=2, progressive=True),
        jpeg(rough[:, :, 0]),
        encoded(clear),
        encoded(rough[:, :, 0]),
        encoded(rough[:, :, :3], "webp"),
        encoded(clear, "webp"),
    ]
    buffer = io.BytesIO()
    Image.fromarray(smooth).quantize(16).save(buffer, "PNG", transparency=3)
    contents.append(buffer.getvalue())
    site = CarryingSite(tmp_path)
    tiles = {(Z, x, 20): content for x, content in enumerate(contents)}
    site.write_tiles(tiles)
    built(site.build())
    with site.open() as cache:
        for place, content in tiles.items():
            assert (cache.tile_image(*place) == decode(content)).all(), place


def test_a_cache_without_carried_tiles_says_how_to_get_them(site):
    built(site.build(carry=None))
    with site.open() as cache:
        for ask in (lambda: cache.tile_bytes(Z, 0, 0), lambda: cache.tile_image(Z, 0, 0)):
            with pytest.raises(RequestRefusedError) as caught:
                ask()
            assert caught.value.kind is ErrorKind.NOT_CARRIED
            assert "[carry] tiles = true" in caught.value.hint


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.uint32])
def test_numbers_of_few_bits_name_a_tile(done, kind):
    """An id has 64 bits."""
    with done.open() as cache:
        z, x, y, _ = tile_of(min(cache._carried_packs().ids()))
        assert cache.tile_bytes(kind(z), x, kind(y)) == cache.tile_bytes(z, x, y)
        assert (cache.tile_image(z, kind(x), kind(y)) == cache.tile_image(z, x, y)).all()


def test_pixels_need_pillow(done, monkeypatch):
    """A cache that was opened for a look from the ground does not ask for it before."""
    with FlightCache.open(done.layout.root, trusted_keys=ALLOW_UNSIGNED, flown=False) as cache:
        z, x, y, _ = tile_of(min(cache._carried_packs().ids()))
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
        with pytest.raises(CacheUnusableError, match="expected the Python package pillow"):
            cache.tile_image(z, x, y)


def test_what_is_no_tile_and_a_closed_cache_are_refused(done):
    with done.open() as cache:
        for wrong in ((Z, 64, 0), (26, 0, 0), (Z, -1, 0)):
            with pytest.raises(ValueError, match=r"z|x|tile"):
                cache.tile_bytes(*wrong)
        with pytest.raises(TypeError):
            cache.tile_bytes(Z, 0.5, 0)
        with pytest.raises(KeyError):
            cache.chunk_image(chunk_id(Level(Z, 1, 4), 0, 0))
        with pytest.raises(KeyError):
            cache.chunk_image(descriptor_id(Z, 0, 0))
    with pytest.raises(RequestRefusedError) as caught:
        cache.tile_bytes(Z, 0, 0)
    assert caught.value.kind is ErrorKind.CLOSED


def test_more_bytes_than_may_fly_are_refused_at_planning_with_what_mends_it(site):
    request = site.request(carry=CarryOptions(tiles=True, max_bytes=100_000))
    for ask in (site.provisioner().plan, site.provisioner().build_cache_artifacts):
        with pytest.raises(RequestError) as caught:
            ask(request)
        assert "carry.max_bytes" in caught.value.message
        assert "raise carry.max_bytes" in caught.value.hint
    assert sum(map(len, spread().values())) > 100_000


def test_the_true_size_is_judged_before_the_commit(site, monkeypatch):
    monkeypatch.setattr(resolve_inputs, "flown_size", lambda _: 0)
    report = site.build(carry=CarryOptions(tiles=True, max_bytes=100_000))
    assert report.outcome is BuildOutcome.FAILED
    assert report.error.kind == "check-failed"
    assert "100,000 bytes" in report.error.message
    assert site.state().head is None
    # What was packed is not packed again, and the very size is enough.
    packed = len(site.events(TilesPacked))
    size = built(site.build()).area.size
    assert len(site.events(TilesPacked)) == packed
    report = site.build(carry=CarryOptions(tiles=True, max_bytes=size), flight_id="f2")
    assert built(report).area.size == size


def test_a_source_that_changes_during_the_build_is_told(site, monkeypatch):
    changed = site.root / "tiles" / "6" / "8" / "12.png"
    honest = packs.read_tile
    monkeypatch.setattr(packs, "read_tile", lambda at: picture(1) if at[1] == str(changed) else honest(at))
    report = site.build()
    assert (report.outcome, report.error.kind) == (BuildOutcome.FAILED, "source-changed")
    assert report.error.step == "packs"
    assert "6/8/12" in report.error.message


@pytest.mark.parametrize("role", ["pack", "pack table"])
def test_damage_is_found_and_repaired_to_the_same_bytes(done, role):
    path = done.pack_path(8, 12) if role == "pack" else done.artifact(done.manifest().carried.packs)
    sound = path.read_bytes()
    flip(path, -1)
    report = verify(done.layout, depth=Depth.FULL)
    assert [problem.subject.split(" 6/")[0] for problem in report.problems] == [role]
    with done.open() as cache, pytest.raises(NoGoError, match=role):
        cache.verify()
    (action,) = done.provisioner().repair().actions
    assert action.ok, action
    assert path.read_bytes() == sound
    assert verify(done.layout, depth=Depth.FULL).go


def test_a_missing_pack_is_seen_by_the_quickest_check_and_before_take_off(done):
    done.pack_path(8, 12).unlink()
    assert not verify(done.layout).go
    with done.open() as cache, pytest.raises(NoGoError, match="pack 6/0/0"):
        cache.load_all()
    assert done.provisioner().repair().go
    with done.open() as cache:
        cache.load_all()


def test_a_pack_is_not_repaired_from_a_source_that_changed(done):
    path = done.pack_path(8, 12)
    flip(path, -1)
    flipped = path.read_bytes()
    done.write_tiles({(Z, 8, 12): picture(9)})
    (action,) = done.provisioner().repair().actions
    assert not action.ok
    assert path.read_bytes() == flipped
    # A tile of another cell may have changed.
    done.write_tiles({(Z, 8, 12): spread()[Z, 8, 12], (Z, 40, 12): picture(9)})
    (action,) = done.provisioner().repair().actions
    assert action.ok, action


def test_damage_after_take_off_is_an_error_never_another_picture(done):
    place, path = (Z, 8, 12), done.pack_path(8, 12)
    with done.open() as cache:
        cache.load_all()
        # The images are the second half of the file; those of this cell in the order of their ids.
        flip(path, -1)
        with pytest.raises(NoGoError, match="tile 6/8/12"):
            cache.tile_image(*place)
        assert cache.tile_bytes(Z, 0, 0) == spread()[Z, 0, 0]


@pytest.mark.parametrize("bit", [0, 26, 58])
def test_a_tile_whose_place_was_damaged_is_no_tile_that_is_not_carried(done, bit):
    """The beginning of a pack is not hashed when it is read; ids that still ascend look whole."""
    row = decode_packs(Artifacts(done.layout).read(done.manifest().carried.packs))[-1]
    with done.open() as cache:
        last = max(cache._carried_packs().ids())
        path = done.layout.artifact(row.ref.sha256)
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        at = data.index(last.to_bytes(8, "little"))
        data[at : at + 8] = (last | 1 << bit).to_bytes(8, "little")
        path.write_bytes(data)
    assert last != last | 1 << bit
    with done.open() as cache:
        for use in (lambda: cache.tile_bytes(*tile_of(last)[:3]), cache.load_all):
            with pytest.raises(NoGoError, match="tiles of the tile table, found others"):
                use()


def test_a_build_packs_again_what_is_damaged_or_was_recorded_wrongly(done, monkeypatch):
    rows = done.packs()
    flip(done.pack_path(8, 12), -1)
    built(done.build(flight_id="f2"))
    assert done.packs() == rows
    assert verify(done.layout, depth=Depth.FULL).go
    # Somebody records another pack under a key of this build.
    wrong = done.events(TilesPacked)[1]
    with CacheWriter.open(done.layout, clock=FakeClock(), create=False, reserve_bytes=0, host={}) as store:
        key = done.events(TilesPacked)[0].key
        store.append(
            TilesPacked(zoom=Z, cell_x=0, cell_y=0, key=key, pack=wrong.pack, tiles=wrong.tiles), build=None
        )
    built(done.build(flight_id="f3"))
    assert done.packs() == rows


def test_collection_keeps_the_packs_of_what_is_kept(done):
    old = done.pack_path(8, 12)
    for number in range(5, 7):
        done.write_tiles({(Z, 8, 12): picture(number)})
        built(done.build())
    with CacheWriter.open(
        done.layout, clock=FakeClock(), create=False, reserve_bytes=0, host={}, exclusive_within_s=1
    ) as store:
        collect_garbage.collect(store, KeepPolicy(keep=1))
    assert not old.exists()
    report = verify(done.layout, depth=Depth.FULL)
    assert report.go, report.problems
    assert report.unreferenced == 0
    # A pack that was removed counts as not made.
    done.write_tiles({(Z, 8, 12): spread()[Z, 8, 12]})
    built(done.build())
    assert old.exists()


@pytest.mark.parametrize("way", ["mirror", "bundle"])
def test_copies_of_a_cache_carry_the_tiles(done, tmp_path, way):
    copy = Layout(tmp_path / "copy")
    if way == "mirror":
        mirror(done.layout, copy.root)
    else:
        export(done.layout, tmp_path / "bundle")
        import_bundle(copy, tmp_path / "bundle", clock=FakeClock(), host={})
    with done.open(copy) as cache:
        cache.verify()
        assert cache.tile_bytes(Z, 8, 12) == spread()[Z, 8, 12]
    assert way == "mirror" or verify(copy, depth=Depth.FULL).go


def test_plan_tells_packs_and_their_bytes(site):
    without = site.provisioner().plan(site.request(carry=None))
    plan = site.provisioner().plan(site.request())
    assert [each for each in plan.steps if each["kind"] == "packs"] == [
        {
            "kind": "packs",
            "subject": "",
            "key": "",
            "decision": "run",
            "why": "its tiles were not packed yet",
            "count": 16,
        }
    ]
    assert plan.bytes - without.bytes > sum(map(len, spread().values()))
    built(site.build())
    plan = site.provisioner().plan(site.request(flight_id="f2"))
    assert [each["decision"] for each in plan.steps if each["kind"] == "packs"] == ["reuse"]


def test_the_request_comes_back_from_the_journal(site):
    request = site.request(carry=CarryOptions(tiles=True, max_bytes=7_000_000))
    assert BuildRequest.parse(to_toml(request), base=request.base) == request
    with pytest.raises(RequestError, match=r"carry\.tile"):
        BuildRequest.parse(to_toml(request).replace("tiles = true", "tile = true"), base=request.base)
    for wrong in ({"tiles": 1}, {"max_bytes": 0}, {"max_bytes": 1.5}):
        with pytest.raises(RequestError):
            CarryOptions(**wrong)


@pytest.mark.parametrize(
    "change",
    [
        lambda body, _: body.pop("carried"),
        lambda body, _: body["inputs"].pop("carry"),
        lambda body, _: body["inputs"].update(carry={"tiles": False}),
        lambda body, _: body["carried"].update(more=1),
        lambda body, _: body["carried"].update(tiles=-1),
        lambda body, _: body["carried"].pop("packs"),
        lambda _, document: document.update(format=1),
        lambda _, document: document.update(format=2),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(done, change):
    document = json.loads(done.head_bytes())
    body = document["body"]
    change(body, document)
    body["identity"] = build_identity(body["inputs"])
    with pytest.raises(NoGoError):
        parse(encode(document) + b"\n")


ZOOM, FIRST = 12, 2043
LEVEL = Level(ZOOM, 1, 4)


def ground():
    return {
        (ZOOM, x, y): picture(1000 * x + y)
        for x, y in product(range(FIRST, FIRST + 10), range(FIRST, FIRST + 10))
    }


@pytest.fixture
def chunk_site(tmp_path):
    def edge(at):
        return at / 2**ZOOM * 360 - 180

    def parallel(at):
        return float(np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * at / 2**ZOOM)))))

    made = CarryingSite(tmp_path)
    made.write_tiles(ground())
    made.fields = {
        "bbox": (edge(FIRST + 3), parallel(FIRST + 7), edge(FIRST + 7), parallel(FIRST + 3)),
        "zoom": (ZOOM, ZOOM),
        "chunks": ChunkOptions(level=(ChunkLevelOptions(side_m=19_600, overlap=0.75),)),
    }
    return made


def chunks_of(site):
    """The ids of the head's rows."""
    artifacts = Artifacts(site.layout)
    rows = decode_blocks(artifacts.read(site.manifest().index.blocks))
    return packs.described_ids(artifacts, rows).tolist()


def test_a_chunk_is_cut_from_carried_tiles_as_the_ground_cut_it(chunk_site):
    built(chunk_site.build(**chunk_site.fields))
    tiles = {(x, y): decode(content) for (_, x, y), content in ground().items()}
    ids = chunks_of(chunk_site)
    assert len(ids) == 81
    with chunk_site.open() as cache:
        cache.load_all()
        for identifier in ids[::5]:
            place = [chunk_of(identifier)[1:]]
            for size in (None, (32, 32), (50, 41)):
                (wanted,) = render_chunks(LEVEL, place, tiles, size or full_size(LEVEL, 32))
                assert (cache.chunk_image(identifier, size) == wanted).all()
        assert cache.chunk_image(ids[0]).shape == (64, 64, 3)
        with pytest.raises(KeyError, match="12/1/1"):
            cache.chunk_image(chunk_id(LEVEL, 2, 2))
        with pytest.raises(KeyError):
            cache.chunk_image(chunk_id(Level(ZOOM, 1, 5), 4092, 4092))
        for wrong, kind in (
            *(((0, 32), ValueError), ((32.5, 32), TypeError), ((True, 32), TypeError)),
            # Of more pixels than any memory holds.
            *(((16_385, 32), ValueError), ((32, 10**30), ValueError)),
        ):
            with pytest.raises(kind):
                cache.chunk_image(ids[0], wrong)
        with pytest.raises(TypeError):
            cache.chunk_image("1")


def test_only_tiles_under_a_chunk_with_a_descriptor_are_carried(chunk_site):
    bad = (ZOOM, FIRST + 5, FIRST + 4)
    chunk_site.write_tiles({bad: b"no picture"})
    built(chunk_site.build(**chunk_site.fields, tiles={"on_bad": "skip"}))
    under = set()
    for identifier in chunks_of(chunk_site):
        x0, nx, y0, ny = tile_span(*chunk_of(identifier))
        under |= {(ZOOM, x, y) for x in range(x0, x0 + nx) for y in range(y0, y0 + ny)}
    assert bad not in under
    held = {}
    for row in chunk_site.packs():
        held |= carried_tiles.decode(Artifacts(chunk_site.layout).read(row.ref))
    assert held == {descriptor_id(*place): ground()[place] for place in under}
    path = chunk_site.artifact(chunk_site.packs()[0].ref)
    sound = path.read_bytes()
    flip(path, -1)
    (action,) = chunk_site.provisioner().repair().actions
    assert action.ok, action
    assert path.read_bytes() == sound
