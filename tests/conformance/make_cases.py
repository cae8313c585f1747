"""Write the conformance cases: `cases.json` and the caches in `caches.tar.xz`.

    python -m tests.conformance.make_cases [FOLDER]

Each case is a cache with one thing changed, and the verdict that any reader must reach. Verdicts are stated here
and not computed by a reader. `README.md` explains the form.
"""

import io
import json
import lzma
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.conformance.cases import Case, cases

HERE = Path(__file__).parent


def main(folder: Path) -> None:
    """Write both files."""
    found = cases()
    text = json.dumps(
        {"format": 1, "cases": [case.to_document() for case in found]}, indent=1, ensure_ascii=False
    )
    (folder / "cases.json").write_text(text + "\n")
    (folder / "caches.tar.xz").write_bytes(lzma.compress(archive(found), preset=9))


def archive(found: Iterable[Case]) -> bytes:
    """Return the caches of all cases as a tar archive, each in the folder of its name."""
    out = io.BytesIO()
    # Version 0 of the format, sorted, without owners and times: the same content gives the same archive.
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for case in found:
            for member, content in case.cache.members(case.name):
                tar.addfile(member, None if content is None else io.BytesIO(content))
    return out.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
