"""Names and size limits of manifest and signature files. Pure.

A module of its own, because every command needs the names and few need the content.
"""

import re
from typing import Final

MAX_MANIFEST_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 16
"""How many keys may sign one generation."""

MANIFEST_NAME: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9_-]{0,31}-)?([0-9]{8,18})\.json")
"""Name of a manifest file: an optional prefix and the generation, eight digits or more."""

_SIGNATURE_NAME: Final = r"(.+)\.sig([2-9]|1[0-6])?"


def signature_name(manifest_name: str, place: int = 1) -> str:
    """Return the name of a signature file: the first ends in `.sig`, the second in `.sig2`, and so on."""
    return f"{manifest_name.removesuffix('.json')}.sig{place if place > 1 else ''}"


def parse_signature_name(name: str) -> tuple[str, int] | None:
    """Return the manifest's name and the place in the name of a signature file; None for any other name."""
    match = re.fullmatch(_SIGNATURE_NAME, name)
    return None if match is None else (f"{match[1]}.json", int(match[2] or 1))
