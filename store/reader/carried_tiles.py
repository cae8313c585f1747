"""The pixels of a flight cache that carries its tiles: encoded tiles, decoded ones, and chunks cut from them.

Carried tiles may be larger than the memory, so they stay on the medium. A tile is read from its pack when it is
asked for, and its bytes must have the digest that the tile table says: whatever happened to the file since it
was opened, they are the bytes that the ground saw, or an error.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from store.base.geometry.lattice import chunk_of, tile_span
from store.base.geometry.mosaic import full_size, render_chunks
from store.base.identity import CELL_SHIFT, descriptor_id, tile_of
from store.base.preprocessing import MAX_SIDE, Pixels, flatten_alpha
from store.base.values import require_whole_number, shown, whole_number
from store.errors import ArtifactError, ErrorKind, RequestRefusedError, TranslateShortages
from store.formats.carried_tiles import HEADER_SIZE, decode_index, index_size
from store.formats.tables import BlockRow, TileTable, decode_tiles
from store.manifest.manifest import Manifest
from store.manifest.roles import PACKS
from store.reader import table_checks
from store.reader.arguments import require_pillow
from store.reader.artifact_files import ArtifactFiles
from store.reader.loading import is_chunk
from store.reader.manifest_files import damaged
from store.reader.results import Tile
from store.reader.verify_content import pack_name


@dataclass(slots=True)
class Packs:
    """The packs of a cache, by cell, and what was read of their beginnings."""

    _files: ArtifactFiles
    _tiles: TileTable
    _rows: dict[tuple[int, int, int], BlockRow]
    _indexes: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def open(cls, manifest: Manifest, files: ArtifactFiles, tiles: Callable[[], TileTable]) -> "Packs":
        """Read the pack table; `tiles` returns the tile table.

        Raises:
            RequestRefusedError: The cache carries no tiles.
            NoGoError: One of the tables is damaged.
        """
        files.require_open()
        if manifest.carried is None:
            raise RequestRefusedError(
                "expected a cache that carries its tiles, found one without",
                kind=ErrorKind.NOT_CARRIED,
                hint="build it again with [carry] tiles = true in the request",
            )
        try:
            rows = table_checks.packs_of(manifest, files.view(PACKS, manifest.carried.packs))
        except ArtifactError as error:
            raise damaged([f"{PACKS}: {error.message}"]) from error
        return cls(files, tiles(), {(row.zoom, row.cell_x, row.cell_y): row for row in rows})

    def read_bytes(self) -> Iterator[bytes]:
        """Yield what was read of the packs and is kept."""
        yield from self._indexes.values()

    def ids(self) -> Iterator[int]:
        """Open every pack, and yield the descriptor ids of all carried tiles.

        Raises:
            NoGoError: A pack is missing or damaged.
        """
        for row in self._rows.values():
            yield from self._places(row)

    def read(self, identifier: int) -> bytes | None:
        """Return the bytes that a pack has of a tile, not hashed; None if no pack has it.

        Raises:
            NoGoError: Its pack is missing or damaged.
        """
        zoom, x, y, _ = tile_of(identifier)
        row = self._rows.get((zoom, x >> CELL_SHIFT, y >> CELL_SHIFT))
        place = None if row is None else self._places(row).get(identifier)
        if row is None or place is None:
            return None
        return self._files.read_part(pack_name(row), row.ref, *place)

    def _places(self, row: BlockRow) -> dict[int, tuple[int, int]]:
        name, size = pack_name(row), row.ref.size
        try:
            if row.ref.sha256 not in self._indexes:
                header = self._files.read_part(name, row.ref, 0, HEADER_SIZE)
                index = self._files.read_part(name, row.ref, 0, index_size(header, size))
                self._require_tiles_of(row, [*decode_index(index, size)])
                self._indexes[row.ref.sha256] = index
            return decode_index(self._indexes[row.ref.sha256], size)
        except ArtifactError as error:
            raise damaged([f"{name}: {error.message}"]) from error

    def _require_tiles_of(self, row: BlockRow, ids: list[int]) -> None:
        """Refuse ids that are not those of a cell's tiles: they are not hashed, and a lost tile would seem not carried.

        Raises:
            NoGoError: They are others.
        """
        cells = {(zoom, x >> CELL_SHIFT, y >> CELL_SHIFT) for zoom, x, y, _ in map(tile_of, ids)}
        known = all(self._tiles.digest(each) is not None for each in ids)
        if len(ids) != row.rows or cells != {row.cell} or not known:
            raise damaged([f"{pack_name(row)}: expected {row.rows} tiles of the tile table, found others"])


@dataclass(slots=True, repr=False)
class CarriedTiles:
    """The part of `FlightCache` that reads the tile table and carried tiles."""

    manifest: Manifest
    _files: ArtifactFiles
    _tiles: TileTable | None = field(default=None, kw_only=True)
    _packs: Packs | None = field(default=None, kw_only=True)

    def tile_bytes(self, z: int, x: int, y: int) -> bytes:
        """Return the encoded image of a carried tile: JPEG, PNG or WebP, the very bytes that the ground selected.

        They are read from the medium and hashed, every time.

        Raises:
            KeyError: The cache carries no such tile: it was outside of the area, missing, left out or skipped.
            TypeError, ValueError: These are no whole numbers, or no tile of the grid.
            RequestRefusedError: The cache carries no tiles, or was closed.
            NoGoError: The tile, its pack or a table is damaged or missing.
            CacheUnusableError: This process lacks memory or open files.
        """
        # Numbers of NumPy have few bits: an id would not fit into them.
        z, x, y = (require_whole_number(*each, least=0) for each in (("z", z), ("x", x), ("y", y)))
        identifier, name = descriptor_id(z, x, y), f"{z}/{x}/{y}"
        with TranslateShortages(f"tile {name}"):
            data = self._carried_packs().read(identifier)
            if data is None:
                raise KeyError(f"no tile {name} in this cache")
            if hashlib.sha256(data).hexdigest() != self._tile_table().digest(identifier):
                raise damaged([f"tile {name}: expected the bytes that the tile table names, found others"])
        return data

    def tile_image(self, z: int, x: int, y: int) -> Pixels:
        """Return the pixels of a carried tile, uint8 [edge, edge, 3], RGB, new.

        They are those that the ground prepared for the network: transparent parts take the mean colour of the
        rest, grey is repeated. For PNG and WebP this is certain. A JPEG is decoded by Pillow, and was on the
        ground by Pillow or simplejpeg, which give the same pixels where both have the same kind of libjpeg
        (libjpeg-turbo, as in their wheels); another kind may differ by a grey level.

        Raises:
            KeyError, TypeError, ValueError, RequestRefusedError, NoGoError, CacheUnusableError: As `tile_bytes`;
                the last one also without Pillow.
        """
        data, name = self.tile_bytes(z, x, y), f"tile {z}/{x}/{y}"
        require_pillow(load=True)
        from PIL import Image  # noqa: PLC0415 - most flights need no pixels

        with TranslateShortages(name):
            try:
                with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as picture:
                    picture.load()
                    # As on the ground, in `pipeline.tiles.images.decode`.
                    if picture.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in picture.info:
                        return flatten_alpha(np.asarray(picture.convert("RGBA")))
                    return np.array(picture.convert("RGB"))
            except MemoryError:
                raise
            except Exception as error:
                # The digest is that of the ground: its decoder read these bytes, and the one on board cannot.
                raise damaged([f"{name}: expected an image that Pillow decodes, found: {error}"]) from error

    def chunk_image(self, descriptor_id: int, size: tuple[int, int] | None = None) -> Pixels:
        """Return the picture of a chunk, cut from carried tiles: uint8 [height, width, 3], RGB, new.

        At the size of the network's input it is what the ground embedded, as far as `tile_image` is.

        Args:
            descriptor_id: Id of the chunk.
            size: Height and width in pixels, 1 to 16,384; by default those of the imagery, so that none is lost.

        Raises:
            KeyError: This cache has no such level of chunks, or does not carry a tile under the chunk.
            TypeError, ValueError: The id or the size is no whole number, or out of its range.
            RequestRefusedError, NoGoError, CacheUnusableError: As `tile_image`.
        """
        self._carried_packs()
        number = require_whole_number("descriptor_id", descriptor_id, least=0)
        try:
            level, x, y = chunk_of(number)
        except ValueError as error:
            raise KeyError(f"no chunk with the descriptor id {number}: {error}") from None
        edge = next((each.tile_edge for each in self.manifest.levels if each.level == level), None)
        if edge is None:
            raise KeyError(f"no chunk with the descriptor id {number}: this cache has no {level}")
        if size is None:
            wanted = full_size(level, edge)
        else:
            height, width = size
            wanted = _require_side("height", height), _require_side("width", width)
        x0, nx, y0, ny = tile_span(level, x, y)
        columns = [column & (1 << level.zoom) - 1 for column in range(x0, x0 + nx)]
        places = [(column, row) for column in columns for row in range(y0, y0 + ny)]
        tiles = {place: self.tile_image(level.zoom, *place) for place in places}
        with TranslateShortages(f"chunk {number}"):
            try:
                return next(render_chunks(level, [(x, y)], tiles, wanted))
            except ValueError as error:
                raise damaged([f"chunk {number}: {error}"]) from error

    def _load_carried(self) -> None:
        """Read where all carried tiles are, and decode one, so that nothing is loaded or missing later."""
        first = min(self._carried_packs().ids(), default=None)
        if first is not None:
            self.tile_image(*tile_of(first)[:3])

    def _carried_packs(self) -> Packs:
        self._files.require_open()
        if self._packs is None:
            self._packs = Packs.open(self.manifest, self._files, self._tile_table)
        return self._packs

    def tile(self, descriptor_id: int) -> Tile:
        """Return the tile behind a descriptor id.

        Raises:
            KeyError: The cache holds no such tile.
            TypeError: The id is no whole number.
            NoGoError: The tile table is damaged.
        """
        self._files.require_open()
        number = whole_number(descriptor_id)
        if number is None:
            raise TypeError(
                f"expected a descriptor id as a whole number, found {type(descriptor_id).__name__}"
            )
        found = self._tile_table().digest(number) if 0 <= number < 1 << 64 else None
        if found is None:
            also = (
                ": it is that of a chunk, whose place locate gives" if is_chunk(self.manifest, number) else ""
            )
            raise KeyError(f"no tile with the descriptor id {number} in this cache{also}")
        zoom, x, y, _ = tile_of(number)
        return Tile(zoom, x, y, found)

    def _tile_table(self) -> TileTable:
        if self._tiles is None:
            try:
                self._tiles = decode_tiles(self._files.view("tile table", self.manifest.tiles))
            except ArtifactError as error:
                raise damaged([f"tile {error.message}"]) from error
        return self._tiles


def _require_side(name: str, value: object) -> int:
    """Return a side of a picture in pixels: a larger one would take more memory than a machine has."""
    side = require_whole_number(name, value, least=1)
    if side > MAX_SIDE:
        raise ValueError(f"expected {name} of at most {MAX_SIDE}, found {shown(side)}")
    return side
