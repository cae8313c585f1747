"""Write the conformance cases: `cases.json` and the caches in `caches.tar.xz`.

    python -m tests.conformance.make_cases [FOLDER]

Each case is a cache with one thing changed, and the verdict that any reader must reach. Verdicts are stated here
and not computed by a reader. `README.md` explains the form.
"""

import hashlib
import io
import json
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
    (folder / "caches.tar.xz").write_bytes(archive(found))


def archive(found: Iterable[Case]) -> bytes:
    """Return the caches of all cases, each in the folder of its name."""
    out = io.BytesIO()
    # Version 0 of the format, sorted, without owners and times: the same content gives the same archive.
    with tarfile.open(fileobj=out, mode="w:xz", format=tarfile.USTAR_FORMAT, preset=9) as tar:
        for case in found:
            for member, content in case.cache.members(case.name):
                tar.addfile(member, None if content is None else io.BytesIO(content))
    return out.getvalue()


def digest_of(data: bytes) -> str:
    """Return one digest of what an archive holds, however it is compressed."""
    state = hashlib.sha256()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            content = hashlib.sha256(file.read()).hexdigest() if file else member.linkname
            state.update(f"{member.name} {member.type!r} {member.mode:o} {content}\n".encode())
    return state.hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
