"""Hash all files that a manifest names and compare its tables with it, on board."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from store.errors import ArtifactError, NoGoError
from store.files.sealed_memory import SealError
from store.formats.index_delta import Delta
from store.formats.tables import BlockRow
from store.manifest.manifest import Manifest
from store.manifest.roles import DELTA, PACKS, TABLE
from store.reader import table_checks
from store.reader.artifact_files import ArtifactFiles
from store.reader.manifest_files import damaged
from store.reader.results import Verification

_COMPARED: Final = frozenset({"tile table", TABLE, DELTA, PACKS})
"""Roles of the files that are compared with the manifest once they were hashed."""


def verify_content(manifest: Manifest, files: ArtifactFiles) -> Verification:
    """Hash all files that a manifest names, blocks included, and compare its tables with it.

    Raises:
        NoGoError: With every problem found.
    """
    problems, count, size = dict[str, str](), 0, 0
    for role, ref in manifest.artifacts():
        count, size = count + 1, size + ref.size
        with _collect_problem(problems, role):
            files.check(role, ref, keep=role in _COMPARED)
    if "tile table" not in problems:
        with _collect_problem(problems, "tile table"):
            table_checks.tiles_of(manifest, files.view("tile table", manifest.tiles))
    if DELTA not in problems:
        with _collect_problem(problems, DELTA):
            delta_of(manifest, files)
    rows: tuple[BlockRow, ...] = ()
    if TABLE not in problems:
        with _collect_problem(problems, TABLE):
            rows = table_checks.blocks_of(manifest, files.view(TABLE, manifest.index.blocks))
    packs: tuple[BlockRow, ...] = ()
    if manifest.carried is not None and PACKS not in problems:
        with _collect_problem(problems, PACKS):
            packs = table_checks.packs_of(manifest, files.view(PACKS, manifest.carried.packs))
    listed = [*(found for row in rows for found in row.files("block"))]
    listed += [found for row in packs for found in row.files("pack")]
    for name, ref in listed:
        count, size = count + 1, size + ref.size
        with _collect_problem(problems, name):
            files.check_block(ref)
    if problems:
        raise damaged([*problems.values()])
    return Verification(files=count, size=size)


def delta_of(manifest: Manifest, files: ArtifactFiles) -> Delta | None:
    """Return the delta of the index, if there is one.

    Raises:
        NoGoError: It is damaged.
    """
    entry = manifest.index.delta
    if entry is None:
        return None
    try:
        return table_checks.delta_of(manifest, files.view(DELTA, entry.artifact))
    except ArtifactError as error:
        raise damaged([f"{DELTA}: {error.message}"]) from error


def pack_name(row: BlockRow) -> str:
    """Return what errors call a pack of carried tiles."""
    return f"pack {row.zoom}/{row.cell_x}/{row.cell_y}"


@contextmanager
def _collect_problem(problems: dict[str, str], role: str) -> Iterator[None]:
    """Keep what is wrong with a file, and go on."""
    try:
        yield
    except SealError as error:
        problems[role] = f"{role}: {error}"
    except NoGoError as error:
        problems[role] = error.reasons[0]
    except ArtifactError as error:
        problems[role] = f"{role}: {error.message}"
