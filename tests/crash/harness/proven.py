"""What writers of caches with chunks, a proof and carried tiles do: through the provisioner, with real parts that are small.

The ground is a tile of which a writer decides before it begins, since the tiles lie beside the cache that is put back.
"""

from store.base.geometry.lattice import chunk_of
from store.base.geometry.mosaic import render_chunks
from store.disk.artifacts import Artifacts
from store.formats import descriptor_block
from store.formats.tables import decode_blocks
from store.reader import FlightCache
from store.verify.report import Depth
from store.verify.verify import verify
from tests.crash.harness.bench import Bench
from tests.damaging import flip
from tools.exit_codes import CODES, ExitCode

ACTED, NEXT = 3, 77
"""What the changed tile shows in a writer that is killed, and in the build after it."""


def site_of(bench: Bench, seed: int | None = None, *, wrong: tuple[str, ...] = ()):
    """A site around the bench's cache, with its changed tile and its photographs."""
    from tests.proven_builds import ProvenSite, write_truth

    site = ProvenSite(bench.root)
    site.clock = bench.clock
    site.change_ground(seed)
    write_truth(site, wrong)
    return site


def prove(bench: Bench, seed: int | None = None, *, wrong: tuple[str, ...] = (), **fields: object) -> int:
    """One build; returns its exit code."""
    site = site_of(bench, seed, wrong=wrong)
    report = site.provisioner().build_cache_artifacts(site.request(**fields))
    if report.error is not None and not wrong:
        bench.say(f"W {report.error.category} {report.error.kind}")
    return ExitCode.DONE if report.error is None else CODES[report.error.category]


def prove_and_fail(bench: Bench) -> int:
    """A build that finds one photograph of three, too few."""
    return prove(bench, ACTED, wrong=("one.png", "two.png"), flight_id="f2")


def nothing_yet(bench: Bench) -> None:
    """Tiles and photographs, and no cache."""
    site_of(bench)


def one_proven(bench: Bench) -> None:
    """A cache with one generation."""
    assert prove(bench) == ExitCode.DONE


def two_proven(bench: Bench) -> None:
    """A cache with two generations."""
    one_proven(bench)
    assert prove(bench, ACTED, flight_id="f2") == ExitCode.DONE


def one_damaged(bench: Bench) -> None:
    """A cache of which a block of chunks, a pack, the pack table and the answers of the proof are damaged."""
    one_proven(bench)
    site = site_of(bench)
    manifest = site.manifest()
    block = decode_blocks(Artifacts(bench.layout).read(manifest.index.blocks))[0].ref
    for ref in (block, site.packs()[0], manifest.carried.packs, manifest.proof):
        path = bench.layout.artifact(ref.sha256)
        flip(path)
        path.chmod(0o444)


def roll_back(bench: Bench) -> int:
    """Roll back to the build before."""
    site_of(bench).provisioner().rollback(why="crash test")
    return ExitCode.DONE


def repair(bench: Bench) -> int:
    """Repair what is damaged, from the tiles and photographs of the first build."""
    report = site_of(bench).provisioner().repair()
    return ExitCode.DONE if report.go else ExitCode.NO_GO


def prove_next(bench: Bench, flight: str) -> None:
    """The build that must always work, embeds what is missing and nothing else, and then has nothing left to do."""
    site = site_of(bench, NEXT)
    held = _held(bench) if bench.layout.journal.exists() else set()
    report = site.provisioner().build_cache_artifacts(site.request(flight_id=flight))
    assert str(report.outcome) in {"built", "reused"}, report.error
    missing = set(_chunks_of(bench).values()) - held
    assert report.chunks_embedded == len(missing), "the build embedded what the journal held"
    warm = site.provisioner().build_cache_artifacts(site.request(flight_id=flight))
    assert (str(warm.outcome), warm.writes) == ("reused", 0)


def _held(bench: Bench) -> set[str]:
    """Digests of the chunks of which the journal knows an intact row."""
    site = site_of(bench, NEXT)
    networks = site.provisioner()._resolve(site.request()).networks
    return site.held_digests(networks[0][0])


def _chunks_of(bench: Bench) -> dict[int, str]:
    """Descriptor id to digest of the rows of the head."""
    artifacts, found = Artifacts(bench.layout), {}
    for row in decode_blocks(artifacts.read(site_of(bench, NEXT).manifest().index.blocks)):
        block = descriptor_block.decode(artifacts.read(row.ref))
        found |= {
            int(each): bytes(digest).hex() for each, digest in zip(block.ids, block.digests, strict=True)
        }
    return found


def holds(bench: Bench) -> None:
    """After the next build everything is whole, and the aircraft sees its ground and finds the photographs' places."""
    from pipeline.tiles.images.decode import decode

    site = site_of(bench, NEXT)
    with bench.fly() as cache:
        tiles = {place: decode(data) for place, data in site.carried().items()}
        for place, pixels in tiles.items():
            assert (cache.tile_image(*place) == pixels).all(), f"another picture of tile {place}"
        mosaic = {place[1:]: pixels for place, pixels in tiles.items()}
        for identifier in list(_chunks_of(bench))[::20]:
            level, *place = chunk_of(identifier)
            (wanted,) = render_chunks(level, [place], mosaic, (32, 32))
            assert (cache.chunk_image(identifier, (32, 32)) == wanted).all(), (
                f"another picture of {identifier}"
            )
        _finds_places(site, cache)
    found = verify(bench.layout, depth=Depth.FULL)
    assert found.go, found.problems[:2]


def _finds_places(site, cache: FlightCache) -> None:
    from tests.ground import ALTITUDE_M, PLACES
    from tests.proven_builds import frames

    assert [each["file"] for each in site.answers()] == list(PLACES)
    for frame, (longitude, latitude) in frames():
        best = cache.locate(frame, altitude_m=ALTITUDE_M, heading_deg=0).candidates[0]
        assert (round(best.longitude, 5), round(best.latitude, 5)) == (
            round(longitude, 5),
            round(latitude, 5),
        )


def mended(bench: Bench) -> None:
    """What was damaged in the first generation is repaired, and then everything holds."""
    assert repair(bench) == ExitCode.DONE, "the damage could not be repaired"
    holds(bench)
