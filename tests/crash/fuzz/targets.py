"""What decodes bytes that somebody else may have written, with valid inputs to start from.

Each target is a function that makes a `Target`. `feed` decodes an input and holds it to what its decoder promises: only
the project's own error, or a value that is encoded again to the very same bytes.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from journal import JournalError, RecordError
from journal.record import GENESIS, Entry, Record, link
from journal.record import decode as decode_record
from journal.record import encode as encode_record
from pipeline.errors import CompileError, RequestError, TileError
from store.base.canonical_json import encode as canonical_json
from store.cache import segment
from store.cache.view import read_history
from store.disk.layout import Layout
from store.domain import event_codec
from store.errors import (
    ArtifactError,
    BundleError,
    DamagedHistoryError,
    NoGoError,
    RequestRefusedError,
    StoreError,
    UnknownEventError,
)
from store.formats import descriptor_block
from store.formats.tables import decode_blocks, decode_tiles
from store.manifest.manifest import parse
from store.testing import FakeClock
from store.transfer import import_bundle
from store.transfer.bundle import read_bundle
from store.transfer.bundle_format import write_bundle
from store.transfer.bundle_reader import open_bundle, read_stream
from store.transfer.export import export
from store.transfer.have import find_have, read_have
from tests.crash.fuzz.mutation import mutated, regrown, reworded
from tests.crash.powercut.writer import scenario
from tests.sample_request import REQUEST
from tests.store_caches import record_builds


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder under test.

    Attributes:
        seeds: Valid inputs.
        feed: Decodes one; returns whether it was accepted.
        change: Makes an input of (a seed, all seeds, dice).
        errors: What it may raise.
    """

    seeds: list[bytes]
    feed: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    change: Callable = mutated


def _cache(folder):
    """A little cache with some history; returns its layout."""
    layout = Layout(Path(folder) / "cache")
    record_builds(
        layout,
        scenario(),
        scenario("f2", tiles={(1, 0): "B"}, fail_at="index"),
        scenario("f3", tiles={(5, 5): "d"}),
    )
    return layout


def records(folder):
    facts = read_history(_cache(folder)).facts
    entries = segment.decode(_segment(folder)).entries
    seeds = [entry.raw for entry in entries]
    assert facts

    def feed(data):
        record = decode_record(data)
        assert encode_record(record) == data, "two encodings of one record"
        event = event_codec.decode(record.tag, record.version, record.payload)
        tag, version, payload = event_codec.encode(event)
        assert (tag, version) == (record.tag, record.version)
        again = encode_record(record._replace(payload=payload))
        assert again == data, "an event is encoded otherwise than it was read"

    def change(data, others, dice):
        if dice.random() < 0.5:
            return mutated(data, others, dice)
        record = decode_record(data)
        try:
            return encode_record(
                Record(
                    tag=dice.choice((record.tag, record.tag, "build.started", "no.such")),
                    version=dice.choice((record.version,) * 8 + (2, 0)),
                    build=record.build,
                    wall_ns=record.wall_ns,
                    mono_ns=record.mono_ns,
                    payload=regrown(record.payload, dice),
                )
            )
        except RecordError:
            return mutated(data, others, dice)

    return Target(seeds, feed, (RecordError, DamagedHistoryError, UnknownEventError), change)


def _segment(folder):
    return max((Path(folder) / "cache" / "segments").iterdir()).read_bytes()


def manifests(folder):
    layout = _cache(folder)
    seeds = [path.read_bytes() for path in sorted(layout.manifests.glob("*.json"))]

    def change(data, others, dice):
        if dice.random() < 0.4:
            return mutated(data, others, dice)
        tree = json.loads(data)
        for _ in range(dice.choice((1, 1, 2))):
            tree = regrown(tree, dice)
        try:
            text = canonical_json(tree)
        except (TypeError, ValueError, RecursionError):
            text = json.dumps(tree, sort_keys=True, separators=(",", ":"), default=str).encode()
        return text + dice.choice((b"\n", b"\n", b"\n", b"", b" \n"))

    return Target(seeds, parse, (NoGoError,), change)


def requests(folder):
    from pipeline import BuildRequest

    seeds = [REQUEST.encode(), (REQUEST + _MORE).encode()]

    def feed(data):
        BuildRequest.parse(data.decode("utf-8", "replace"), base=Path(folder))

    return Target(seeds, feed, (RequestError,), reworded)


def images(folder):
    from pipeline.tiles.images.decode import decode

    seeds = []
    for encoding, options in (
        ("png", {}),
        ("png", {"optimize": True}),
        ("jpeg", {"quality": 80}),
        ("jpeg", {"progressive": True}),
        ("webp", {"lossless": True}),
        ("webp", {"quality": 40}),
    ):
        for mode in ("RGB", "L", *(("RGBA", "P") if encoding == "png" else ())):
            buffer = io.BytesIO()
            _picture(len(seeds)).convert(mode).save(buffer, encoding, **options)
            seeds.append(buffer.getvalue())

    def feed(data):
        pixels = decode(data, max_pixels=1 << 20, subject="3/1/2")
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.size <= 3 << 20

    return Target(seeds, feed, (TileError,))


def _picture(seed):
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8))


def archives(folder):
    from pipeline.tiles.sources.read_tile import close_archives, read_tile
    from pipeline.tiles.sources.registry import open_source
    from tests import tile_archives

    folder, seeds = Path(folder), []
    tiles = tile_archives.block(5, 3, 4)
    tile_archives.write_pmtiles(folder / "a.pmtiles", tiles)
    tile_archives.write_pmtiles(folder / "b.pmtiles", tiles, leaf_entries=4)
    tile_archives.write_pmtiles(folder / "c.pmtiles", tiles, gzipped=False)
    tile_archives.write_mbtiles(folder / "d.mbtiles", tiles)
    tile_archives.write_mbtiles(folder / "e.mbtiles", tiles, view=True)
    for path in sorted(folder.glob("?.*tiles")):
        kind = b"p" if path.suffix == ".pmtiles" else b"m"
        seeds.append(kind + path.read_bytes())

    def feed(data):
        path = folder / ("x.pmtiles" if data[:1] == b"p" else "x.mbtiles")
        path.write_bytes(data[1:])
        try:
            found = open_source(path.name, folder).query_by_bbox(tile_archives.WORLD, (0, 8))
            for tile in found[:20]:
                read_tile(tile.locator)
        finally:
            close_archives()

    def change(data, others, dice):
        body = bytearray(data[1:])
        if dice.random() < 0.5:
            # Half of the changes go where the structure is.
            body[: 1 << 10] = mutated(bytes(body[: 1 << 10]), others, dice)
            return data[:1] + bytes(body)
        return data[:1] + mutated(bytes(body), others, dice)

    return Target(seeds, feed, (TileError, RequestError), change)


def networks(folder):
    from pipeline.engines.onnx.file import fix_sizes, parse_declaration
    from tests.small_builds import tiny_network
    from tests.toy_networks import toy_network

    seeds = [tiny_network(), tiny_network(unit=False), toy_network(size=(32, 32)).SerializeToString()]

    def feed(data):
        import onnx

        signature = parse_declaration(data).signature()
        model = onnx.ModelProto()
        model.ParseFromString(data)
        fix_sizes(model, signature, batch=4, sample_shape=(3, 32, 32), model_name="place")

    def change(data, others, dice):
        if dice.random() < 0.3:
            return mutated(data, others, dice)
        # The weights are most of a network and mean nothing to who reads it; what does is at both ends.
        size = 400
        if dice.random() < 0.5:
            return mutated(data[:size], others, dice) + data[size:]
        return data[:-size] + mutated(data[-size:], others, dice)

    return Target(seeds, feed, (CompileError,), change)


def segments(folder):
    _cache(folder)
    seeds = [path.read_bytes() for path in sorted((Path(folder) / "cache" / "segments").iterdir())]
    return Target(seeds, segment.decode, (DamagedHistoryError,))


def tables(folder):
    layout = _cache(folder)
    seeds = [
        path.read_bytes()
        for path in sorted(layout.artifacts.glob("??/*"))
        if path.read_bytes()[:8] in {b"C10TILE1", b"C10BLCK1"}
    ]
    assert seeds

    def feed(data):
        decode = decode_tiles if data[:4] == b"C10T" else decode_blocks
        decode(data)

    return Target(seeds, feed, (ArtifactError,))


def vectors(folder):
    import numpy as np

    rows = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    block = descriptor_block.Block(
        zoom=6,
        cell_x=0,
        cell_y=0,
        dimensions=8,
        ids=descriptor_block.descriptor_ids(np.full(6, 6), np.arange(6), np.zeros(6, int)),
        digests=np.frombuffer(bytes(range(192)), np.uint8).reshape(6, 32),
        texture=np.ones(6, np.float32),
        vectors=rows / np.linalg.norm(rows, axis=1, keepdims=True),
    )
    return Target([descriptor_block.encode(block)], descriptor_block.decode, (descriptor_block.BlockError,))


def bundles(folder):
    layout = _cache(folder)
    for name, build in (("a", None), ("b", 1), ("c", 2)):
        export(layout, Path(folder) / f"{name}.bundle", build=build)
    seeds = [path.read_bytes() for path in sorted(Path(folder).glob("?.bundle"))]
    path = Path(folder) / "x"

    def feed(data):
        path.write_bytes(data)
        found = read_bundle(path)
        for opened in (open_bundle(path), nullcontext(read_stream(io.BytesIO(data), "x"))):
            with opened as reader:
                assert tuple(reader.entries()) == found.entries
                for ref in reader.artifacts():
                    content = b"".join(reader.pieces(ref))
                    assert found.read(ref) in {None, content}
                assert reader.finish().size == len(data)

    def change(data, others, dice):
        if dice.random() < 0.02:
            return data
        at = dice.choice((300, len(data)))
        body = mutated(data[:at], others, dice) + data[at:-32]
        return body + hashlib.sha256(body).digest() if dice.random() < 0.8 else mutated(data, others, dice)

    return Target(seeds, feed, (BundleError,), change)


def haves(folder):
    have = find_have(_cache(folder))
    more = replace(have, lacks=frozenset({"ab" * 32}), extra={"cd" * 32: 7, "ef" * 32: 0})
    seeds = [each.encode() for each in (have, more, find_have(Layout(Path(folder) / "none")))]
    return Target(seeds, lambda data: read_have(io.BytesIO(data), "x"), (RequestRefusedError,))


def imports(folder):
    """Bundles of somebody who knows how to make the chain and the trailer right."""
    layout, path = _cache(folder), Path(folder) / "x"
    # LMDB reserves more addresses than a worker has; by then everything hostile was looked at.
    import_bundle._append = lambda _, history, *__, **___: history.state
    export(layout, Path(folder) / "a.bundle")
    seeds = [(Path(folder) / "a.bundle").read_bytes()]
    right = read_bundle(Path(folder) / "a.bundle")
    with open_bundle(Path(folder) / "a.bundle") as reader:
        list(reader.entries())
        contents = [(ref, [b"".join(reader.pieces(ref))]) for ref in reader.artifacts()]

    def feed(data):
        path.write_bytes(data)
        with tempfile.TemporaryDirectory(dir=folder) as new:
            import_bundle.import_bundle(Layout(Path(new) / "c"), path, clock=FakeClock(), host={})

    def change(_, others, dice):
        at, raws = dice.randrange(len(right.entries)), [entry.raw for entry in right.entries]
        record = decode_record(raws[at])
        try:
            changed = record._replace(payload=regrown(record.payload, dice))
            raws[at] = encode_record(changed if dice.random() < 0.9 else record._replace(build=7))
        except RecordError:
            raws[at] = mutated(raws[at], [raws[0]], dice) or b"x"
        if dice.random() < 0.1:
            del raws[dice.randrange(len(raws)) :]
        chain, entries, parts = GENESIS, list[Entry](), list[bytes]()
        for seq, raw in enumerate(raws or [b"x"], start=1):
            chain = link(chain, raw)
            entries.append(Entry(seq=seq, chain=chain, raw=raw))
        header = replace(right.header, records=len(entries), chain=chain.hex())
        write_bundle(parts.append, header, entries, contents)
        return b"".join(parts)

    return Target(seeds, feed, (StoreError, JournalError), change)


TARGETS = {
    target.__name__: target
    for target in (
        records,
        manifests,
        requests,
        images,
        archives,
        networks,
        segments,
        tables,
        vectors,
        bundles,
        haves,
        imports,
    )
}

_MORE = """\
m = 32
ef = 64
storage = "fp16"

[coverage]
min_fraction = 0.5

[checks]
recall = 0.9

[[models]]
name = "aux"
role = "auxiliary"
onnx = "aux.onnx"
size = [64, 64]
mean = [0.1, 0.2, 0.3]
std = [1.0, 1.0, 1.0]
colour = "bgr"
layout = "nhwc"
"""
