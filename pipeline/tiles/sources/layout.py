"""How the tiles of a folder are named: a pattern such as "dir/{z}/{x}/{y}.png", parsed. Pure.

The part after the last placeholder is the tile's ending. Where none is written, or `.*`, a tile may have any
ending that images have, or none, and a size such as `@2x` before it.
"""

import re
from collections.abc import Sequence
from typing import Final

from pipeline.errors import RequestError
from pipeline.tiles.images.image_header import IMAGE_EXTENSIONS
from store.base.valueclass import valueclass

AXES: Final = ("z", "x", "y")

_NAMES: Final = {
    "z": "z",
    "x": "x",
    "y": "y",
    "-y": "y",
    "tilematrix": "z",
    "tilecol": "x",
    "tilerow": "y",
    "level": "z",
    "col": "x",
    "row": "y",
}
"""Placeholder to axis: those of XYZ and TMS, of WMTS and of ArcGIS."""
_PLACEHOLDER = re.compile(r"\{(-?[A-Za-z]+)\}")
_ENDING = re.compile(r"(?P<lead>[^{}/]*?)(?:\.(?P<ending>\*|[A-Za-z0-9]+|\{[A-Za-z0-9,]+\}))?")
_ENDING_NAMES = re.compile(r"\.\{(?:ext|format)\}$", re.IGNORECASE)
_ANY = "|".join(sorted(IMAGE_EXTENSIONS))
_DECIMAL = "(0|[1-9][0-9]{0,8})"
_WRITE = "write DIR/{z}/{x}/{y}.png with each of the three once; {-y} where rows are counted from the south"


@valueclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The names of one depth of folders, or of the files.

    Attributes:
        axes: Number in `AXES` of each placeholder, in their order in a name.
        parts: The text before each placeholder, and that after the last one.
        pattern: Matches a name: a group for each placeholder, and a last one, the ending of files.
    """

    axes: tuple[int, ...]
    parts: tuple[str, ...]
    pattern: re.Pattern[str]

    def parse(self, name: str) -> tuple[tuple[int, ...], str] | None:
        """Return the numbers in a name, and its ending; None if it is of no tile."""
        found = self.pattern.fullmatch(name)
        if found is None:
            return None
        *numbers, ending = found.groups()
        return tuple(map(int, numbers)), ending

    def name(self, place: Sequence[int]) -> str:
        """Return the name that has the numbers of a place, without an ending."""
        filled = (f"{part}{place[axis]}" for part, axis in zip(self.parts, self.axes, strict=False))
        return "".join(filled) + self.parts[-1]


@valueclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A parsed pattern.

    Attributes:
        root: The folder before the first placeholder, as written.
        folders: The folders below it, outermost first.
        files: The tiles.
        suffixes: Endings that are written, such as "@2x.png"; none where any will do.
        from_south: Whether `{-y}` is written.
    """

    root: str
    folders: tuple[Level, ...]
    files: Level
    suffixes: frozenset[str]
    from_south: bool


def parse_layout(pattern: str) -> Layout:
    """Parse a pattern.

    Raises:
        RequestError: A placeholder is missing, occurs twice or is unknown, or the ending is of no image.
    """
    text = _ENDING_NAMES.sub(".*", pattern.replace("${", "{"))
    found = list(_PLACEHOLDER.finditer(text))
    names = [each[1].lower() for each in found]
    ending = _ENDING.fullmatch(text, found[-1].end()) if found else None
    if ending is None or sorted(_NAMES.get(name, name) for name in names) != sorted(AXES):
        raise _bad_pattern(pattern, "DIR/{z}/{x}/{y}.EXT, the three in any order", _WRITE)
    if "}{" in text[: ending.start()]:
        raise _bad_pattern(pattern, "something between two placeholders", _WRITE)
    start = text.rfind("/", 0, found[0].start()) + 1
    *folders, file = text[start : ending.start()].split("/")
    suffixes, regex = _endings(pattern, ending["lead"], ending["ending"])
    return Layout(
        root=text[:start].rstrip("/") or ("/" if text.startswith("/") else "."),
        folders=tuple(_level(each, "()") for each in folders),
        files=_level(file, regex),
        suffixes=suffixes,
        from_south="-y" in names,
    )


def _level(written: str, ending: str) -> Level:
    parts = _PLACEHOLDER.split(written)
    texts, names = tuple(parts[::2]), parts[1::2]
    pattern = re.escape(texts[0]) + "".join(_DECIMAL + re.escape(text) for text in texts[1:])
    axes = tuple(AXES.index(_NAMES[name.lower()]) for name in names)
    return Level(axes=axes, parts=texts, pattern=re.compile(pattern + ending))


def _endings(pattern: str, lead: str, ending: str | None) -> tuple[frozenset[str], str]:
    """Return the endings that are written, and the expression for all that a tile of the folder may have."""
    listed = () if ending in {None, "*"} else str(ending).strip("{}").split(",")
    for each in listed:
        if each.lower() not in IMAGE_EXTENSIONS:
            hint = f"convert the {each} tiles to one of these"
            raise _bad_pattern(pattern, "DIR/{z}/{x}/{y}.EXT with jpg, png or webp", hint)
    size = re.escape(lead) if lead else "(?:@[1-9]x)?"
    if lead and listed:
        size += "|"
    return frozenset(f"{lead}.{each}" for each in listed), rf"((?:{size})(?:\.(?i:{_ANY}))?)"


def _bad_pattern(pattern: str, expected: str, hint: str) -> RequestError:
    return RequestError(f"tiles.source: expected {expected}, found {pattern!r}", hint=hint, subject=pattern)
