"""Write tables of like documents by column, each value once: the networks of a large manifest. Pure.

A column is named by a JSON Pointer (RFC 6901) and lists the values there, one for each document, null where a
document has none. One value alone stands for all documents. In place of a column that is the same as one before it
(in the order of names) stands the name of that one: its table, then its pointer. Documents hold no null, since no
component of a network is one.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, Final

from store.base.canonical_json import Document, Value, encode

# Names of columns multiply what a manifest says: reading one must not cost more than its size lets expect.
_MOST_DOCUMENTS: Final = 64
_MOST_COLUMNS: Final = 512
_MOST_BYTES: Final = 1 << 20
"""Bytes of the values, written out for every document; 64 networks with stand-ins have a sixth of them."""

_DEEPEST: Final = 16


def to_columns(tables: Mapping[str, Sequence[Document]]) -> dict[str, dict[str, Value]]:
    """Return the columns of some tables.

    Raises:
        ValueError: A document holds null, or is nested too deep.
    """
    seen: dict[bytes, str] = {}
    written: dict[str, dict[str, Value]] = {}
    for table in sorted(tables):
        for pointer, values in sorted(_columns_of(tables[table]).items()):
            name = table + pointer
            first = seen.setdefault(encode(values), name) if len(values) > 1 else name
            written.setdefault(table, {})[pointer] = values if first == name else first
    return written


def _columns_of(documents: Sequence[Document]) -> dict[str, list[Value]]:
    found: dict[str, list[Value]] = {}
    for row, document in enumerate(documents):
        for pointer, value in _leaves(document, ""):
            found.setdefault(pointer, [None] * len(documents))[row] = value
    return {
        pointer: values[:1] if len({encode(value) for value in values}) == 1 else values
        for pointer, values in found.items()
    }


def from_columns(written: Mapping[str, Mapping[str, Value]]) -> dict[str, list[dict[str, Any]]]:
    """Return the tables of columns, which may come from anywhere.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: They contradict each other, or are too many.
    """
    if (number := sum(map(len, written.values()))) > _MOST_COLUMNS:
        raise ValueError(f"{number} columns")
    seen: dict[str, tuple[Sequence[Value], int]] = {}
    tables, size = {}, 0
    for table in sorted(written):
        columns = {}
        for pointer in sorted(written[table]):
            values: Any = written[table][pointer]
            found = seen[values] if isinstance(values, str) else (values, _size_of(values))
            columns[pointer], _ = seen[table + pointer] = found
            size += found[1]
            if size > _MOST_BYTES:
                raise ValueError(f"more than {_MOST_BYTES} bytes in columns")
        tables[table] = _documents_of(columns)
    return tables


def _size_of(values: Sequence[Value]) -> int:
    """Return how many bytes the values of a column may have in documents."""
    if any(isinstance(value, Mapping) and value for value in values):
        raise ValueError("members in a column, which have columns of their own")
    return len(encode(values)) * (_MOST_DOCUMENTS if len(values) == 1 else 1)


def _documents_of(columns: Mapping[str, Sequence[Value]]) -> list[dict[str, Any]]:
    number = max(map(len, columns.values()), default=0)
    if number > _MOST_DOCUMENTS:
        raise ValueError(f"{number} documents")
    documents: list[dict[str, Any]] = [{} for _ in range(number)]
    for pointer, values in columns.items():
        if len(values) not in {1, number}:
            raise ValueError(f"a column {pointer:.80} of {len(values)} values for {number} documents")
        *above, name = _names(pointer)
        for row, document in enumerate(documents):
            value = values[row if len(values) > 1 else 0]
            if value is not None:
                within = reduce(_member, above, document)
                if within.setdefault(name, value) is not value:
                    raise ValueError(f"a second value of {pointer:.80}")
    return documents


def _member(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = document.setdefault(name, {})
    return found


def _leaves(document: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, Value]]:
    if pointer.count("/") >= _DEEPEST:
        raise ValueError(f"members below {pointer:.80}")
    for name, value in document.items():
        here = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
        if value is None:
            raise ValueError(f"null at {here:.80}")
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, here)
        else:
            yield here, value


def _names(pointer: str) -> list[str]:
    first, *names = pointer.split("/")
    if first or not 1 <= len(names) <= _DEEPEST:
        raise ValueError(f"the column {pointer:.80}")
    return [name.replace("~1", "/").replace("~0", "~") for name in names]
