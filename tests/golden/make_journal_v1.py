"""Write the golden journal of format 1: one file as it was written once, and what it has to mean for ever.

The folder `journal_v1` holds `journal.mdb` (little-endian, pages of 4096 bytes) and `journal.json`. Releases read the
file; they never write it again. Run this only to begin the folder of a new format:

    python tests/golden/make_journal_v1.py FOLDER
"""

import base64
import json
import sys
import tempfile
from pathlib import Path

from journal import Journal, Record
from journal.testing import sample_record

NOON = 1_767_268_800_000_000_000  # 2026-01-01 12:00 UTC

RECORDS = (
    Record(
        tag="cache-created",
        version=1,
        build=None,
        wall_ns=NOON,
        mono_ns=0,
        payload={"cache_id": bytes(range(16))},
    ),
    Record(tag="a", version=1, build=0, wall_ns=-1, mono_ns=1, payload=None),
    Record(
        tag="every.kind_of-value",
        version=(1 << 31) - 1,
        build=(1 << 63) - 1,
        wall_ns=(1 << 63) - 1,
        mono_ns=(1 << 63) - 1,
        payload={
            "false": False,
            "true": True,
            "null": None,
            "integers": [0, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 64) - 1],
            "negative": [-1, -32, -33, -128, -129, -32768, -32769, -(1 << 31), -(1 << 31) - 1, -(1 << 63)],
            "floats": [0.0, -0.0, 1.0, 0.1, 1.7976931348623157e308, 5e-324],
            "text": ["", "é", "\u20ac", "\U0001f6f0", "x" * 31, "x" * 32, "x" * 256, "\0"],
            "bytes": [b"", b"\xff", bytes(255), bytes(256)],
            "": {"z": 1, "a": {"ä": 1, "b": [[]]}, "\uffff": 1, "\U00010000": 2},
        },
    ),
    sample_record(4, size=5000),
    sample_record(5, tag="x" * 64, size=70_000),
    sample_record(6),
)
PROJECTIONS = {b"head": b"\x01", b"\xff" * 511: b"", b"large": bytes(9000)}


def make(folder: Path) -> None:
    """Write both files into a folder that has neither."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch, "journal.mdb")
        Journal.create(path, RECORDS[:1], scratch=Path(scratch, "tmp"))
        with Journal.open(path) as journal:
            for record in RECORDS[1:]:
                journal.append([record])
            journal.append([], dict.fromkeys(PROJECTIONS, b"replaced"))
            journal.append([], PROJECTIONS)
            entries = list(journal.entries())
        (folder / "journal.mdb").hardlink_to(path)
    meaning = {
        "entries": [
            {"seq": entry.seq, "chain": entry.chain.hex(), "raw": base64.b64encode(entry.raw).decode()}
            for entry in entries
        ],
        "projections": {name.hex(): base64.b64encode(value).decode() for name, value in PROJECTIONS.items()},
    }
    (folder / "journal.json").write_text(json.dumps(meaning, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
