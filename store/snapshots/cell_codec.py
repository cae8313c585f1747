"""The event of a cell as the bytes of its payload, and back. Pure."""

from typing import Any, cast

import msgpack

from store.domain import event_codec
from store.domain.events import CellEmbedded

TAG = "cell.embedded"
VERSION = event_codec.TABLE[TAG][0]


def pack(event: CellEmbedded) -> bytes:
    """Return the payload of an event, as a record holds it; of an event that was read from one, the very bytes.

    Raises:
        ValueError, OverflowError, TypeError: Something in it has no bytes.
    """
    packed: bytes = msgpack.packb(
        {
            "block": {"sha256": event.block.sha256, "size": event.block.size},
            "cell_x": event.cell_x,
            "cell_y": event.cell_y,
            "components": event.components,
            "copied": event.copied,
            "embedded": event.embedded,
            "engine": event.engine,
            "key": event.key,
            "rows": event.rows,
            "space": event.space,
            "zoom": event.zoom,
        }
    )
    return packed


def unpack(payload: bytes) -> CellEmbedded:
    """Return the event whose payload these are, by the rules of `store.domain.event_codec`.

    Raises:
        DamagedHistoryError: They are no event of a cell.
    """
    try:
        found: Any = msgpack.unpackb(payload)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise event_codec.invalid(TAG, f"a payload that is no MessagePack: {error!r:.80}") from error
    return cast("CellEmbedded", event_codec.decode(TAG, VERSION, found))
