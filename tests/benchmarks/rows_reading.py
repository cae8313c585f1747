"""Rows about existing caches: opening, the build that is up to date, rollback, verification."""

import json
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import faiss
import lmdb
import lmdb.verify
import msgpack
import onnxruntime
from pmtiles.tile import deserialize_directory, deserialize_header

from journal.record import link
from store.cache.view import open_view
from store.disk.artifacts import Artifacts
from store.domain.manifest_projection import project
from store.manifest.manifest import parse
from store.reader import FlightCache
from store.trust.key_files import write_key_pair
from store.verify.coverage import named_by, referenced_by, walk
from store.verify.verify import Depth, verify
from tests.benchmarks.caches import BigSite, write_folder, write_mbtiles, write_pmtiles
from tests.benchmarks.measuring import Row, Settings, at_least, at_most, in_turns, row


def warm_folder(settings: Settings) -> Iterator[Row]:
    """A build that is up to date against `scandir` and `stat` of every file."""
    number = settings.size(20_000, 100_000)
    site = BigSite(settings.place(f"folder-{number}"))
    site.number = number
    tiles = site.root / "tiles"
    write_folder(tiles, number)
    site.built()
    _settle(site, number)

    def scan() -> None:
        found, folders = 0, [str(tiles)]
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.append(entry.path)
                    else:
                        entry.stat()
                        found += 1
        if found != number:
            raise SystemExit(f"expected {number} files, found {found}")

    pairs = in_turns(site.warm, scan, pairs=settings.pairs)
    yield row(
        "warm-xyz",
        f"up-to-date build, {number:,} tiles in a folder",
        "scandir + stat",
        at_most(2),
        pairs,
        rate=False,
    )


def warm_archives(settings: Settings) -> Iterator[Row]:
    """A build of one archive that is up to date against reading its directory once."""
    number = settings.size(100_000, 1_000_000)
    for kind, write, read in (
        ("mbtiles", write_mbtiles, _read_mbtiles),
        ("pmtiles", write_pmtiles, _read_pmtiles),
    ):
        site = BigSite(settings.place(f"{kind}-{number}"))
        site.number = number
        archive = site.root / f"tiles.{kind}"
        write(archive, number)
        source = {"source": archive.name}
        site.built(**source)
        _settle(site, number, **source)
        found = read(archive)
        if found != number:
            raise SystemExit(f"expected {number} tiles in {archive.name}, found {found}")
        pairs = in_turns(
            lambda site=site, source=source: site.warm(**source),
            lambda read=read, archive=archive: read(archive),
            pairs=settings.pairs,
        )
        work = f"up-to-date build, {number:,} tiles in one {kind} file"
        yield row(f"warm-{kind}", work, "reading its directory", at_most(1.5), pairs, rate=False)


def opening(settings: Settings) -> Iterator[Row]:
    """`FlightCache.open` of caches of different sizes, signature checked; the peer is the smallest of them."""
    sizes = [1_000, 10_000, *((100_000, 1_000_000) if settings.full else (100_000,))]
    pair = write_key_pair(settings.place("keys") / "key")
    caches = {}
    for number in sizes:
        site = BigSite(settings.place(f"open-{number}"))
        site.number = number
        site.key = pair.private
        write_pmtiles(site.root / "tiles.pmtiles", number)
        site.built(source="tiles.pmtiles")
        caches[number] = site.cache

    def open_cache(number: int) -> None:
        FlightCache.open(caches[number], trusted_keys=[pair.public_bytes]).close()

    for number in sizes[1:]:
        pairs = in_turns(
            lambda number=number: open_cache(number), lambda: open_cache(sizes[0]), pairs=4 * settings.pairs
        )
        work = f"FlightCache.open, {number:,} tiles"
        yield row(f"open-{number}", work, f"the same of {sizes[0]:,} tiles", at_most(1.25), pairs, rate=False)
        limit = [(ours, 0.010) for ours, _ in pairs]
        yield row(f"open-{number}-limit", work, "10 ms", at_most(1), limit, rate=False)


def verification(settings: Settings) -> Iterator[Row]:
    """Full verification and the coverage walk against parallel SHA-256 of the same files."""
    number = settings.size(20_000, 100_000)
    site = BigSite(settings.place(f"verify-{number}"))
    site.number = number
    write_pmtiles(site.root / "tiles.pmtiles", number)
    site.built(source="tiles.pmtiles")
    state = open_view(site.layout).state
    artifacts, head = Artifacts(site.layout), state.head
    if head is None:
        raise SystemExit("expected a committed generation, found none")
    # The blocks of a real network are hundreds of times longer: artifacts of that size stand in for them.
    named = named_by(parse(project(state, head)), artifacts)
    padding = os.urandom(1 << 20)
    for each in range(settings.size(128, 1024)):
        ref = artifacts.put(each.to_bytes(8, "big") + padding)
        named[ref.sha256] = (f"block {each}", ref.size)
    files = [site.layout.artifact(digest) for digest in named]

    def hash_all() -> None:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for _ in pool.map(_sha256, files):
                pass

    def walk_all() -> None:
        found = walk(artifacts, named, referenced=referenced_by(state), full=True)
        if found.damaged or found.foreign_files:
            raise SystemExit(f"expected a sound cache, found {found.problems[:3]}")

    pairs = in_turns(walk_all, hash_all, pairs=settings.pairs)
    size = sum(size for _, size in named.values()) >> 20
    yield row(
        "walk",
        f"coverage walk, {len(named):,} files, {size:,} MiB",
        "parallel sha256",
        at_least(0.95),
        pairs,
        rate=True,
    )
    work = f"verify --full of a cache of {number:,} small tiles"
    yield from _verified(site, "small", work, settings.pairs)
    site = BigSite(settings.place("verify-large"))
    site.number, site.dimensions = 20_000, 1024
    write_pmtiles(site.root / "tiles.pmtiles", site.number)
    site.built(source="tiles.pmtiles")
    work = f"verify --full of {site.number:,} tiles of {site.dimensions} dimensions"
    yield from _verified(site, "large", work, settings.pairs)


def _verified(site: BigSite, name: str, work: str, pairs: int) -> Iterator[Row]:
    """Full verification against parallel SHA-256 of what the head names, and against the same checks in their
    simplest form.

    The second peer exists because hashing is only a part of the work. It also checks the journal's structure and
    the chain of its records, which it decodes, that of the segments, the digest of the manifest, foreign files in
    the tree, the version of ONNX Runtime, and whether engine and index load, from files that may have changed since
    they were hashed. Verification does more than that: it makes events of the records, folds them, and projects the
    manifest from them again, compares the tables with it, judges the dates of the tiles, and copies what it loads
    into sealed memory. That has its cost however small the artifacts are.
    """
    state = open_view(site.layout).state
    if state.head is None or state.head_build is None or state.head_build.index is None:
        raise SystemExit("expected a committed generation with an index, found none")
    named = named_by(parse(project(state, state.head)), Artifacts(site.layout))
    held = [site.layout.artifact(digest) for digest in named]
    index = site.layout.artifact(state.head_build.index.artifact.sha256)

    engine = site.layout.artifact(state.head_build.engines[0][1].artifact.sha256)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def hash_held() -> None:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for _ in pool.map(_sha256, held):
                pass

    def check_barely() -> None:
        hash_held()
        _read_journal(site.layout.journal)
        for path in site.layout.segments.iterdir():
            _read_segment(path.read_bytes())
        for path in site.layout.manifests.iterdir():
            raw = path.read_bytes()
            json.loads(raw)
            sha256(raw).digest()
        metadata.version("onnxruntime")
        for folder, _, files in os.walk(site.cache):
            for each in files:
                os.lstat(f"{folder}/{each}")
        faiss.read_index(str(index))
        onnxruntime.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])

    def verify_all() -> None:
        found = verify(site.layout, depth=Depth.FULL)
        if found.problems:
            raise SystemExit(f"expected GO, found {found.problems[:3]}")

    size = sum(size for _, size in named.values()) >> 20
    work += f", {len(held):,} files, {size:,} MiB"
    for row_name, peer, theirs in (
        (f"verify-{name}", "parallel sha256", hash_held),
        (f"verify-{name}-bare", "the same checks, bare", check_barely),
    ):
        found = in_turns(verify_all, theirs, pairs=pairs)
        yield row(row_name, work, peer, at_least(0.9), found, rate=True)


def _read_journal(path: Path) -> None:
    """Check the structure of a journal and hash every record, as its chain does, after decoding it."""
    if problems := lmdb.verify.verify(str(path), subdir=False):
        raise SystemExit(f"expected a sound journal, found {problems[:3]}")
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=8) as environment,
        environment.begin(environment.open_db(b"records")) as reading,
    ):
        chain = bytes(32)
        for _, value in reading.cursor():
            if link(chain, value[32:]) != value[:32]:
                raise SystemExit("expected a sound journal, found another digest")
            msgpack.unpackb(value[32:])
            chain = value[:32]


def _read_segment(data: bytes) -> None:
    """Check the chain of the records in a segment; its header ends with the link before the first."""
    chain, at = data[32:64], 64
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        value = data[at + 4 : at + 4 + length]
        if link(chain, value[32:]) != value[:32]:
            raise SystemExit("expected a sound segment, found another digest")
        chain, at = value[:32], at + 4 + length


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _settle(site: BigSite, number: int, **fields: object) -> None:
    """Wait until the source is old enough to be cached, and let a run cache it."""
    import time

    time.sleep(2.1)
    site.warm(**fields)
    if not any((site.root / "memory").iterdir()):
        raise SystemExit(f"expected {number} digests to be remembered, found none")


def _read_mbtiles(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return len(
            database.execute(
                "SELECT zoom_level, tile_column, tile_row, length(tile_data), rowid FROM tiles"
            ).fetchall()
        )


def _read_pmtiles(path: Path) -> int:
    with path.open("rb") as file:
        header = deserialize_header(file.read(127))

        def directory(offset: int, length: int) -> int:
            file.seek(offset)
            found = 0
            for entry in deserialize_directory(file.read(length)):
                if entry.run_length:
                    found += entry.run_length
                else:
                    found += directory(header["leaf_directory_offset"] + entry.offset, entry.length)
            return found

        return directory(header["root_offset"], header["root_length"])
