"""The conformance cases, and what they are made with."""

import copy
import json
import math
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from store.base.canonical_json import encode
from store.base.identity import build_identity
from store.formats.tables import decode_blocks, decode_packs
from store.trust.signatures import Signer, signature_file
from tests.conformance.sound import ALICE, Files, Plan, engines_of, sha, vectors_of

Document = dict[str, Any]

CPU: Mapping[str, Any] = {"libraries": {"onnxruntime": "1.2.3"}, "gpu": None, "openvino_target": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """The folder of a cache: files, symbolic links, empty folders, and modes that are not the usual ones."""

    files: Mapping[str, bytes]
    links: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    modes: Mapping[str, int] = field(default_factory=dict)

    def members(self, name: str) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
        """Yield what an archive holds of it, in a fixed order."""
        above = {str(place) for path in (*self.files, *self.links) for place in _above(path)}
        yield self._member(name, "", tarfile.DIRTYPE), None
        for folder in sorted({*above, *self.folders}):
            yield self._member(name, folder, tarfile.DIRTYPE), None
        for path in sorted({*self.files, *self.links}):
            if path in self.links:
                link = self._member(name, path, tarfile.SYMTYPE)
                link.linkname = self.links[path]
                yield link, None
            else:
                file = self._member(name, path, tarfile.REGTYPE)
                file.size = len(self.files[path])
                yield file, self.files[path]

    def _member(self, name: str, path: str, kind: bytes) -> tarfile.TarInfo:
        found = tarfile.TarInfo(f"{name}/{path}".rstrip("/"))
        found.type = kind
        found.mode = self.modes.get(path, 0o644 if kind == tarfile.REGTYPE else 0o755)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A cache, how it is opened, and the verdict."""

    name: str
    why: str
    cache: Cache
    ask: Mapping[str, Any]
    verdict: Mapping[str, Any]

    def to_document(self) -> Document:
        return {"name": self.name, "why": self.why, "ask": dict(self.ask), "verdict": dict(self.verdict)}


def _above(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])


def manifest_name(files: Mapping[str, bytes], number: int) -> str:
    """Return the path of a manifest, as the digits in its name say."""
    for path in files:
        if path.startswith("manifests/") and path.endswith(f"{number:08d}.json"):
            return path
    raise KeyError(number)


def ask(
    *,
    keys: str | None = ALICE.public.hex(),
    floor: object = None,
    generation: int | None = None,
    device: Mapping[str, Any] = CPU,
    find: Sequence[int] = (),
) -> Document:
    """Return how a cache is opened. `keys` is the text of a key file; None allows unsigned caches."""
    return {
        "keys": keys,
        "floor": floor,
        "generation": generation,
        "device": dict(device),
        "find": [str(each) for each in find],
    }


def signed(files: Mapping[str, bytes], number: int, raw: bytes, signer: Signer = ALICE) -> Files:
    """Put another manifest in the place of one, with its signature."""
    name = manifest_name(files, number)
    return {**files, name: raw, name.replace(".json", ".sig"): signature_file(signer.sign(raw))}


def changed(files: Mapping[str, bytes], change: Callable[[Document], object], number: int = 1) -> Files:
    """Change the content of a manifest, give it its identity again, and sign it."""
    document = json.loads(files[manifest_name(files, number)])
    change(document)
    body = document.get("body")
    if isinstance(body, dict) and isinstance(body.get("inputs"), dict) and "identity" in body:
        body["identity"] = build_identity(body["inputs"])
    return signed(files, number, encode(document) + b"\n")


def put(path: Sequence[str | int], value: object) -> Callable[[Document], object]:
    """Return a change that puts a value at a place of a document."""

    def change(document: Document) -> None:
        holder: Any = document
        for name in path[:-1]:
            holder = holder[name]
        holder[path[-1]] = copy.deepcopy(value)

    return change


def take(*path: str | int) -> Callable[[Document], object]:
    """Return a change that removes what is at a place of a document."""

    def change(document: Document) -> None:
        holder: Any = document
        for name in path[:-1]:
            holder = holder[name]
        del holder[path[-1]]

    return change


def at(document: object, path: Sequence[str | int]) -> Any:
    """Return what is at a place of a document."""
    for name in path:
        document = document[name]  # type: ignore[index]
    return document


def artifact_path(digest: str) -> str:
    """Return where an artifact lies."""
    return f"artifacts/{digest[:2]}/{digest}"


def path_to(files: Mapping[str, bytes], path: Sequence[str | int], number: int = 1) -> str:
    """Return where the artifact lies that a place in a manifest names."""
    return artifact_path(at(json.loads(files[manifest_name(files, number)]), path)["sha256"])


def replaced(files: Mapping[str, bytes], path: Sequence[str | int], content: bytes, number: int = 1) -> Files:
    """Put another artifact in the place of one, and name and sign it: its digest holds."""
    ref = {"sha256": sha(content), "size": len(content)}
    return {**changed(files, put(path, ref), number), artifact_path(ref["sha256"]): content}


def tables_of(files: Mapping[str, bytes], number: int = 1) -> list[str]:
    """Return the paths of the blocks and packs of a generation."""
    body = json.loads(files[manifest_name(files, number)])["body"]
    rows = [*decode_blocks(files[artifact_path(body["index"]["blocks"]["sha256"])])]
    if "carried" in body:
        rows += decode_packs(files[artifact_path(body["carried"]["packs"]["sha256"])])
    return [artifact_path(ref.sha256) for row in rows for ref in row.refs]


def no(
    name: str,
    kind: str,
    why: str,
    files: Mapping[str, bytes],
    *,
    links: Mapping[str, str] | None = None,
    folders: tuple[str, ...] = (),
    modes: Mapping[str, int] | None = None,
    **question: Any,
) -> Case:
    """Return a case that is refused with a kind."""
    cache = Cache(files=files, links=links or {}, folders=folders, modes=modes or {})
    return Case(name=name, why=why, cache=cache, ask=ask(**question), verdict={"go": False, "kind": kind})


def without(files: Mapping[str, bytes], *paths: str) -> Files:
    """Return the files without some."""
    return {path: content for path, content in files.items() if path not in paths}


def flipped(files: Mapping[str, bytes], path: str, place: int = -1) -> Files:
    """Flip a bit of one file."""
    content = bytearray(files[path])
    content[place] ^= 1
    return {**files, path: bytes(content)}


def go(
    files: Mapping[str, bytes], plan: Plan, find: Sequence[int] = (), *, number: int, key: str | None
) -> Document:
    """Return the verdict on a sound generation, from what it was made of."""
    raw = files[manifest_name(files, number)]
    document = json.loads(raw)
    body, envelope = document["body"], document["envelope"]
    refs = {path.rsplit("/", 1)[1]: len(files[path]) for path in tables_of(files, number)}
    refs |= {ref["sha256"]: ref["size"] for ref in _refs(body)}
    for content in (
        each for network in plan.networks for each in engines_of(network)
    ):  # where they are in columns
        refs[sha(content)] = len(content)
    networks = sorted(plan.networks, key=lambda each: each.name)
    return {
        "go": True,
        "generation": number,
        "origin": envelope["origin"],
        "cache_id": envelope["cache_id"],
        "format": document["format"],
        "identity": body["identity"],
        "manifest_sha256": sha(raw),
        "body_sha256": sha(encode(body)),
        "signed_by": key,
        "files": sorted([digest, size] for digest, size in refs.items()),
        "engines": {each.name: [each.role, sha(engines_of(each)[0])] for each in networks},
        "rows": len(_common(plan)),
        "delta": _delta(files, plan),
        "found": [_found(plan, each) for each in find],
    }


def _refs(value: object) -> Iterator[Document]:
    if isinstance(value, dict):
        if value.keys() == {"sha256", "size"}:
            yield value
        for item in value.values():
            yield from _refs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _refs(item)


def _common(plan: Plan) -> set[int]:
    units = plan.units()
    skipped = {units[each.skips][0] for each in plan.descriptors if each.skips is not None}
    return {each for each, _ in units} - skipped


def _delta(files: Mapping[str, bytes], plan: Plan) -> Document | None:
    if not plan.extend:
        return None
    before, now = replace(plan, tiles=plan.before).units(), plan.units()
    return {
        "added": [str(each) for each, digest in now if (each, digest) not in before],
        "dropped": [str(each) for each, digest in before if (each, digest) not in now],
    }


def _found(plan: Plan, number: int) -> Document:
    """What a reader finds of a descriptor id: its fields, the tile, and the row of the index."""
    view = number >> 50 & 255
    zoom, x, y = number >> 58, number >> 25 & (1 << 25) - 1, number & (1 << 25) - 1
    tile = dict(plan.tile_rows()).get(number)
    unit = dict(plan.units()).get(number) if number in _common(plan) else None
    return {
        "id": str(number),
        "zoom": zoom,
        "view": view,
        "x": x,
        "y": y,
        "tile": tile,
        "captured": None if tile is None else (20697 if number % 2 else "unknown"),
        "carried": tile if plan.carry else None,
        "row": unit,
        "vectors": None
        if unit is None
        else [sha(vectors_of(each, [number]).tobytes()) for each in plan.descriptors],
        "middle_e7": _middle_e7(zoom, view, x, y) if unit is not None and view else None,
    }


def _middle_e7(zoom: int, view: int, x: int, y: int) -> list[int]:
    around, m = 1 << zoom, view & 31
    longitude = (2 * x + m) % (2 * around) * 180 / around - 180
    latitude = math.degrees(math.atan(math.sinh(math.pi * (1 - (2 * y + m) / around))))
    return [round(longitude * 1e7), round(latitude * 1e7)]


def cases() -> list[Case]:
    """Return all cases."""
    from tests.conformance import refused, refused_files, refused_manifests, sound_cases

    rooms = (sound_cases, refused, refused_manifests, refused_files)
    found = [case for room in rooms for case in room.cases()]
    names = [case.name for case in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"cases share the names {sorted(twice)}")
    return found
