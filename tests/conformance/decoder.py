"""Project every manifest of a cache again, from its journal or its segments: a second implementation.

    python tests/conformance/decoder.py CACHE     # says which manifests came out byte for byte

Written from `journal/FORMAT.md` and `docs/events.md`, `docs/manifest.md`, `docs/format.md`; it imports the packages
lmdb and msgpack, and nothing of C10.
"""

import hashlib
import json
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgpack

Map = dict[str, Any]
Record = tuple[int, bytes, list[Any]]
"""Seq, chain, and the six fields."""


class DamagedError(ValueError):
    """The bytes are not as the documents say."""


# --- records ------------------------------------------------------------------------------------------------------


def link(chain: bytes, raw: bytes) -> bytes:
    """Return the chain digest of a record."""
    return hashlib.sha256(b"c10/journal/chain/v1\0" + chain + raw).digest()


def unpack(raw: bytes) -> list[Any]:
    """Decode record bytes; refuse any other form of the same record."""
    if len(raw) > 1 << 20:
        raise DamagedError("a record of more than 1 MiB")
    fields: list[Any] = msgpack.unpackb(raw, strict_map_key=True)
    if packed(fields) != raw or len(fields) != 6 or not re.fullmatch(r"[a-z0-9._-]{1,64}", fields[0]):
        raise DamagedError("a record in another form")
    return fields


def packed(value: Any) -> bytes:
    """Return the canonical MessagePack of a tree, as `journal/FORMAT.md` has it."""
    if value is None or value is True or value is False:
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return packed_integer(value)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, str):
        data = value.encode()
        return _head(len(data), 0xA0, 31, (0xD9, 0xDA, 0xDB)) + data
    if isinstance(value, bytes):
        return _head(len(value), 0, -1, (0xC4, 0xC5, 0xC6)) + value
    if isinstance(value, list):
        return _head(len(value), 0x90, 15, (None, 0xDC, 0xDD)) + b"".join(map(packed, value))
    items = sorted(value.items(), key=lambda item: item[0].encode())
    return _head(len(items), 0x80, 15, (None, 0xDE, 0xDF)) + b"".join(
        packed(key) + packed(item) for key, item in items
    )


def packed_integer(value: int) -> bytes:
    """Return the shortest form: unsigned unless it is negative."""
    if -32 <= value <= 127:
        return struct.pack("b", value)
    if value > 0:
        forms = ((0xCC, ">BB", 8), (0xCD, ">BH", 16), (0xCE, ">BI", 32), (0xCF, ">BQ", 64))
        return next(struct.pack(form, code, value) for code, form, bits in forms if value < 1 << bits)
    forms = ((0xD0, ">Bb", 7), (0xD1, ">Bh", 15), (0xD2, ">Bi", 31), (0xD3, ">Bq", 63))
    return next(struct.pack(form, code, value) for code, form, bits in forms if value >= -1 << bits)


def _head(length: int, small: int, most: int, codes: tuple[int | None, int, int]) -> bytes:
    if length <= most:
        return bytes([small | length])
    if codes[0] is not None and length < 1 << 8:
        return struct.pack(">BB", codes[0], length)
    if length < 1 << 16:
        return struct.pack(">BH", codes[1], length)
    return struct.pack(">BI", codes[2], length)


def records_of_journal(path: Path) -> Iterator[Record]:
    """Yield the records of an LMDB file, their chain checked."""
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=3) as environment,
        environment.begin() as transaction,
    ):
        meta = environment.open_db(b"meta", transaction, create=False)
        if transaction.get(b"format", db=meta) != b"1":
            raise DamagedError("another format of the journal")
        _check_projections(environment, transaction)
        database = environment.open_db(b"records", transaction, create=False)
        stored = ((int.from_bytes(key, "big"), bytes(value)) for key, value in transaction.cursor(database))
        yield from chained(stored, bytes(32))


def _check_projections(environment: Any, transaction: Any) -> None:
    database = environment.open_db(b"projections", transaction, create=False)
    for name, value in transaction.cursor(database):
        body = b"c10/journal/projection/v1\0" + len(name).to_bytes(2, "big") + name + value[32:]
        if hashlib.sha256(body).digest() != value[:32]:
            raise DamagedError(f"the projection {name!r}")


def records_of_segments(paths: Iterable[Path]) -> Iterator[Record]:
    """Yield the records of segments, in the order of their generations."""
    chain, last = bytes(32), 0
    for path in paths:
        data = path.read_bytes()
        magic, generation, first, count, before = struct.unpack_from(">8sQQQ32s", data)
        if magic != b"C10SEG\0\1" or before != chain or first != last + 1 or path.stem != f"{generation:08d}":
            raise DamagedError(f"{path.name} does not continue the one before")
        for seq, chain, fields in chained(_values(data, first, count), before):
            last = seq
            yield seq, chain, fields


def _values(data: bytes, first: int, count: int) -> Iterator[tuple[int, bytes]]:
    place = 64
    for seq in range(first, first + count):
        (length,) = struct.unpack_from(">I", data, place)
        yield seq, data[place + 4 : place + 4 + length]
        place += 4 + length
    if place != len(data):
        raise DamagedError("bytes behind the last record")


def chained(stored: Iterable[tuple[int, bytes]], chain: bytes) -> Iterator[Record]:
    """Check the chain of stored values."""
    last = None
    for seq, value in stored:
        chain = link(chain, value[32:])
        if chain != value[:32] or (last is not None and seq != last + 1):
            raise DamagedError(f"record {seq} does not continue the chain")
        last = seq
        yield seq, chain, unpack(value[32:])


# --- what the records say -------------------------------------------------------------------------------------------


class Cache:
    """What is kept while records are read, by `docs/events.md`."""

    def __init__(self) -> None:
        self.cache_id = ""
        self.builds: dict[int, Map] = {}
        self.open: Map | None = None
        self.engines: dict[str, Map] = {}
        self.indexes: dict[str, Map] = {}
        self.passed: dict[tuple[str, str], Map] = {}
        self.manifests: dict[int, bytes] = {}
        self.promised: dict[int, str] = {}
        self.before = (0, bytes(32))

    def read(self, record: Record) -> None:
        """Take one record."""
        seq, chain, (tag, _, build, wall_ns, _, payload) = record
        own = None if build is None else self.builds.get(build)
        match tag:
            case "cache.created":
                self.cache_id = payload["cache_id"]
            case "build.started":
                self.builds[build] = {**payload, "engines": {}, "stand-ins": {}, "proof": None}
            case "tiles.selected" | "tiles.carried" | "coverage.walked" if own is not None:
                own[tag] = payload
            case "engine.compiled":
                self._result(self.engines, payload)
                if own is not None:
                    own["stand-ins" if payload["purpose"] == "stand-in" else "engines"][payload["model"]] = (
                        payload
                    )
            case "index.built" | "index.extended":
                self._result(self.indexes, payload)
                if own is not None:
                    own["index"] = payload
            case "step.reused" if own is not None:
                self._reuse(own, payload)
            case "check.passed":
                self.passed[payload["check"], payload["key"]] = payload
                if payload["check"] == "proof" and own is not None:
                    own["proof"] = payload
            case "check.failed":
                self._forget(payload["key"])
                if payload["check"] == "proof" and own is not None:
                    own["proof"] = None
            case "collection.planned" | "collected":
                self._collect(set(payload["digests"]))
            case "build.committed" if own is not None:
                self._commit(own, payload, wall_ns)
            case _:
                pass
        self.before = (seq, chain)

    def _result(self, kept: dict[str, Map], payload: Map) -> None:
        kept[payload["key"]] = payload
        for name, check in list(self.passed.items()):
            if name[1] == payload["key"] and check["artifact"] != payload["artifact"]["sha256"]:
                del self.passed[name]

    def _reuse(self, own: Map, payload: Map) -> None:
        for subject, key in payload["keys"].items():
            if payload["kind"] in {"engine", "stand-in"}:
                own[f"{payload['kind']}s"][subject] = self.engines[key]
            elif payload["kind"] == "index":
                own["index"] = self.indexes[key]
            elif payload["kind"] == "proof":
                own["proof"] = self.passed["proof", key]

    def _forget(self, key: str) -> None:
        self.engines.pop(key, None)
        self.indexes.pop(key, None)
        for name in [name for name in self.passed if name[1] == key]:
            del self.passed[name]

    def _collect(self, digests: set[str]) -> None:
        def named(result: Map) -> set[str]:
            refs = (result.get(name) for name in ("artifact", "base", "blocks"))
            return {ref["sha256"] for ref in refs if ref}

        for kept in (self.engines, self.indexes):
            for key in [key for key, result in kept.items() if named(result) & digests]:
                self._forget(key)
        for name in [
            name for name, check in self.passed.items() if name[0] == "proof" and check["artifact"] in digests
        ]:
            del self.passed[name]

    def _commit(self, own: Map, payload: Map, wall_ns: int) -> None:
        if "body" not in own:  # a rollback shows the body as it was committed
            own["body"] = self._body(own)
        seq, chain = self.before
        document = {
            "format": payload["format"],
            "body": own["body"],
            "envelope": {
                "cache_id": self.cache_id,
                "generation": payload["generation"],
                "origin": payload["origin"],
                "prev_head": {"seq": seq, "chain": chain.hex()},
                "time_ns": wall_ns,
            },
        }
        self.manifests[payload["generation"]] = canonical(document) + b"\n"
        self.promised[payload["generation"]] = payload["manifest_sha256"]

    def _body(self, own: Map) -> Map:
        inputs, index, coverage, tiles = (
            own["inputs"],
            own["index"],
            own["coverage.walked"],
            own["tiles.selected"],
        )
        models = {model["name"]: model for model in inputs["models"]}
        described = [name for name in models if models[name]["role"] == "descriptor"]
        extended = "base" in index
        entry = {
            "artifact": index["base"] if extended else index["artifact"],
            "blocks": index["blocks"],
            "step_key": index["key"],
            **{name: index[name] for name in ("kind", "metric", "dimensions", "rows")},
        }
        if extended:
            entry["delta"] = {name: index[name] for name in ("artifact", "added", "dropped")}
        body = {
            "identity": own["identity"],
            "inputs": inputs,
            "calibration": own["calibration"],
            "tiles": {name: tiles[name] for name in ("count", "digest", "table")},
            "engines": [_engine(models[name], engine) for name, engine in sorted(own["engines"].items())],
            "vector_space": index["components"]["space"],
            "index": entry,
            "geography": {
                "report": coverage["geography"],
                **{name: coverage[name] for name in ("wanted", "present", "featureless", "skipped")},
            },
            "checks": self._checks(own),
        }
        if len(described) == 1:
            entry["embedded_by"] = _embedded_by(own, described[0], alone=True)
        else:
            spaces = [network["space"] for network in index["components"]["networks"]]
            body["descriptors"] = [
                {
                    "model": name,
                    "vector_space": space,
                    **(
                        {"embedded_by": _embedded_by(own, name, alone=False)}
                        if name in own["stand-ins"]
                        else {}
                    ),
                }
                for name, space in zip(described, spaces, strict=True)
            ]
        if "carry" in inputs:
            carried = own["tiles.carried"]
            body["carried"] = {"packs": carried["table"], "tiles": carried["tiles"], "size": carried["size"]}
        if "proof" in inputs:
            body["proof"] = {"sha256": own["proof"]["artifact"], "size": own["proof"]["measured"]["size"]}
        return in_columns(body) if _is_of_format_3(inputs, described, models) else body

    def _checks(self, own: Map) -> list[Map]:
        results = [*own["engines"].values(), *own["stand-ins"].values(), own["index"]]
        shown = {(result["key"], result["artifact"]["sha256"]) for result in results}
        if own["proof"]:
            shown.add((own["proof"]["key"], own["proof"]["artifact"]))
        found = [check for check in self.passed.values() if (check["key"], check["artifact"]) in shown]
        return sorted(found, key=lambda check: (check["check"], check["subject"], check["key"]))


def _engine(model: Map, engine: Map) -> Map:
    components = engine["components"]
    return {
        "model": model["name"],
        "role": model["role"],
        "preprocessing": model["preprocessing"],
        "artifact": engine["artifact"],
        "step_key": engine["key"],
        "signature": {name: value for name, value in engine["signature"].items() if name != "attached"},
        **{name: components[name] for name in ("backend", "version", "target", "precision", "batch")},
    }


def _embedded_by(own: Map, name: str, *, alone: bool) -> Map:
    stand_ins = own["stand-ins"]
    stand_in = next(iter(stand_ins.values())) if alone and len(stand_ins) == 1 else stand_ins.get(name)
    engine = stand_in or own["engines"][name]
    golden = engine["signature"].get("attached", {}).get("golden") if stand_in else None
    return {
        "step_key": engine["key"],
        "sha256": engine["artifact"]["sha256"],
        **{member: engine["components"][member] for member in ("backend", "version", "target")},
        **({"golden": golden} if golden else {}),
    }


def _is_of_format_3(inputs: Map, described: list[str], models: Map) -> bool:
    normalised = any("normalise" in models[name]["preprocessing"] for name in described)
    return any(name in inputs for name in ("chunks", "carry", "area")) or len(described) > 1 or normalised


# --- canonical JSON and columns -----------------------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    """Return canonical JSON."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def in_columns(body: Map) -> Map:
    """Return a body of format 3 as it is written: more than eight networks are in columns."""
    if len(body["inputs"]["models"]) <= 8:
        return body
    flown = {engine["step_key"] for engine in body["engines"]}
    of_engines = [check for check in body["checks"] if check["check"] == "engine"]
    tables = {
        "models": body["inputs"]["models"],
        "engines": body["engines"],
        "descriptors": body.get("descriptors", []),
        "checks": [check for check in of_engines if check["key"] in flown],
        "stand_in_checks": [check for check in of_engines if check["key"] not in flown],
    }
    return {
        **{name: value for name, value in body.items() if name not in {"engines", "descriptors"}},
        "inputs": {name: value for name, value in body["inputs"].items() if name != "models"},
        "checks": [check for check in body["checks"] if check["check"] != "engine"],
        "networks": columns(tables),
    }


def columns(tables: dict[str, list[Map]]) -> Map:
    """Return the columns of tables."""
    first: dict[bytes, str] = {}
    written: Map = {}
    for table, rows in sorted(tables.items()):
        leaves = [dict(_leaves(row, "")) for row in rows]
        for pointer in sorted({pointer for row in leaves for pointer in row}):
            values = [row.get(pointer) for row in leaves]
            if len({canonical(value) for value in values}) == 1:
                values = values[:1]
            name = table + pointer
            known = first.setdefault(canonical(values), name) if len(values) > 1 else name
            written.setdefault(table, {})[pointer] = values if known == name else known
    return written


def _leaves(document: Map, above: str) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        pointer = f"{above}/{name.replace('~', '~0').replace('/', '~1')}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, pointer)
        else:
            yield pointer, value


# --- use ------------------------------------------------------------------------------------------------------------


def manifests_of(records: Iterable[Record]) -> dict[int, bytes]:
    """Return the manifest of every generation; each has the digest that was committed.

    Raises:
        DamagedError: The records are not what was committed.
    """
    cache = Cache()
    for record in records:
        cache.read(record)
    require_promised(cache)
    return cache.manifests


def require_promised(cache: Cache) -> None:
    """Hold every manifest to the digest in its commit.

    Raises:
        DamagedError: One has another digest.
    """
    for number, raw in cache.manifests.items():
        if hashlib.sha256(raw).hexdigest() != cache.promised[number]:
            raise DamagedError(f"generation {number} has another digest than was committed")


def manifests_of_cache(folder: Path) -> dict[int, bytes]:
    """Return the manifests that the journal of a cache says, or its segments where it has none."""
    journal = folder / "journal.mdb"
    segments = sorted((folder / "segments").glob("*.events"))
    return manifests_of(records_of_journal(journal) if journal.exists() else records_of_segments(segments))


def main(folder: Path) -> int:
    """Compare what the records say with the files."""
    wrong = 0
    for number, raw in manifests_of_cache(folder).items():
        files = [path.read_bytes() for path in folder.glob(f"manifests/*{number:08d}.json")]
        word = "absent" if not files else "the same" if files == [raw] else "DIFFERENT"
        wrong += word == "DIFFERENT"
        print(f"generation {number}: {word}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
