"""Read the tiles of a view, which have no row numbers: cell by cell, or many cells at once.

Without an index SQLite reads all rows of a view to find one tile. So a worker reads them once and keeps the
cells that it is asked for next, as many as fit into `KEPT_BYTES`.
"""

import re
import sqlite3

from pipeline.tiles.grid import TileRange
from pipeline.tiles.sources.archives.sqlite_archive import IN_RECTANGLE
from store.base.identity import CELL_SHIFT

KEPT_BYTES = 64 << 20
_PLACE = ("zoom_level", "tile_column", "tile_row")
_CELL_QUERY = f"FROM tiles WHERE {IN_RECTANGLE}"
_PLAN_LINE = re.compile(r"(?P<how>SCAN|SEARCH) (?:TABLE )?(?P<name>\w+)(?:.*?\((?P<column>\w+)=\?)?")

Cell = tuple[int, int]
"""Column and row of a cell of tiles, the row counted from the north."""


def tms_rectangle(part: TileRange) -> tuple[int, int, int, int, int]:
    """Return a rectangle of tiles as `IN_RECTANGLE` takes it, its rows counted from the south."""
    last = (1 << part.z) - 1
    return part.z, part.x0, part.x1, last - part.y1, last - part.y0


def select_tiles(database: sqlite3.Connection, part: TileRange, columns: str) -> sqlite3.Cursor:
    """Return zoom, column, row from the south and other columns of all tiles in a rectangle."""
    return database.execute(
        f"SELECT zoom_level, tile_column, tile_row, {columns} {_CELL_QUERY}", tms_rectangle(part)
    )


def missing_indexes(database: sqlite3.Connection) -> tuple[str, ...] | None:
    """Return the statements that make a search for tiles quick; None if it is quick already.

    Empty if all rows are read, but it is not known which index would help.
    """
    query = f"EXPLAIN QUERY PLAN SELECT tile_data {_CELL_QUERY}"
    plan = [str(row[3]) for row in database.execute(query, (0, 0, 0, 0, 0))]
    if not any(line.startswith("SCAN") or "AUTOMATIC" in line for line in plan):
        return None
    steps = [found for line in plan if (found := _PLAN_LINE.match(line)) is not None]
    tables = [_table_of(database, step["name"]) for step in steps]
    columns = [
        [str(name).lower() for (name,) in database.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        for table in tables
    ]
    links = {name for names in columns if set(_PLACE) <= set(names) for name in names if name not in _PLACE}
    statements = dict[str, None]()
    for step, table, names in zip(steps, tables, columns, strict=True):
        by_index = step["how"] == "SEARCH" and "AUTOMATIC" not in step[0]
        if set(_PLACE) <= set(names):
            wanted = [] if by_index and step["column"] == "zoom_level" else list(_PLACE)
        else:
            wanted = [] if by_index else [name for name in names if name in links][:1]
        if wanted:
            statements[f"CREATE INDEX {table}_{wanted[0]} ON {table} ({', '.join(wanted)})"] = None
    return tuple(statements)


def _table_of(database: sqlite3.Connection, name: str) -> str:
    """Return the table that a view calls by a name."""
    alias = re.compile(rf"(?:FROM|JOIN|,)\s+[\"`\[]?(\w+)[\"`\]]?\s+(?:AS\s+)?{name}\b", re.IGNORECASE)
    views = database.execute("SELECT sql FROM sqlite_master WHERE type = 'view'").fetchall()
    found = next((match for (sql,) in views if (match := alias.search(str(sql))) is not None), None)
    return name if found is None else found[1]


class ViewReader:
    """Reads the tiles of a view; keeps the cells that it read last.

    Args:
        database: The archive.
        content: The SQL expression for the bytes of a tile.
    """

    def __init__(self, database: sqlite3.Connection, content: str) -> None:
        self._database, self._content = database, content
        self._by_index = missing_indexes(database) is None
        self._zoom = -1
        self._cells: dict[Cell, dict[Cell, bytes]] = {}

    def tile(self, z: int, x: int, y: int) -> bytes | None:
        """Return the bytes of a tile; None if there is none."""
        cell = x >> CELL_SHIFT, y >> CELL_SHIFT
        if z != self._zoom or cell not in self._cells:
            self._cells = {}
            self._cells, self._zoom = self._read_from(z, cell), z
        return self._cells[cell].get((x, y))

    def _read_from(self, z: int, first: Cell) -> dict[Cell, dict[Cell, bytes]]:
        """Return a cell; without an index also those that follow by column and row: it takes no longer."""
        last, side = (1 << z) - 1, (1 << CELL_SHIFT) - 1
        x0, y0 = (each << CELL_SHIFT for each in first)
        part = TileRange(z=z, x0=x0, x1=x0 + side, y0=y0, y1=y0 + side)
        if not self._by_index:
            part = TileRange(z=z, x0=x0, x1=last, y0=0, y1=last)
        found: dict[Cell, dict[Cell, bytes]] = {first: {}}
        free, end = KEPT_BYTES, (last + 1, 0)
        for _, x, row, content in select_tiles(self._database, part, self._content):
            # A number with a fraction is of no tile.
            if not (isinstance(x, int) and isinstance(row, int)):
                continue
            cell = x >> CELL_SHIFT, last - row >> CELL_SHIFT
            if not first <= cell < end:
                continue
            found.setdefault(cell, {})[x, last - row] = content
            free -= len(content)
            while free < 0 and len(found) > 1:
                end = max(found)
                free += sum(map(len, found.pop(end).values()))
        return found
