"""Tiles, windows and an engine for tests of what embeds tiles."""

import hashlib
import io

import numpy as np
import onnxruntime
from PIL import Image

from pipeline.embed.cells import group_cells, plan_windows, shared_digests
from pipeline.embed.worker_messages import EngineSpec
from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.tile import SourceTile
from pipeline.tiles.tile_columns import TileColumns
from store.base.preprocessing import Preprocessing
from tests.toy_networks import DIMENSIONS, toy_network

BATCH = 4
PREPROCESSING = Preprocessing(size=(32, 32), mean=(100.0, 110.0, 120.0), std=(50.0, 51.0, 52.0))


def write_engine(folder):
    """Write a small network as an engine of ONNX Runtime."""
    path = folder / "engine.onnx"
    data = toy_network(batch=BATCH, size=(32, 32)).SerializeToString()
    path.write_bytes(data)
    return EngineSpec(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        backend="onnxruntime",
        version=onnxruntime.__version__,
        input="input",
        output="descriptor",
        batch=BATCH,
        dimensions=DIMENSIONS,
    )


def picture(number):
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((64, 64)).save(buffer, "JPEG" if number % 2 else "PNG")
    return buffer.getvalue()


def write_pictures(folder, count):
    """Write pictures as files; return them as tiles, five to a cell."""
    tiles = []
    for number in range(count):
        content = picture(number)
        path = folder / f"{number}.tile"
        path.write_bytes(content)
        tile = SourceTile(
            z=12,
            x=16 * (number // 5),
            y=number % 5,
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            captured=None,
            locator=("file", str(path)),
        )
        tiles.append(tile)
    return tiles


def cells_of_tiles(tiles):
    return group_cells(RetrievalUnits.of_tiles(tiles))


def shown_tiles(tiles):
    return ShownTiles(TileColumns.joined([tiles]), {})


def windows_of(tiles, size=5):
    cells = cells_of_tiles(tiles)
    return plan_windows(cells, shown=shown_tiles(tiles), shared=shared_digests(cells), size=size)


def embed(batcher, tiles, engine, size=5, **callbacks):
    return list(
        batcher.embed(windows_of(tiles, size), engine=engine, preprocessing=PREPROCESSING, **callbacks)
    )


def rows_by_digest(results):
    """Digest of each embedded unit to the bytes of its descriptor and texture; each was embedded once."""
    rows = [
        (digest, (vector.tobytes(), texture.tobytes()))
        for result in results
        for digest, vector, texture in zip(
            result.units.hex_digests, result.vectors, result.texture, strict=True
        )
    ]
    assert len(dict(rows)) == len(rows), "a window came back twice"
    return dict(rows)
