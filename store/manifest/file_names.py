"""What the files of generations are called, and how large they may be. Pure.

Apart from what is in them, since every command looks at names and few at contents.
"""

import re
from typing import Final

MAX_MANIFEST_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 16
"""How many keys may sign one generation."""

MANIFEST_NAME: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9_-]{0,31}-)?([0-9]{8,18})\.json")
"""What is taken for a manifest file: an optional prefix and the generation, eight digits or more."""

_SIGNATURE_NAME: Final = re.compile(r"(.+)\.sig([2-9]|1[0-6])?")


def signature_name(manifest_name: str, place: int = 1) -> str:
    """Return the name of a signature file: the first ends in `.sig`, the second in `.sig2`, and so on."""
    return f"{manifest_name.removesuffix('.json')}.sig{place if place > 1 else ''}"


def parse_signature_name(name: str) -> tuple[str, int] | None:
    """Return the name of the manifest that a signature file is of, and its place; nothing if it is named otherwise."""
    match = _SIGNATURE_NAME.fullmatch(name)
    return None if match is None else (f"{match[1]}.json", int(match[2] or 1))
