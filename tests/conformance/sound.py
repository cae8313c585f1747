"""What the caches of the conformance cases are made of: tiny made-up networks and tiles.

Engines, indexes and images are a few bytes that nobody runs or decodes. All the rest is as in any cache.
"""

import datetime as dt
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from store.base import identity
from store.base.preprocessing import Preprocessing
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.runtime.golden_vectors import encode_answers
from store.testing import FakeClock
from store.trust.signatures import Signer

ALICE, BOB, MALLORY = (
    Signer.of(Ed25519PrivateKey.from_private_bytes(name * 32)) for name in (b"a", b"b", b"m")
)
CACHE_ID = "c0f0" * 8
ZOOM, EDGE = 6, 8
DAY = dt.date(2026, 9, 1)

Files = dict[str, bytes]
"""Path below the folder of a cache to content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One network; `skips` is a unit, by its place among all, of which it has no descriptor."""

    name: str
    role: str = "descriptor"
    weight: int = identity.ONE_PPM
    dimensions: int = 4
    normalise: bool = False
    stand_in: bool = False
    skips: int | None = None
    backend: str = "onnxruntime"
    version: str = "1.2.3"
    target: str = "cpu"

    def contract(self) -> Mapping[str, object]:
        return Preprocessing(size=(EDGE, EDGE), normalise=self.normalise).to_document()

    def components(self, *, stand_in: bool = False) -> Mapping[str, object]:
        library = ("onnxruntime", "1.2.3", "cpu") if stand_in else (self.backend, self.version, self.target)
        backend, version, target = library
        return identity.engine_components(
            onnx_sha256=sha(f"network {self.name}"),
            backend=backend,
            version=version,
            target=target,
            precision="fp32",
            batch=1,
            options={"purpose": "stand-in" if stand_in else "flight"},
        )

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "role": self.role,
            "preprocessing": self.contract(),
            "engine": self.components(),
            **({"stand_in": self.components(stand_in=True)} if self.stand_in else {}),
            **({} if self.weight == identity.ONE_PPM else {"weight_ppm": self.weight}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One build: tiles by column and row at zoom 6, and what describes them; with `extend`, the tiles of the head."""

    tiles: Mapping[tuple[int, int], str]
    networks: tuple[Network, ...] = (Network(name="place"),)
    levels: tuple[tuple[int, int], ...] = ()
    carry: bool = False
    extend: bool = False
    proof: bool = False
    area: bool = False
    flight: str = "f1"
    before: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @property
    def descriptors(self) -> tuple[Network, ...]:
        return tuple(
            sorted((each for each in self.networks if each.role == "descriptor"), key=lambda each: each.name)
        )

    def tile_rows(self) -> list[tuple[int, str]]:
        return sorted((identity.descriptor_id(ZOOM, x, y), sha(text)) for (x, y), text in self.tiles.items())

    def units(self) -> list[tuple[int, str]]:
        """What gets descriptors: id and digest, by rising id."""
        if not self.levels:
            return self.tile_rows()
        return sorted(unit for level in self.levels for unit in self.chunks(*level))

    def chunks(self, k: int, m: int) -> list[tuple[int, str]]:
        """The chunks of a level of which all tiles are there, by the words of `docs/format.md`."""
        around, found = 1 << ZOOM + k, []
        for x, y in product(range(around), range(around - m + 1)):
            columns = [column % (1 << ZOOM) for column in range(x >> k, (x + m - 1 >> k) + 1)]
            rows = range(y >> k, (y + m - 1 >> k) + 1)
            under = [(column, row) for row in rows for column in columns]
            if all(place in self.tiles for place in under):
                inside = (1 << k) - 1
                head = b"c10/chunk/1\0" + bytes((k, m, x & inside, y & inside)) + EDGE.to_bytes(4, "big")
                digests = b"".join(bytes.fromhex(sha(self.tiles[place])) for place in under)
                number = ZOOM + k << 58 | (k << 5 | m) << 50 | x << 25 | y
                found.append((number, sha(head + digests)))
        return found


def sha(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def vectors_of(network: Network, ids: list[int]) -> np.ndarray[Any, Any]:
    """Made-up descriptors, float32 [n, d]."""
    rows = [hashlib.sha256(f"{network.name} {each}".encode()).digest()[: network.dimensions] for each in ids]
    found = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, network.dimensions)
    return found.astype(np.float32) - np.float32(127.5)


def engines_of(network: Network) -> list[bytes]:
    """The bytes of a network's engine, and of the golden answers of its stand-in."""
    engine = f"engine of {network.name} for {network.target}".encode()
    return [engine, *([encode_answers(vectors_of(network, [*range(8)]))] if network.stand_in else [])]


def write(live: Callable[[CacheWriter], None], *, signer: Signer | None = ALICE, name: str = "") -> Files:
    """Let something happen to a new cache, and return its files as they fly: no journal, lock or scratch."""
    with tempfile.TemporaryDirectory() as scratch:
        layout = Layout(Path(scratch, "cache"), **({"manifest_filename": name} if name else {}))
        with (
            mock.patch("secrets.token_hex", return_value=CACHE_ID),
            CacheWriter.open(layout, clock=FakeClock(), create=True, reserve_bytes=0, signer=signer) as store,
        ):
            live(store)
        kinds = ("artifacts", "manifests", "segments")
        paths = [path for kind in kinds for path in (layout.root / kind).rglob("*") if path.is_file()]
        return {
            str(path.relative_to(layout.root)): path.read_bytes()
            for path in sorted(paths)
            if path.name != ".lock"
        }
