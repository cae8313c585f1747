"""Rows about many tiles, their changes and their memory; and about networks of a realistic size."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from pipeline.request.options import IndexKind
from store.cache.view import open_view
from tests.benchmarks.caches import BigSite, change_one, write_mbtiles, write_pmtiles
from tests.benchmarks.measuring import Row, Settings, at_least, at_most, row
from tests.benchmarks.watched import ARCHIVE, peak, watch

_ALLOWED_S = 2.0
_ALLOWED_BYTES = 1.5e9
_LIMIT_S = 4.0
_PLAN_BYTES = 0.6e9
REALISTIC = 93
"""Repeats of a tile's bytes that make it 1.4 kB."""
_DIMENSIONS = 512
_BATCH = 8
_ROUND_S = 2.0


def one_changed(settings: Settings) -> Iterator[Row]:
    """A build after one tile of an archive changed: beyond its allowed cost, and as part of a full build.

    The allowed cost is that of a build that is up to date, that of a new index, whose seconds are in the
    journal of the full build, and two seconds more. The full build with a network like ResNet-50 is computed:
    the build without a network, and the network's seconds for every tile, as measured in this run on a few
    batches with all processors. A graph is the default index of a region of this size.
    """
    number = settings.size(100_000, 100_000)
    work = f"build after one of {number:,} tiles changed"
    for kind, dimensions in ((IndexKind.FLAT, 16), (IndexKind.HNSW, 384)):
        site = BigSite(settings.place(f"changed-{kind}"))
        site.number, site.dimensions, site.kind = number, dimensions, kind
        began = perf_counter()
        archive = _built(site)
        bare, new_index = perf_counter() - began, _index_s(site)
        found = list(_changed(site, archive, pairs=settings.pairs))
        name = "one-changed" if kind is IndexKind.FLAT else f"one-changed-{kind}"
        beyond = [(changed, warm + new_index + _ALLOWED_S) for changed, warm in found]
        yield row(name, f"{work}, {kind}", "up-to-date build + index + 2 s", at_most(1), beyond, rate=False)
    full = bare + number * _network_s()
    parts = [(changed, full) for changed, _ in found]
    yield row("one-changed-share", work, "full build with ResNet-50", at_most(0.01), parts, rate=False)


def one_changed_archive(settings: Settings) -> Iterator[Row]:
    """A build after one tile of an archive changed, and first plans, against a limit of four seconds for a million.

    After a change the whole archive is read and hashed again. Tiles have 1.4 kB, as plain satellite imagery in
    WebP or JPEG of a low quality.
    """
    number = settings.size(100_000, 1_000_000)
    site = BigSite(settings.place("archive"))
    site.number, site.dimensions, site.kind = number, 16, IndexKind.FLAT
    for ending, write in (("mbtiles", write_mbtiles), ("pmtiles", write_pmtiles)):
        archive = site.root / f"tiles.{ending}"
        write(archive, number, repeats=REALISTIC)
        plans = []
        for _ in range(settings.pairs):
            shutil.rmtree(site.root / "memory", ignore_errors=True)
            plans.append(watch("tests.benchmarks.planned", str(site.root), archive.name, str(number)))
        work = f"first plan of {number:,} tiles in one {ending} file of {archive.stat().st_size / 1e9:.2f} GB"
        found = [(answer["seconds"], _LIMIT_S) for _, answer in plans]
        yield row(f"first-plan-{ending}", work, f"limit of {_LIMIT_S:g} s", at_most(1), found, rate=False)
        found = [(float(greatest), _PLAN_BYTES) for greatest, _ in plans]
        name, peer = f"first-plan-{ending}-memory", "limit of 0.6 GB"
        yield row(name, f"peak memory of the {work}", peer, at_most(1), found, rate=False, unit="B")
    archive = _built(site, repeats=REALISTIC)
    found = [(changed, _LIMIT_S) for changed, _ in _changed(site, archive, pairs=settings.pairs)]
    work = f"build after one of {number:,} tiles of an archive changed"
    yield row("one-changed-archive", work, f"limit of {_LIMIT_S:g} s", at_most(1), found, rate=False)


def _built(site: BigSite, *, repeats: int = 16) -> Path:
    """Write the archive of a site and build its cache."""
    archive = site.root / "tiles.mbtiles"
    archive.unlink(missing_ok=True)
    write_mbtiles(archive, site.number, repeats=repeats)
    site.built(source=archive.name)
    return archive


def _index_s(site: BigSite) -> float:
    build = open_view(site.layout).state.head_build
    if build is None or build.index is None:
        raise SystemExit("expected an index, found none")
    return build.index.elapsed_ms / 1000


def _changed(site: BigSite, archive: Path, *, pairs: int) -> Iterator[tuple[float, float]]:
    """Return the seconds of a build after a tile changed, and of the up-to-date build before it."""
    for place in range(pairs):
        # What was just written is not remembered: it could change once more without showing it.
        time.sleep(2.1)
        site.warm(source=archive.name)
        began = perf_counter()
        site.warm(source=archive.name)
        warm = perf_counter() - began
        change_one(archive, place)
        began = perf_counter()
        site.built(source=archive.name)
        yield perf_counter() - began, warm
        build = open_view(site.layout).state.head_build
        if build is None or build.tiles_embedded != 1:
            raise SystemExit(f"expected one tile to be embedded, found {build}")


def _network_s() -> float:
    """Return the seconds that a network like ResNet-50 takes for a tile here, with all processors."""
    from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
    from tests.benchmarks.engines_cpu import NETWORKS, compiled, golden_inputs, rounds

    make, side = NETWORKS["ResNet-50"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(make())
        samples = golden_inputs((_BATCH, 3, side, side))
        threads = len(os.sched_getaffinity(0))
        engine, _, _ = compiled(OnnxRuntimeCompiler(), "fp32", path, samples, threads=threads)
        walls, _ = rounds([engine], samples, seconds=_ROUND_S)
    return float(walls.mean()) / _BATCH


def memory(settings: Settings) -> Iterator[Row]:
    """Greatest resident memory of a whole build, against the size of the finished index and 1.5 GB.

    Descriptors come from no network, so that no workers run beside the build. The memory of real workers is
    that of their network, and they have ended before the index is built, where the peak is.
    """
    number = settings.size(100_000, 1_000_000)
    site = settings.place("memory")
    write_mbtiles(site / ARCHIVE, number)
    for kind in (IndexKind.FLAT, IndexKind.HNSW):
        greatest, size = peak(site, number, _DIMENSIONS, kind)
        shutil.rmtree(site / "cache")
        work = f"greatest memory of a build of {number:,} tiles of {_DIMENSIONS}, {kind}"
        found = [(float(greatest), size + _ALLOWED_BYTES)]
        yield row(f"memory-{kind}", work, "its index + 1.5 GB", at_most(1), found, rate=False, unit="B")


def openvino(settings: Settings) -> Iterator[Row]:
    """ResNet-50 in bfloat16 on OpenVINO against ONNX Runtime, batch 8, one thread each."""
    from tests.benchmarks import engines_cpu

    found = []
    for _ in range(settings.pairs):
        with tempfile.TemporaryDirectory() as folder:
            rows = list(
                engines_cpu.measured(
                    "ResNet-50", batch=_BATCH, threads=1, seconds=_ROUND_S, work=Path(folder)
                )
            )
        fast = [each for each in rows if each.precision == "bf16"]
        if not fast:
            target = at_least(4)
            yield Row(
                name="openvino-bf16",
                work="",
                peer="",
                target=target,
                missing="this processor has no bfloat16",
            )
            return
        found.append((1 / fast[0].per_second, 1 / rows[0].per_second))
    work = "ResNet-50, one image, OpenVINO bf16"
    yield row("openvino-bf16", work, "ONNX Runtime fp32", at_least(4), found, rate=True)
