"""Cells read from records by the thousand. Pure.

What it gives is what `store.cache.event_mapper.to_fact` would: a record is taken in bulk only where it has the form of one that was
read strictly, as a record by `journal.record` and as an event by `store.domain.event_codec`, and where it holds what may still be
wrong in a record of that form. Every other record is left to be read alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from journal.errors import RecordError
from journal.record import Entry, decode_fields
from journal.record_shapes import Form, Leaf, Rows, form_of, integers, rows_of, texts
from store.base.values import Position
from store.domain import event_codec
from store.domain.state import CellRun, Fact
from store.domain.step_cache import CellName, Cells
from store.errors import StoreError
from store.snapshots.cell_codec import unpack

_ALIKE: Final = 16
"""As many records of one length have to be left for another form to be worth it."""

_FORMS: Final = 32
"""As many forms are tried for a length in a batch, and for as many lengths some are remembered."""

_KEPT: Final = 24
"""As many of a length are remembered; fewer than are tried, so that a batch of none of them teaches others."""

_MAX_BYTES: Final = 4096
"""Of a record that is taken in bulk; cells have some 500."""

_MAX_WIDTH: Final = 4
"""Bytes of the integers that are taken in bulk: they can be added up without a thought."""

_HEX: Final = np.zeros(256, np.bool_)
_HEX[list(b"0123456789abcdef")] = True


class _Cell(NamedTuple):
    """A record that was taken in bulk."""

    build: int | None
    name: CellName
    block: str
    payload: bytes
    tiles: int


class _CellForm(NamedTuple):
    """A form of records whose payload is an event of a cell.

    Attributes:
        form: What they have in common as records.
        leaves: Where their space, zoom, cell_x, cell_y, embedded and the digest of their block stand.
    """

    form: Form
    leaves: Sequence[Leaf]

    def holds(self, rows: Rows) -> NDArray[np.bool_]:
        """Tell of each record whether it has this form, and holds what `codec` asks of a cell's fields.

        Of these only the digest of an artifact may be wrong in a record of the same form.
        """
        at, width, _ = self.leaves[-1]
        alike = self.form.holds(rows)
        alike &= _HEX[rows[:, at : at + width]].all(axis=1)
        return alike

    def cells(self, rows: Rows, raws: Sequence[bytes]) -> Iterator[_Cell]:
        """Yield the cells of records that have this form, given as rows and as they are."""
        space, zoom, x, y, embedded, block = self.leaves
        builds = repeat(None) if self.form.build is None else integers(rows, self.form.build)
        names = zip(
            texts(rows, space), integers(rows, zoom), integers(rows, x), integers(rows, y), strict=True
        )
        payloads = [raw[self.form.payload :] for raw in raws]
        return map(_Cell, builds, names, texts(rows, block), payloads, integers(rows, embedded))


class CellReader:
    """Reads batches of one journal; it remembers the forms that it met."""

    def __init__(self) -> None:
        # By the length of their records. The lengths that were met last come last, the forms of a length first.
        self._forms: dict[int, list[_CellForm]] = {}

    def runs(
        self, batch: Sequence[Entry], cells: Sequence[int], to_fact: Callable[[Entry], Fact]
    ) -> Iterator[Fact | CellRun]:
        """Yield the facts of a batch in their order, cells in runs as long as may be.

        Args:
            batch: Entries in a row, whether or not one is missing between them.
            cells: Which of them are taken for cells.
            to_fact: Reads one alone; what it raises is raised when its turn comes.
        """
        found = self._read(batch, cells)
        at = 0
        while at < len(batch):
            cell, end = found[at], at + 1
            if cell is None:
                yield to_fact(batch[at])
            else:
                while (
                    end < len(batch)
                    and (other := found[end]) is not None
                    and other.build == cell.build
                    and batch[end].seq == batch[end - 1].seq + 1
                ):
                    end += 1
                yield _run(batch[at:end], found[at:end], to_fact)
            at = end

    def _read(self, batch: Sequence[Entry], cells: Sequence[int]) -> list[_Cell | None]:
        """Cells by their place in the batch; nothing where a record has to be read alone."""
        found: list[_Cell | None] = [None] * len(batch)
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for place in cells:
            by_length[len(batch[place].raw)].append(place)
        for length, places in by_length.items():
            if len(places) >= _ALIKE and length <= _MAX_BYTES:
                raws = [batch[place].raw for place in places]
                for at, cell in self._read_alike(length, raws):
                    found[places[at]] = cell
        return found

    def _read_alike(self, length: int, raws: list[bytes]) -> Iterator[tuple[int, _Cell]]:
        """Yield place and cell of those of one length that were taken."""
        untried = iter(self._forms.pop(length, []))
        met, missed = list[_CellForm](), list[_CellForm]()
        rows, left = rows_of(raws), np.arange(len(raws))
        for _ in range(_FORMS):
            if len(left) < _ALIKE:
                break
            form = next(untried, None) or _form_of(raws[left[0]])
            if form is None:
                rows, left = rows[1:], left[1:]
                continue
            alike = form.holds(rows)
            if not alike.any():
                missed.append(form)
                continue
            met.append(form)
            places = left[alike].tolist()
            yield from zip(places, form.cells(rows[alike], [raws[at] for at in places]), strict=True)
            rows, left = rows[~alike], left[~alike]
        self._forms[length] = [*met, *missed, *untried][:_KEPT]
        if len(self._forms) > _FORMS:
            del self._forms[next(iter(self._forms))]


def _form_of(raw: bytes) -> _CellForm | None:
    """The form of a record, if it is sound and an event of a cell whose name can be read in bulk."""
    try:
        tag, version, _, _, _, payload = decode_fields(raw)
        event_codec.decode(tag, version, payload)
    except (RecordError, StoreError):
        return None
    form = form_of(raw)
    leaves = [form.leaves.get((name,)) for name in ("space", "zoom", "cell_x", "cell_y", "embedded")]
    leaves.append(form.leaves.get(("block", "sha256")))
    if any(leaf is None or (not leaf.is_text and leaf.width > _MAX_WIDTH) for leaf in leaves):
        return None
    return _CellForm(form, [leaf for leaf in leaves if leaf is not None])


def _run(
    entries: Sequence[Entry], cells: Sequence[_Cell | None], to_fact: Callable[[Entry], Fact]
) -> CellRun:
    builds, names, blocks, payloads, tiles = zip(*filter(None, cells), strict=True)
    return CellRun(
        seq=entries[0].seq,
        position=Position(entries[-1].seq, entries[-1].chain.hex()),
        build=builds[0],
        cells=Cells(names, blocks, payloads, unpack),
        tiles=sum(tiles),
        facts=partial(map, to_fact, entries),
    )
