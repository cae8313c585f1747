"""Find the black bars of a frame that was fitted into another size, or of which a part is missing. Pure."""

from typing import Final

from store.base.preprocessing import Pixels

MOST_BARS: Final = 0.04
"""Greatest part of a side that may be black at its ends: more, and the camera's scale and middle are not the frame's."""
_BLACK: Final = 24
"""Greatest value of a pixel of a bar, after compression; black of video is 16."""
_FLAT: Final = 8
"""Greatest difference of two values in a line of a bar; dark water and shadow have more, by the noise of the sensor."""
_LINES: Final = 256
"""How many lines of the shorter side are looked at, at least."""


def black_bars(frame: Pixels) -> float:
    """Return the part of a frame's height or width that is black at its two ends, of the side with more: 0 to 1.

    Args:
        frame: uint8 [height, width, 3], not empty.
    """
    step = max(1, min(frame.shape[:2]) // _LINES)
    few = frame[::step, ::step]
    return max(_black_at_ends(few), _black_at_ends(few.swapaxes(0, 1)))


def _black_at_ends(lines: Pixels) -> float:
    first = _black_lines(lines)
    return 1.0 if first == len(lines) else (first + _black_lines(lines[::-1])) / len(lines)


def _black_lines(lines: Pixels) -> int:
    """Return how many lines are black before the first one that is not."""
    return next((number for number, line in enumerate(lines) if not _is_black(line)), len(lines))


def _is_black(line: Pixels) -> bool:
    greatest = int(line.max())
    return greatest <= _BLACK and greatest - int(line.min()) <= _FLAT
