"""Compute the table of `docs/scale.md`: constants fitted to measurements, extrapolated to very many tiles.
Pure.

Measurements at three sizes or more give a line by least squares: a cost for each tile, and one for any cache.
The exponent between the two greatest sizes says how far growth is from linear. Growth that exceeds a line by
more than times differ between runs is extrapolated by that exponent from the greatest size.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import log
from statistics import linear_regression
from typing import Any, Final

from pipeline.tiles import digest_cache
from pipeline.tiles.grid import MAX_WANTED
from pipeline.tiles.sources import archive_cache

TARGETS: Final = (5_000_000, 100_000_000, 1_000_000_000)
"""A region of a size that one cache is for, a country, and a continent; the latter two as several caches."""

STEEP: Final = 1.1
"""The greatest exponent that still counts as a line."""

CELL: Final = 256
"""Tiles of a full cell."""

MAP_BYTES: Final = 64 << 30
"""The journal's map, which is never resized."""

MACHINES_GB: Final = (16, 64, 256)

Measured = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How something grows with the number of tiles.

    Attributes:
        each: Cost for each tile.
        base: Constant cost.
        exponent: Growth between the two greatest sizes; 1 is linear.
        last: The greatest size.
        value: The measurement at that size.
        shown: The measurements divided by the tiles, from the smallest size to the greatest.
    """

    each: float
    base: float
    exponent: float
    last: int
    value: float
    shown: tuple[float, ...]

    @property
    def steep(self) -> bool:
        """Whether growth exceeds a line so much that it is extrapolated by the exponent."""
        return self.exponent > STEEP

    def at(self, tiles: int) -> float:
        """Extrapolate to so many tiles; a steep one never below its line."""
        if self.steep:
            return max(self.straight(tiles), float(self.value * (tiles / self.last) ** self.exponent))
        return self.straight(tiles)

    def straight(self, tiles: int) -> float:
        """Extrapolate as a line, whatever the exponent."""
        return self.base + self.each * tiles

    def reaching(self, value: float) -> float:
        """Return the number of tiles at which it reaches a value; the inverse of `at`."""
        straight = (value - self.base) / self.each
        if self.steep:
            return min(straight, float(self.last * (value / self.value) ** (1 / self.exponent)))
        return straight


def fitted(measured: Measured, name: str, *, tiles: int = 1) -> Line:
    """Fit a line to measurements.

    Args:
        measured: Figures by size.
        name: Name of the figure to fit.
        tiles: Tiles of one unit of size.

    Raises:
        ValueError: There are fewer than three sizes.
    """
    points = sorted((int(size) * tiles, float(found[name])) for size, found in measured.items())
    if len(points) < 3:
        raise ValueError(f"expected {name} at three sizes or more, found {len(points)}")
    sizes, values = zip(*points, strict=True)
    slope, base = linear_regression(sizes, values)
    exponent = log(max(values[-1], 1e-9) / max(values[-2], 1e-9)) / log(sizes[-1] / sizes[-2])
    shown = tuple(value / size for size, value in points)
    return Line(each=slope, base=base, exponent=exponent, last=sizes[-1], value=values[-1], shown=shown)


def table(kept: Mapping[str, Measured], *, network_ms: float | None, feed_ms: float) -> Iterator[str]:
    """Yield the lines of the document's tables.

    Args:
        kept: Measurements by part.
        network_ms: Milliseconds of a large network for a tile, with decoding; by default as measured.
        feed_ms: Milliseconds that a builder spends on a cell that it sends to a Ray cluster.
    """
    builds, journals, indexes = kept["builds"], kept["journals"], kept["indexes"]
    (embedding,) = kept["embedding"].values()
    large_ms = network_ms or embedding["resnet50_ms"]
    lines = {
        **{name: fitted(builds, name) for name in _OF_BUILDS},
        **{name: fitted(journals, name, tiles=CELL) for name in _OF_JOURNALS},
        **{name: fitted(indexes, name) for name in _OF_INDEXES},
    }
    yield from _constants(lines, embedding)
    yield ""
    yield from _steep(lines)
    yield ""
    yield from _limits()
    yield ""
    yield from _reckoned(lines, embedding, large_ms, feed_ms)
    yield ""
    yield from _ends(lines)
    yield ""
    own_ms = feed_ms + 1000 * CELL * lines["cells_s"].at(TARGETS[0]) / TARGETS[0]
    for words, ms in (("`builtin:place`", embedding["place_ms"]), ("the large network", large_ms)):
        count = CELL * ms / own_ms
        yield f"One builder keeps about {count:,.0f} workers with {words} busy ({own_ms:.0f} ms of its own for a cell)."
    size, found = max(builds.items(), key=lambda each: int(each[0]))
    commonest = sorted(found["records"].items(), key=lambda each: (-each[1], each[0]))
    counted = ", ".join(f"{count:,} `{tag}`" for tag, count in commonest)
    yield f"A build of {int(size):,} tiles appends {counted}."


_OF_BUILDS: Final = {
    "gather_s": "select the tiles of an archive, first run",
    "cells_s": "cells without a network: windows, blocks, records",
    "tiles_memory": "memory that the selected tiles keep",
    "build_memory": "peak of memory up to the index",
    "tile_table_bytes": "tile table, bytes",
    "block_bytes": "blocks, bytes",
    "block_table_bytes": "block table, bytes",
    "segment_bytes": "segment of the commit, bytes",
    "flat_bytes": "flat index, bytes",
    "flat_s": "flat index",
    "archive_bytes": "cached digests of the archive, bytes",
}
_OF_JOURNALS: Final = {
    "journal_bytes": "journal on disk, bytes",
    "append_s": "append: a window's start, then its two cells",
    "fold_s": "fold the journal from its first record",
    "state_memory": "state in memory, bytes",
}
_OF_INDEXES: Final = {
    "hnsw_s": "HNSW32 graph",
    "hnsw_bytes": "HNSW32, bytes",
    "hnsw_memory": "HNSW32, peak of memory while it is built",
}


def _constants(lines: Mapping[str, Line], embedding: Mapping[str, float]) -> Iterator[str]:
    yield "| measured, for each tile | at the smallest size | in between | at the greatest | fitted | exponent | extrapolated by |"
    yield "|---|---|---|---|---|---|---|"
    for name, words in (_OF_BUILDS | _OF_JOURNALS | _OF_INDEXES).items():
        line, show = lines[name], _micro if name.endswith("_s") else _plain
        first, *between, last = map(show, line.shown)
        by = "exponent" if line.steep else "line"
        found = f"{first} | {', '.join(between)} | {last} | {show(line.each)} | {line.exponent:.2f}"
        yield f"| {words} | {found} | {by} |"
    yield ""
    yield "| measured, one thread | ms for each tile |"
    yield "|---|---|"
    yield f"| decode a JPEG of {embedding['tile_bytes'] / 1000:.1f} kB | {embedding['decode_ms']:.2f} |"
    yield f"| read from memory and hash it | {embedding['hash_ms']:.3f} |"
    yield f"| decode, prepare, `builtin:place` | {embedding['place_ms']:.2f} |"
    yield f"| decode, prepare, ResNet-50 | {embedding['resnet50_ms']:.1f} |"


def _steep(lines: Mapping[str, Line]) -> Iterator[str]:
    """Return the text about exponents above `STEEP` at the greatest target."""
    greatest = TARGETS[-1]
    yield f"| exponent above {STEEP} | by a line, {_tiles(greatest)} | by its exponent |"
    yield "|---|---|---|"
    for name, line in lines.items():
        if line.steep:
            show = _seconds if name.endswith("_s") else _bytes
            words = (_OF_BUILDS | _OF_JOURNALS | _OF_INDEXES)[name]
            yield f"| {words}, {line.exponent:.2f} | {show(line.straight(greatest))} | {show(line.at(greatest))} |"


def _limits() -> Iterator[str]:
    yield "| limits that the program sets | tiles | beyond |"
    yield "|---|---|---|"
    for words, tiles, beyond in (
        ("digests cached for a folder of tiles", digest_cache.MAX_ROWS, "a build hashes the rest again"),
        ("one request, by its area", MAX_WANTED, "refused (`too-many-tiles`)"),
        (
            "digests cached for an archive",
            archive_cache.MAX_ROWS,
            "areas before the last are hashed again",
        ),
    ):
        yield f"| {words} | {_tiles(tiles)} | {beyond} |"


def _reckoned(
    lines: Mapping[str, Line], embedding: Mapping[str, float], network_ms: float, feed_ms: float
) -> Iterator[str]:
    def hours(tiles: int, ms: float) -> float:
        return tiles * ms / 3_600_000

    def feed(tiles: int) -> float:
        return hours(tiles, feed_ms / CELL)

    rows: list[tuple[str, Callable[[int], str]]] = [
        ("full cells", lambda n: f"{n / CELL:,.0f}"),
        ("tiles, 20 kB each", lambda n: _bytes(n * embedding["tile_bytes"])),
        (
            "select and hash the tiles, first run, without their disk",
            lambda n: _hours(lines["gather_s"].at(n) / 3600 + hours(n, embedding["hash_ms"])),
        ),
        ("embed with `builtin:place`, one worker", lambda n: _hours(hours(n, embedding["place_ms"]))),
        (f"embed with {network_ms:.0f} ms a tile, one worker", lambda n: _hours(hours(n, network_ms))),
        ("the same on 100 workers", lambda n: _hours(hours(n, network_ms) / 100)),
        ("the builder's share on Ray: read, send, receive", lambda n: _hours(feed(n))),
        (
            "the builder's share anyway: assemble, store, append",
            lambda n: _hours(lines["cells_s"].at(n) / 3600),
        ),
        ("of which appending alone", lambda n: _hours(lines["append_s"].at(n) / 3600)),
        ("HNSW32 graph, two cores, if it fits", lambda n: _hours(lines["hnsw_s"].at(n) / 3600)),
        ("journal, one build", lambda n: _bytes(lines["journal_bytes"].at(n))),
        ("segment of its commit", lambda n: _bytes(lines["segment_bytes"].at(n))),
        ("fold from the first record", lambda n: _hours(lines["fold_s"].at(n) / 3600)),
        ("blocks", lambda n: _bytes(lines["block_bytes"].at(n))),
        ("tile table, block table", lambda n: _tables(lines, n)),
        ("memory of the builder up to the index", lambda n: _bytes(lines["build_memory"].at(n))),
        ("memory of a folded state (any command)", lambda n: _bytes(lines["state_memory"].at(n))),
        ("HNSW32 on disk; on board it takes no less memory", lambda n: _bytes(lines["hnsw_bytes"].at(n))),
        ("HNSW32 while it is built", lambda n: _bytes(lines["hnsw_memory"].at(n))),
    ]
    region, country, continent = (f"{_tiles(tiles)} (" for tiles in TARGETS)
    least = [-(-tiles // MAX_WANTED) for tiles in TARGETS]
    yield (
        f"| calculated, full cells | {region}a region) | {country}a country, {least[1]} caches or more) "
        f"| {continent}a continent, {least[2]} caches or more) |"
    )
    yield "|---|---|---|---|"
    for words, figure in rows:
        yield f"| {words} | {' | '.join(figure(tiles) for tiles in TARGETS)} |"


def _ends(lines: Mapping[str, Line]) -> Iterator[str]:
    def reach(name: str, size: float) -> str:
        return _tiles(lines[name].reaching(size))

    heads = " | ".join(f"{size} GB" for size in MACHINES_GB)
    yield f"| tiles that a machine's memory holds | {heads} |"
    yield "|---|" + "---|" * len(MACHINES_GB)
    for name, words in (
        ("hnsw_bytes", "HNSW32, on board, at most"),
        ("hnsw_memory", "HNSW32, while it is built"),
        ("flat_bytes", "flat index, on board, at most"),
        ("build_memory", "the builder up to the index"),
        ("state_memory", "a folded state"),
    ):
        yield f"| {words} | {' | '.join(reach(name, size * 1e9) for size in MACHINES_GB)} |"
    yield ""
    yield "| ends of the journal | tiles |"
    yield "|---|---|"
    yield f"| its map of 64 GiB, every cell embedded once | {reach('journal_bytes', MAP_BYTES)} |"


def _tables(lines: Mapping[str, Line], tiles: int) -> str:
    return ", ".join(_bytes(lines[name].at(tiles)) for name in ("tile_table_bytes", "block_table_bytes"))


def _plain(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _micro(value: float) -> str:
    return f"{1e6 * value:.3g} us"


def _seconds(seconds: float) -> str:
    return _hours(seconds / 3600)


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.2g} s"
    if hours < 1:
        return f"{60 * hours:.2g} min"
    return f"{hours:.2g} h" if hours < 100 else f"{hours / 24:,.0f} days"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def _tiles(count: float) -> str:
    return f"{count / 1e6:,.3g} M" if count < 1e8 else f"{count / 1e6:,.0f} M"
