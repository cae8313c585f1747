"""Cases of caches whose artifacts are missing, damaged, or of another form than their manifest says."""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from store.base.identity import ONE_PPM
from store.formats.tables import decode_blocks, encode_blocks
from tests.conformance.cases import (
    CPU,
    Case,
    artifact_path,
    changed,
    flipped,
    no,
    path_to,
    put,
    replaced,
    tables_of,
    without,
)
from tests.conformance.sound import Files, sha
from tests.conformance.sound_cases import ORIN, files_of

TABLE, BLOCKS, DELTA = (
    ("body", "tiles", "table"),
    ("body", "index", "blocks"),
    ("body", "index", "delta", "artifact"),
)
PACKS = ("body", "carried", "packs")


def cases() -> Iterator[Case]:
    """Yield them."""
    yield from _artifacts()
    yield from _tables()


def _artifacts() -> Iterator[Case]:
    carried, delta, jetson = files_of("carried"), files_of("delta"), files_of("stand-in")
    roles: dict[str, tuple[Files, str, Mapping[str, Any]]] = {
        "calibration": (carried, path_to(carried, ("body", "calibration")), CPU),
        "area": (carried, path_to(carried, ("body", "inputs", "area")), CPU),
        "tile-table": (carried, path_to(carried, TABLE), CPU),
        "report": (carried, path_to(carried, ("body", "geography", "report")), CPU),
        "engine": (carried, path_to(carried, ("body", "engines", 0, "artifact")), CPU),
        "index": (carried, path_to(carried, ("body", "index", "artifact")), CPU),
        "block-table": (carried, path_to(carried, BLOCKS), CPU),
        "pack-table": (carried, path_to(carried, PACKS), CPU),
        "proof": (carried, path_to(carried, ("body", "proof")), CPU),
        "block": (carried, tables_of(carried)[0], CPU),
        "pack": (carried, tables_of(carried)[-1], CPU),
        "delta": (delta, path_to(delta, DELTA, 2), CPU),
        "whole-index-of-delta": (delta, path_to(delta, ("body", "index", "artifact"), 2), CPU),
        "golden": (jetson, path_to(jetson, ("body", "index", "embedded_by", "golden")), ORIN),
        "block-of-second-network": (files_of("networks"), tables_of(files_of("networks"))[1], CPU),
    }
    for name, (files, path, device) in roles.items():
        yield no(
            f"flipped-{name}", "artifact-damaged", "a bit is flipped", flipped(files, path), device=device
        )
        yield no(
            f"missing-{name}", "artifact-damaged", "the file is missing", without(files, path), device=device
        )
    files, path, _ = roles["engine"]
    yield no("cut-engine", "artifact-damaged", "the last byte is missing", {**files, path: files[path][:-1]})
    yield no("longer-engine", "artifact-damaged", "a byte more", {**files, path: files[path] + b"x"})
    yield no("empty-engine", "artifact-damaged", "no bytes", {**files, path: b""})
    yield no(
        "engine-is-link",
        "artifact-damaged",
        "a symbolic link to the right bytes",
        {**without(files, path), "elsewhere": files[path]},
        links={path: "../../elsewhere"},
    )
    yield no(
        "engine-is-folder",
        "artifact-damaged",
        "a folder in place of a file",
        without(files, path),
        folders=(path,),
    )
    folder = path.rsplit("/", 1)[0]
    moved = {each.replace(folder, "elsewhere"): content for each, content in files.items()}
    yield no(
        "folder-is-link",
        "artifact-damaged",
        "a symbolic link in place of a folder of artifacts",
        moved,
        links={folder: "../elsewhere"},
    )
    moved = {each.replace("artifacts/", "elsewhere/"): content for each, content in files.items()}
    yield no(
        "artifacts-are-link",
        "artifact-damaged",
        "a symbolic link in place of all artifacts",
        moved,
        links={"artifacts": "elsewhere"},
    )
    block = tables_of(files)[0]
    yield no(
        "block-is-link",
        "artifact-damaged",
        "a block is a symbolic link",
        {**without(files, block), "elsewhere": files[block]},
        links={block: "../../elsewhere"},
    )
    other = {"sha256": sha("another engine"), "size": 14}
    named = changed(files, put(("body", "engines", 0, "artifact"), other))
    yield no(
        "other-bytes",
        "artifact-damaged",
        "a file whose content has another digest than its name",
        {**named, artifact_path(other["sha256"]): b"another_engine"},
    )
    upper = {**without(files, path), f"{folder}/{path.rsplit('/', 1)[1].upper()}": files[path]}
    yield no("upper-case-name", "artifact-damaged", "the name in upper case", upper)
    second = without(files_of("second"), path_to(files_of("second"), ("body", "index", "artifact"), 2))
    yield no(
        "newest-incomplete",
        "artifact-damaged",
        "an artifact of the newest generation is missing, and the one before is whole",
        second,
    )


def _tables() -> Iterator[Case]:
    tiles, delta, carried, networks = map(files_of, ("tiles", "delta", "carried", "networks"))
    table, blocks = tiles[path_to(tiles, TABLE)], tiles[path_to(tiles, BLOCKS)]
    joined, packs = networks[path_to(networks, BLOCKS)], carried[path_to(carried, PACKS)]
    count = struct.unpack_from("<Q", table, 8)[0]

    def word(data: bytes, place: int, value: int, form: str = "<Q") -> bytes:
        changed_data = bytearray(data)
        struct.pack_into(form, changed_data, place, value)
        return bytes(changed_data)

    forms: dict[str, tuple[Files, tuple[str | int, ...], int, bytes]] = {
        "tiles-magic": (tiles, TABLE, 1, b"C10TILE2" + table[8:]),
        "tiles-empty": (tiles, TABLE, 1, b""),
        "tiles-header": (tiles, TABLE, 1, table[:15]),
        "tiles-tail": (tiles, TABLE, 1, table + b"\0"),
        "tiles-huge": (tiles, TABLE, 1, word(table, 8, 2**64 - 1)),
        "tiles-wrap": (tiles, TABLE, 1, word(table, 8, count + 2**62)),
        "tiles-unordered": (tiles, TABLE, 1, table[:16] + table[24:32] + table[16:24] + table[32:]),
        "tiles-twice": (tiles, TABLE, 1, table[:16] + table[16:24] * 2 + table[32:]),
        "tiles-another-set": (tiles, TABLE, 1, table[: 16 + 8 * count] + bytes(32) + table[48 + 8 * count :]),
        "tiles-none": (tiles, TABLE, 1, b"C10TILE1" + bytes(8)),
        "blocks-magic": (tiles, BLOCKS, 1, b"C10PCKS1" + blocks[8:]),
        "blocks-tail": (tiles, BLOCKS, 1, blocks + b"\0"),
        "blocks-rows": (tiles, BLOCKS, 1, word(blocks, 16 + 12 * _rows(blocks), 1, "<I")),
        "blocks-huge": (tiles, BLOCKS, 1, word(blocks, 8, 2**61)),
        "blocks-unordered": (tiles, BLOCKS, 1, _swapped(blocks)),
        "joined-one-network": (networks, BLOCKS, 1, word(joined, 16, 1)),
        "joined-weight-0": (networks, BLOCKS, 1, word(joined, 24, 0)),
        "joined-header": (networks, BLOCKS, 1, joined[:20]),
        "joined-huge": (networks, BLOCKS, 1, word(joined, 16, 2**60)),
        "joined-many": (networks, BLOCKS, 1, _of_networks(joined, 65)),
        "joined-other-weight": (
            networks,
            BLOCKS,
            1,
            word(joined, 24, 1 + struct.unpack_from("<Q", joined, 24)[0]),
        ),
        "joined-more-networks": (networks, BLOCKS, 1, _with_networks(joined, 3)),
        "joined-as-one": (networks, BLOCKS, 1, _with_networks(joined, 1)),
        "joined-of-one": (tiles, BLOCKS, 1, _with_networks(blocks, 2)),
        "packs-tiles": (carried, PACKS, 1, word(packs, 16 + 12 * _rows(packs), 1, "<I")),
        "packs-magic": (carried, PACKS, 1, b"C10BLCK1" + packs[8:]),
    }
    for name, (files, path, number, content) in forms.items():
        yield no(
            f"table-{name}",
            "artifact-damaged",
            "a signed table of another form",
            replaced(files, path, content, number),
        )
    yield no(
        "table-tiles-count",
        "artifact-damaged",
        "a manifest of another number of tiles",
        changed(tiles, put(("body", "tiles", "count"), count - 1)),
    )
    yield no(
        "table-index-rows",
        "artifact-damaged",
        "a manifest of another number of rows",
        changed(tiles, put(("body", "index", "rows"), count - 1)),
    )
    yield no(
        "table-carried",
        "artifact-damaged",
        "a manifest of another number of carried tiles",
        changed(carried, put(("body", "carried", "tiles"), 1)),
    )
    yield from _deltas(delta, word)


def _rows(table: bytes) -> int:
    found: int = struct.unpack_from("<Q", table, 8)[0]
    return found


def _swapped(table: bytes) -> bytes:
    """Return a block table whose first two rows change places in the columns of the key."""
    count, data = _rows(table), bytearray(table)
    for column in range(3):
        start = 16 + 4 * count * column
        data[start : start + 8] = data[start + 4 : start + 8] + data[start : start + 4]
    return bytes(data)


def _of_networks(table: bytes, networks: int) -> bytes:
    """Return a block table of so many networks, whose size fits."""
    count = _rows(table)
    head = table[:16] + struct.pack("<Q", networks) + struct.pack("<Q", 1) * networks
    return head + table[40 : 40 + 16 * count] + bytes(40 * count * networks)


def _with_networks(table: bytes, networks: int) -> bytes:
    """Return a block table of the same cells with so many networks; those that are new have the first one's blocks."""
    rows = decode_blocks(table)
    weights = () if networks == 1 else (*rows[0].weights, *[ONE_PPM] * networks)[:networks]
    return encode_blocks(
        replace(row, further=(*row.further, *[row.ref] * networks)[: networks - 1], weights=weights)
        for row in rows
    )


def _deltas(delta: Files, word: Callable[..., bytes]) -> Iterator[Case]:
    good = delta[path_to(delta, DELTA, 2)]
    added, dropped = struct.unpack_from("<2Q", good, 16)
    vectors = 64 + 64 * (-(-8 * added // 64) + -(-8 * dropped // 64))
    forms = {
        "magic": b"C10DELTB" + good[8:],
        "version": word(good, 8, 2, "<I"),
        "dimensions": word(good, 12, 5, "<I"),
        "dimensions-0": word(good, 12, 0, "<I"),
        "added": word(good, 16, added + 1),
        "huge": word(good, 16, 2**63),
        "header": good[:40],
        "padding": word(good, 40, 1),
        "padding-of-ids": word(good, 64 + 8 * added, 1),
        "unordered": good[:64] + good[72:80] + good[64:72] + good[80:],
        "id-of-64-bits": word(good, 64 + 8 * (added - 1), 2**63),
        "nan": word(good, vectors, 0x7FC00000, "<I"),
        "tail": good + bytes(64),
    }
    for name, content in forms.items():
        yield no(
            f"delta-{name}",
            "artifact-damaged",
            "a signed delta of another form",
            replaced(delta, DELTA, content, 2),
        )
    yield no(
        "delta-rows",
        "artifact-damaged",
        "a manifest of other rows than the delta's",
        changed(delta, put(("body", "index", "delta", "dropped"), dropped + 1), 2),
    )
