"""Cases of sound caches: every way in which caches differ, and every way to open one that holds."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from store.base.identity import descriptor_id
from store.cache.writer import CacheWriter
from store.domain.maintenance_events import GenerationSigned
from store.policy import rollback
from tests.conformance.cases import CPU, Cache, Case, ask, changed, go, put, signed
from tests.conformance.played import build
from tests.conformance.sound import ALICE, BOB, CACHE_ID, MALLORY, ZOOM, Files, Network, Plan, write

ORIN: Mapping[str, Any] = {
    "libraries": {"tensorrt": "10.3.0.30"},
    "gpu": {"capability": "sm87", "name": "Orin"},
    "openvino_target": None,
}
GROUND = {(x, y): f"tile {x} {y}" for x in (62, 63, 0, 1) for y in (20, 21)}
NEWER = GROUND | {(63, 20): "a house was built", (2, 20): "one more tile"}
del NEWER[0, 21]

TILES = Plan(tiles=GROUND)
SECOND = Plan(tiles=NEWER, flight="f2")
DELTA = Plan(tiles=NEWER, flight="f2", extend=True, before=GROUND)
CHUNKS = Plan(tiles=GROUND, levels=((1, 3), (0, 2)))
CARRIED = Plan(tiles=GROUND, levels=((1, 3),), carry=True, area=True, proof=True)
CARRIED_TILES = Plan(tiles=GROUND, carry=True)
AREA = Plan(tiles=GROUND, area=True)
NORMALISED = Plan(tiles=GROUND, networks=(Network(name="place", normalise=True),))
JETSON = Network(name="place", backend="tensorrt", version="10.3.0.30", target="sm87:Orin", stand_in=True)
STAND_IN = Plan(tiles=GROUND, networks=(JETSON,))
NETWORKS = Plan(
    tiles=GROUND,
    levels=((1, 3),),
    networks=(
        Network(name="far", weight=500_000, dimensions=3, skips=2),
        Network(name="near", dimensions=5),
        Network(name="sky", role="auxiliary"),
    ),
)
COLUMNS = Plan(
    tiles=GROUND,
    levels=((1, 3),),
    networks=(
        *(Network(name=f"eye-{number}", role="auxiliary") for number in range(8)),
        Network(
            name="place-a",
            weight=250_000,
            stand_in=True,
            backend="tensorrt",
            version="10.3.0.30",
            target="sm87:Orin",
        ),
        Network(name="place-b", stand_in=True, backend="tensorrt", version="10.3.0.30", target="sm87:Orin"),
    ),
)
BOTH: Mapping[str, Any] = {**ORIN, "libraries": {"tensorrt": "10.3.0.30", "onnxruntime": "1.2.3"}}


@cache
def files_of(name: str) -> Files:
    """Return the files of a sound cache by name."""
    signer = None if name == "unsigned" else ALICE
    label = "flight-{generation:08d}.json" if name == "label" else ""
    return write(_LIVES[name], signer=signer, name=label)


def _play(*plans: Plan) -> Callable[[CacheWriter], None]:
    def live(store: CacheWriter) -> None:
        for plan in plans:
            build(store, plan)

    return live


def _roll_back(store: CacheWriter) -> None:
    _play(TILES, SECOND)(store)
    planned = rollback.plan(store.state, to=1, why="it was better")
    assert planned is not None
    store.roll_back(planned)


def _sign_again(store: CacheWriter) -> None:
    build(store, TILES)
    (raw,) = (path.read_bytes() for path in store.layout.manifests.glob("*.json"))
    made = BOB.sign(raw)
    store.add_signature(GenerationSigned(generation=1, signature=made.signature, key_id=made.key_id, host={}))


_LIVES: Mapping[str, Callable[[CacheWriter], None]] = {
    "tiles": _play(TILES),
    "second": _play(TILES, SECOND),
    "delta": _play(TILES, DELTA),
    "chunks": _play(CHUNKS),
    "carried": _play(CARRIED),
    "carried-tiles": _play(CARRIED_TILES),
    "area": _play(AREA),
    "normalised": _play(NORMALISED),
    "stand-in": _play(STAND_IN),
    "networks": _play(NETWORKS),
    "columns": _play(COLUMNS),
    "rollback": _roll_back,
    "two-signatures": _sign_again,
    "unsigned": _play(TILES),
    "label": _play(TILES, SECOND),
}


def tile(x: int, y: int) -> int:
    """Return the id of a tile."""
    return descriptor_id(ZOOM, x, y)


def chunk(k: int, m: int, x: int, y: int) -> int:
    """Return the id of a chunk."""
    return descriptor_id(ZOOM + k, x, y, k << 5 | m)


def case(
    name: str,
    why: str,
    base: str,
    plan: Plan,
    *find: int,
    number: int = 1,
    key: str | None = ALICE.key_id,
    files: Files | None = None,
    cache: Cache | None = None,
    **question: Any,
) -> Case:
    """Return a case whose verdict is GO."""
    found = files_of(base) if files is None else files
    return Case(
        name=name,
        why=why,
        cache=cache or Cache(files=found),
        ask=ask(find=find, **question),
        verdict=go(found, plan, find, number=number, key=key),
    )


def cases() -> Iterator[Case]:
    """Yield the cases of sound caches."""
    yield from _kinds()
    yield from _ways_to_open()
    yield from _signatures()
    yield from _names()
    yield from _what_does_not_matter()


def _kinds() -> Iterator[Case]:
    chunks = (chunk(1, 3, 124, 40), chunk(1, 3, 127, 40), chunk(1, 3, 1, 41))
    yield case("tiles", "tiles have the descriptors", "tiles", TILES, tile(63, 20), tile(0, 21), tile(5, 5))
    yield case(
        "delta",
        "the index is extended by a delta: one tile new, one changed, one gone",
        "delta",
        DELTA,
        tile(63, 20),
        tile(2, 20),
        tile(0, 21),
        number=2,
    )
    yield case(
        "chunks",
        "chunks of two levels, some across the antimeridian",
        "chunks",
        CHUNKS,
        *chunks,
        chunk(0, 2, 63, 20),
        chunk(1, 3, 2, 40),
        tile(63, 20),
        chunk(2, 3, 124, 40),
    )
    yield case(
        "carried", "carried tiles, an area that is no box, a proof", "carried", CARRIED, tile(62, 21), *chunks
    )
    yield case(
        "carried-tiles",
        "carried tiles where tiles have the descriptors",
        "carried-tiles",
        CARRIED_TILES,
        tile(62, 21),
    )
    yield case("area", "an area that is no box, where tiles have the descriptors", "area", AREA, tile(62, 21))
    yield case("normalise", "a network whose descriptors get their length after it", "normalised", NORMALISED)
    units = [each for each, _ in NETWORKS.units()]
    yield case(
        "networks",
        "two descriptor networks of different weights; the first skips the third chunk",
        "networks",
        NETWORKS,
        *units[:4],
    )
    yield case("columns", "ten networks, in columns", "columns", COLUMNS, chunk(1, 3, 127, 40), device=BOTH)
    yield case(
        "stand-in", "an engine for a Jetson, embedded by a stand-in", "stand-in", STAND_IN, device=ORIN
    )
    yield case(
        "rollback", "the third generation shows the first build", "rollback", TILES, tile(63, 20), number=3
    )
    files = {
        path: content
        for path, content in files_of("second").items()
        if path not in {"manifests/00000001.json", "manifests/00000001.sig"}
    }
    yield case(
        "mirror",
        "a mirror: its mark, the head, all segments",
        "second",
        SECOND,
        tile(63, 20),
        number=2,
        cache=Cache(files={**files, "mirror.txt": b"made by c10 mirror\n"}),
    )


def _ways_to_open() -> Iterator[Case]:
    second = {"base": "second", "plan": SECOND, "number": 2}
    yield case("newest", "of two generations the newest is opened", **second)
    yield case("older-by-name", "an older generation, by its number", "second", TILES, generation=1)
    yield case("floor-reached", "a floor that is the generation itself", **second, floor=2)
    yield case("floor-of-the-cache", "floors by cache id", **second, floor={CACHE_ID: 1, "ab" * 16: 9})
    yield case(
        "unsigned",
        "a cache that nobody signed, where that is allowed",
        "unsigned",
        TILES,
        key=None,
        keys=None,
    )
    yield case(
        "unchecked",
        "signatures are not looked at where unsigned caches are allowed",
        "tiles",
        TILES,
        key=None,
        keys=None,
    )
    none = {"libraries": {}, "gpu": None, "openvino_target": None}
    yield case(
        "library-absent",
        "a library that is not installed is found out when it is needed",
        "tiles",
        TILES,
        device=none,
    )
    yield case(
        "gpu-beside-cpu",
        "engines for the processor run where there is a GPU too",
        "tiles",
        TILES,
        device={**CPU, "gpu": ORIN["gpu"]},
    )
    for target in ("portable", "sm86+sm89"):
        plan = Plan(tiles=GROUND, networks=(Network(name="place", backend="tensorrt-rtx", target=target),))
        device = {
            "libraries": {"tensorrt-rtx": "1.2.3"},
            "gpu": {"capability": "sm89", "name": "L4"},
            "openvino_target": None,
        }
        files = write(_play(plan))
        yield case(
            f"rtx-{target.replace('+', '-')}",
            f"TensorRT for RTX, target {target}",
            "",
            plan,
            files=files,
            device=device,
        )
    plan = Plan(tiles=GROUND, networks=(Network(name="place", backend="openvino", target="avx512"),))
    device = {"libraries": {"openvino": "1.2.3"}, "gpu": None, "openvino_target": "avx512"}
    yield case("openvino", "OpenVINO, by instruction set", "", plan, files=write(_play(plan)), device=device)


def _signatures() -> Iterator[Case]:
    alice, bob = ALICE.public.hex(), BOB.public.hex()
    yield case(
        "second-signature",
        "the second signature is by the trusted key",
        "two-signatures",
        TILES,
        keys=bob,
        key=BOB.key_id,
    )
    yield case(
        "first-signature-counts",
        "both signatures are by trusted keys",
        "two-signatures",
        TILES,
        keys=f"{bob}\n{alice}",
    )
    files = files_of("two-signatures")
    cache = Cache(files={**files, "manifests/00000001.sig": b"damaged"})
    yield case(
        "damaged-first-signature",
        "a damaged signature does not affect the other",
        "",
        TILES,
        files=files,
        cache=cache,
        keys=bob,
        key=BOB.key_id,
    )
    mallory = signed(files_of("tiles"), 1, files_of("tiles")["manifests/00000001.json"], MALLORY)
    mallory["manifests/00000001.sig16"] = files_of("tiles")["manifests/00000001.sig"]
    yield case(
        "sixteenth-signature", "the sixteenth place is the last that is read", "", TILES, files=mallory
    )
    yield case(
        "not-after-reached",
        "a key that may sign up to this generation",
        "tiles",
        TILES,
        keys=f"{alice}  not_after=1 # retired\n",
    )
    yield case(
        "key-file",
        "comments, empty lines, tabs and carriage returns in a key file",
        "tiles",
        TILES,
        keys=f"# ours\n\n\t{alice}\t# one\r\n{bob} not_after=9\n",
    )
    head = {**files_of("second"), "manifests/00000003.sig": files_of("second")["manifests/00000002.sig"]}
    yield case(
        "signature-alone",
        "a signature without its manifest is no generation",
        "",
        SECOND,
        files=head,
        number=2,
    )


def _names() -> Iterator[Case]:
    yield case("label", "manifests whose names have a label", "label", SECOND, number=2)
    files = dict(files_of("second"))
    strays = (
        "9.json",
        "0000003.json",
        "00000003.JSON",
        "00000003.json.tmp",
        "3lab-00000003.json",
        "00000000.json",
    )
    strays += (f"{'a' * 33}-00000003.json", "٠٠٠٠٠٠٠٣.json", "00000003.jsonl", "1234567890123456789.json")
    for stray in strays:
        files[f"manifests/{stray}"] = b"no manifest\n"
    yield case(
        "strange-names",
        "names that are those of no manifest",
        "second",
        SECOND,
        number=2,
        cache=Cache(files=files),
    )
    double = {**files_of("second"), "manifests/old-00000002.json": b"another\n"}
    yield case(
        "two-names",
        "of two names of one number the first in byte order counts",
        "second",
        SECOND,
        number=2,
        cache=Cache(files=double),
    )


def _what_does_not_matter() -> Iterator[Case]:
    tiles = files_of("tiles")
    for path in (
        ("body", "later"),
        ("body", "index", "later"),
        ("body", "inputs", "later"),
        ("body", "tiles", "later"),
    ):
        files = changed(tiles, put(path, {"a": [1, None, "é"]}))
        yield case(
            f"open-{path[-2]}",
            "a member that nobody knows, in a map that is not closed",
            "",
            TILES,
            files=files,
        )
    filler = "x" * (65_536 - len(tiles["manifests/00000001.json"]) - len(',"z":""'))
    files = changed(tiles, put(("body", "z"), filler))
    yield case("longest-manifest", "a manifest of exactly 65,536 bytes", "", TILES, files=files)
    text = '\x00\x1f\x7f\b\t\n\f\r"\\/é\u2028\uffff\U0001f600'
    files = changed(
        tiles,
        put(
            ("body", "later"),
            {"\U00010000": 1, "\uffff": 2, "": 3, "text": text, "most": 2**64 - 1, "least": -(2**63)},
        ),
    )
    yield case("canonical", "every escape, the order of keys, the limits of integers", "", TILES, files=files)
    deep: Any = 1
    for _ in range(62):
        deep = [deep]
    yield case(
        "deep",
        "64 maps and lists inside each other",
        "",
        TILES,
        files=changed(tiles, put(("body", "later"), deep)),
    )
    strays = {**tiles, "artifacts/ab/stray": b"x", "notes.txt": b"x", "quarantine/old.0": b"x"}
    yield case("strangers", "other files in the folder", "tiles", TILES, cache=Cache(files=strays))
