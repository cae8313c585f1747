"""Name what a file is that is no image and no archive of the expected kind, by its first bytes. Pure."""

import re

_KINDS = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    (re.compile(rb"PK\x03\x04|PK\x05\x06"), "a zip file"),
    (re.compile(rb"SQLite format 3\0"), "an SQLite database, such as MBTiles"),
    (re.compile(rb"PMTiles"), "a PMTiles archive"),
    (re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"), "a TIFF image"),
    (re.compile(rb"GIF8"), "a GIF image"),
    (re.compile(rb"BM"), "a BMP image"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "an AVIF image"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "a JPEG 2000 image"),
    (re.compile(rb"\s*<(?:!doctype html|html|head|body)", re.IGNORECASE), "a web page"),
    (re.compile(rb"\s*<(?:\?xml|!|[a-z])", re.IGNORECASE), "an XML text, such as an error of a server"),
    (re.compile(rb"\s*[{\[]\s*[\"{]"), "a JSON text, such as an error of a server"),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS"),
    (re.compile(rb"unreadable part of"), "a part of a GeoTIFF that cannot be read"),
    (re.compile(rb"\0{8}"), "zeros"),
)


def kind_of_file(start: bytes) -> str:
    """Return what a file is that begins with some bytes, for messages; empty if that is unknown."""
    if not start:
        return "an empty file"
    return next((name for pattern, name in _KINDS if pattern.match(start)), "")


def what_it_is(start: bytes, begins: str = "a file that begins") -> str:
    """Return how a file begins, and what it is if that is known."""
    kind = kind_of_file(start)
    found = f"{begins} with {start[:8]!r}"
    return f"{found} ({kind})" if kind and start else kind or found
