"""Opens a tile source by what its name looks like; the module of its kind is imported then."""

import time
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import RequestError
from pipeline.tiles.tile import TileMetadataStore


def open_source(
    spec: str,
    base: Path,
    *,
    memory_folder: Path | None = None,
    now_ns: Callable[[], int] = time.time_ns,
) -> TileMetadataStore:
    """Open a tile source.

    Args:
        spec: "dir/{z}/{x}/{y}.ext", "x.mbtiles" or "x.pmtiles".
        base: Folder that a relative spec starts from.
        memory_folder: Where tile digests are remembered between builds; None remembers nothing.
        now_ns: Wall clock in nanoseconds since 1970, the one that stamps files.

    Raises:
        RequestError: when the spec is none of these, or what it names is not there or not readable.
        TileError: when the archive is damaged, unsuitable or still being written.
    """
    path = base / spec
    if "{" in spec:
        from pipeline.tiles.sources.xyz import XYZFolder

        return XYZFolder(spec, base=base, memory_folder=memory_folder, now_ns=now_ns)
    match path.suffix.lower():
        case ".mbtiles":
            from pipeline.tiles.sources.mbtiles import MBTilesArchive

            return MBTilesArchive(path, name=spec, memory_folder=memory_folder, now_ns=now_ns)
        case ".pmtiles":
            from pipeline.tiles.sources.pmtiles import PMTilesArchive

            return PMTilesArchive(path, name=spec, memory_folder=memory_folder, now_ns=now_ns)
        case _:
            raise RequestError(
                f"tiles.source: expected DIR/{{z}}/{{x}}/{{y}}.EXT, X.mbtiles or X.pmtiles, found {spec!r}",
                hint="for a folder of tiles write the three braces out",
                subject=spec,
            )
