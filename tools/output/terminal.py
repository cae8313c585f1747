"""How wide a terminal is."""

import os
from typing import TextIO


def columns_of(stream: TextIO | None) -> int | None:
    """Return the columns of the terminal that a stream writes to; None if it is none, or has no size."""
    try:
        found = os.get_terminal_size(stream.fileno()).columns if stream is not None and stream.isatty() else 0
    except (OSError, ValueError):
        return None
    return found or None
