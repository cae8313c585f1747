"""Rows about the journal: appending one event, and folding many."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path

from tests.played_builds import make, ref_of

from journal import Journal, Record
from journal.record import EMPTY, encode, link
from journal.testing import sample_record
from store.cache.event_mapper import to_record
from store.cache.view import open_view
from store.disk.layout import Layout
from store.domain.events import BuildStarted, CacheCreated, CellEmbedded
from tests.benchmarks.measuring import Row, Settings, Work, at_least, in_turns, row

APPENDS = 100
"""Appends of either side in one pair."""


def append_lmdb(settings: Settings) -> Iterator[Row]:
    """The journal against LMDB with the same bytes; they take turns append by append."""
    from tests.benchmarks.append_rate import measure

    found = measure(settings.place("lmdb"), rounds=settings.pairs, appends=4 * APPENDS, records=1, size=300)
    seconds = [(1 / turn.journal, 1 / turn.raw) for turn in found]
    yield row(
        "append-lmdb",
        "durable append of one event",
        "LMDB put + commit, same bytes",
        at_least(0.85),
        seconds,
        rate=True,
    )


def append_sqlite(settings: Settings) -> Iterator[Row]:
    """The journal against a SQLite table that is as durable."""
    folder = settings.place("sqlite")
    with closing(sqlite3.connect(folder / "events.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, content BLOB NOT NULL)")
        contents = _contents()

        def insert() -> None:
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO events (content) VALUES (?)", (next(contents),))
            database.execute("COMMIT")

        yield _appends("append-sqlite", "SQLite (WAL, synchronous=FULL)", 0.75, settings, folder, insert)


def append_eventsourcing(settings: Settings) -> Iterator[Row]:
    """The journal against an event of an aggregate, saved by an application on SQLite."""
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate, event

    folder = settings.place("eventsourcing")

    class Happening(Aggregate):
        @event("Happened")
        def happen(self, content: str) -> None:
            self.content = content

    application: Application = Application(
        env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(folder / "events.db")}
    )
    happening = Happening()
    application.save(happening)
    text = "x" * 300

    def save() -> None:
        happening.happen(content=text)
        application.save(happening)

    yield _appends("append-eventsourcing", "eventsourcing on SQLite", 1.2, settings, folder, save)
    application.close()


def append_delta(settings: Settings) -> Iterator[Row]:
    """The journal against a row appended to a Delta table."""
    import pyarrow as pa
    from deltalake import write_deltalake

    folder = settings.place("delta")
    table, contents, numbers = str(folder / "table"), _contents(), count()

    def write() -> None:
        rows = pa.table({"seq": [next(numbers)], "content": [next(contents)]})
        write_deltalake(table, rows, mode="append")

    yield _appends("append-delta", "Delta Lake append", 25, settings, folder, write, appends=10)


def fold(settings: Settings) -> Iterator[Row]:
    """A view of a whole journal, chain verified, against the replay of an aggregate of as many events."""
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate, event

    number = settings.size(100_000, 1_000_000)
    layout = _long_journal(settings.place("fold"), number)

    class History(Aggregate):
        def __init__(self) -> None:
            self.blocks: dict[tuple[int, int, int], dict[str, object]] = {}

        @event("CellEmbedded")
        def embed(self, zoom: int, cell_x: int, cell_y: int, fields: dict[str, object]) -> None:
            self.blocks[zoom, cell_x, cell_y] = fields

    path = settings.place("fold") / "peer.db"
    application: Application = Application(
        env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
    )
    history = History()
    for place in range(number):
        fields = asdict(_cell(place))
        history.embed(
            zoom=fields.pop("zoom"), cell_x=fields.pop("cell_x"), cell_y=fields.pop("cell_y"), fields=fields
        )
        if place % 5_000 == 0:
            application.save(history)
    application.save(history)

    def ours() -> None:
        if open_view(layout).state.builds[1].cells_embedded != number:
            raise SystemExit("expected all events in the state, found fewer")

    def theirs() -> None:
        found: History = application.repository.get(history.id)
        if len(found.blocks) != number:
            raise SystemExit("expected all events in the aggregate, found fewer")

    pairs = in_turns(ours, theirs, pairs=settings.pairs)
    work = f"fold of {number:,} events to state, chain verified"
    yield row("fold", work, "eventsourcing replay", at_least(2), pairs, rate=True)
    application.close()


def _appends(
    name: str,
    peer: str,
    target: float,
    settings: Settings,
    folder: Path,
    theirs: Work,
    *,
    appends: int = APPENDS,
) -> Row:
    """Single appends to a journal, in turns with `theirs`; medians over the appends of a pair."""
    with Journal.open(folder / "journal.mdb", allow_unknown_filesystem=True) as journal:
        records = _records()

        def ours() -> None:
            journal.append([next(records)])

        found = []
        for _ in range(settings.pairs):
            pairs = sorted(in_turns(ours, theirs, pairs=appends, tidy=False))
            middle = len(pairs) // 2
            found.append(
                (sorted(own for own, _ in pairs)[middle], sorted(other for _, other in pairs)[middle])
            )
    return row(name, "durable append of one event", peer, at_least(target), found, rate=True)


def _records() -> Iterator[Record]:
    return (sample_record(number, size=300) for number in count())


def _contents() -> Iterator[bytes]:
    """What a journal stores for `_records`."""
    chain = EMPTY[1]
    for record in _records():
        raw = encode(record)
        chain = link(chain, raw)
        yield chain + raw


def _cell(number: int) -> CellEmbedded:
    digest = sha256(str(number).encode()).hexdigest()
    return make(
        CellEmbedded,
        space="5" * 64,
        zoom=20,
        cell_x=number % 1000,
        cell_y=number // 1000,
        key=digest,
        components={"space": "5" * 64, "tiles": digest},
        engine="e" * 64,
        block=ref_of(digest.encode()),
        rows=256,
        embedded=256,
        copied=0,
    )


def _long_journal(folder: Path, number: int) -> Layout:
    """A cache whose only build has embedded so many cells."""
    layout = Layout(folder / "cache")
    layout.root.mkdir()
    stamp = partial(to_record, wall_ns=1, mono_ns=1)
    started = make(BuildStarted, identity="1" * 64, calibration=ref_of(b"{}"))
    genesis = [stamp(make(CacheCreated, cache_id="c" * 32), build=None), stamp(started, build=1)]
    with Journal.open(layout.journal, allow_unknown_filesystem=True) as journal:
        journal.append(genesis)
        for first in range(0, number, 10_000):
            last = min(first + 10_000, number)
            journal.append([stamp(_cell(place), build=1) for place in range(first, last)])
    return layout
