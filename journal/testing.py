"""Random and sample records for tests."""

from typing import Final

from hypothesis import strategies as st

from journal.record import Payload, Record

_INT64: Final = 1 << 63


def payloads(*, max_leaves: int = 20) -> st.SearchStrategy[Payload]:
    """Return a strategy for payloads."""
    leaves: st.SearchStrategy[Payload] = (
        st.none()
        | st.booleans()
        | st.integers(-_INT64, 2 * _INT64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=40)
        | st.binary(max_size=40)
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
        max_leaves=max_leaves,
    )


def records(*, max_leaves: int = 20) -> st.SearchStrategy[Record]:
    """Return a strategy for records."""
    return st.builds(
        Record,
        tag=st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True),
        version=st.integers(1, (1 << 31) - 1),
        build=st.none() | st.integers(0, _INT64 - 1),
        wall_ns=st.integers(-_INT64, _INT64 - 1),
        mono_ns=st.integers(0, _INT64 - 1),
        payload=payloads(max_leaves=max_leaves),
    )


def sample_record(number: int, *, tag: str = "made-up", size: int = 0) -> Record:
    """Return a record that depends on its arguments alone.

    Args:
        number: Is put into every field that can hold it.
        tag: Tag of the record.
        size: Size of the filling, in bytes.
    """
    filling = (number.to_bytes(8, "big") * (size // 8 + 1))[:size]
    return Record(
        tag=tag,
        version=1,
        build=number // 10,
        wall_ns=1_700_000_000_000_000_000 + number,
        mono_ns=number,
        payload={"number": number, "filling": filling},
    )
