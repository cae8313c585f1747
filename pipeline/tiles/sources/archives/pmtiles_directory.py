"""Decode and check the directories of a PMTiles archive as columns (version 3, section 4). Pure.

The library's own decoder has no limit on the unpacked size and makes one object per entry. Here the size is
limited and a column is one array. A directory that is not sorted, has overlapping entries or points outside
its section is refused.
"""

import zlib

import numpy as np

from pipeline.tiles.sources.archives.pmtiles_ids import MAX_PMTILES_ZOOM, first_id
from pipeline.tiles.tile_columns import Numbers
from store.base.valueclass import valueclass

MAX_DIRECTORY_BYTES = 64 << 20

END_OF_IDS = first_id(MAX_PMTILES_ZOOM + 1)
_MAX_VARINT_BYTES = 9  # 63 bits: any greater number lies outside every file


class DirectoryError(Exception):
    """A directory is damaged; the text says what was found."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """Entries of one directory, as int64 columns of equal length, sorted by id.

    Attributes:
        ids: First tile id of each entry.
        runs: How many consecutive ids share the entry's content; 0 marks another directory.
        offsets: Where the content starts, from the start of its section.
        lengths: Length of the content, bytes.
    """

    ids: Numbers
    runs: Numbers
    offsets: Numbers
    lengths: Numbers


def unpack(packed: bytes, *, gzipped: bool) -> bytes:
    """Return a directory's bytes, unpacked.

    Raises:
        DirectoryError: when they are damaged or unpack to more than 64 MiB.
    """
    if not gzipped:
        return packed
    inflater = zlib.decompressobj(wbits=31)
    try:
        content = inflater.decompress(packed, MAX_DIRECTORY_BYTES + 1)
    except zlib.error as error:
        raise DirectoryError(f"gzip data that cannot be unpacked ({error})") from None
    if len(content) > MAX_DIRECTORY_BYTES:
        raise DirectoryError(f"gzip data that unpacks to more than {MAX_DIRECTORY_BYTES:,} bytes")
    if not inflater.eof:
        raise DirectoryError("gzip data that is cut off")
    return content


def parse(content: bytes) -> Directory:
    """Decode an unpacked directory; leave out entries of tiles without content.

    Raises:
        DirectoryError: when it is damaged.
    """
    numbers = _varints(content)
    count = int(numbers[0]) if len(numbers) else -1
    if len(numbers) != 1 + 4 * count:
        raise DirectoryError(f"{max(count, 0)} entries announced and {max(len(numbers) - 1, 0)} numbers")
    steps, runs, lengths, encoded = (numbers[1 + count * i : 1 + count * (i + 1)] for i in range(4))
    if not count:
        return Directory(ids=steps, runs=runs, offsets=encoded, lengths=lengths)
    if (steps >= END_OF_IDS).any() or (runs >= END_OF_IDS).any():
        raise DirectoryError("a tile id beyond the last zoom")
    ids = np.cumsum(steps)
    # The step to the first id may be 0; a sum that wrapped around is a step back.
    if (ids[1:] <= ids[:-1]).any() or int(ids[-1]) + int(runs[-1]) > END_OF_IDS:
        raise DirectoryError("tile ids that do not rise")
    if (runs[:-1] > np.diff(ids)).any():
        raise DirectoryError("entries that overlap")
    offsets = _offsets(encoded, lengths)
    empty = lengths == 0
    if (runs[empty] == 0).any():
        raise DirectoryError("a directory without content")
    # Some writers enter tiles that they do not have, with no content.
    return Directory(ids=ids[~empty], runs=runs[~empty], offsets=offsets[~empty], lengths=lengths[~empty])


def _offsets(encoded: Numbers, lengths: Numbers) -> Numbers:
    """Decode offsets: 0 means right after the previous entry, n means n - 1."""
    if encoded[0] == 0 or float(lengths.sum(dtype=np.float64)) >= 2.0**62:
        raise DirectoryError("an entry that points outside the archive")
    before = np.cumsum(lengths) - lengths
    given = np.maximum.accumulate(np.where(encoded > 0, np.arange(len(encoded)), 0))
    offsets: Numbers = encoded[given] - 1 + before - before[given]
    return offsets


def _varints(content: bytes) -> Numbers:
    """Decode every variable-length number of a buffer, int64 [n]."""
    octets = np.frombuffer(content, dtype=np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    if not len(octets) or octets[-1] >= 0x80:
        raise DirectoryError("numbers that are cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if int(sizes.max()) > _MAX_VARINT_BYTES:
        raise DirectoryError("a number of more than 63 bits")
    numbers = np.zeros(len(ends), dtype=np.int64)
    for place in range(int(sizes.max())):
        longer = np.flatnonzero(sizes > place)
        numbers[longer] |= (octets[starts[longer] + place] & 0x7F).astype(np.int64) << (7 * place)
    return numbers
