"""Verify a generation of a flight cache on board, then hand out its engines, index and tiles.

The order is signature, cache and floor, device, then content. The reader opens all files when it opens the
cache, relative to the folder, never through a symbolic link, and each must be a regular file of its exact
size. What happens to the folder later cannot change what the reader uses. It hashes content while it copies
it to sealed memory, and that memory is what the libraries get. It refuses a newest generation that is a NO-GO
with all reasons, and uses an older one only if the caller names it.

The reader needs neither journal nor LMDB and never writes to the cache. It raises `NoGoError` for whatever is
wrong with a cache, `CacheUnusableError` for what this process lacks, and `store.runtime.ExecutionError` where an
engine's library is missing or fails; all of them are a `StoreError`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from store.backports import Self
from store.base.preprocessing import Pixels, Preprocessing
from store.base.values import MAX_THREADS, require_threads
from store.errors import IncompatibleDeviceError, NoGoError, TranslateShortages
from store.manifest.roles import golden_role
from store.reader.arguments import as_floor, as_generation, require_pillow
from store.reader.engine_parity import require_stand_in_parity
from store.reader.judged_cache import JudgedCache
from store.reader.loading import (
    contract_of,
    entry_of,
    load_descriptor_index,
    load_entry,
    load_locator,
    networks_of,
    parse_calibration,
    require_chunks,
)
from store.reader.memory import Memory, memory_of
from store.reader.open_generation import open_generation
from store.reader.places.answer import Answer, Candidate
from store.reader.places.descriptor_networks import DescriptorNetwork, describe
from store.reader.places.locate import Locator
from store.reader.places.question import parse_question, require_whole
from store.reader.results import LoadedCache, Tile, Verification
from store.runtime.backends.base import Vectors
from store.runtime.load import DescriptorIndex, Engine
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.trust.readiness import Readiness
from store.trust.signatures import TrustedKey

__all__ = [
    "ALLOW_UNSIGNED",
    "Answer",
    "Candidate",
    "FlightCache",
    "LoadedCache",
    "Memory",
    "NoGoError",
    "Readiness",
    "Tile",
    "TrustedKey",
    "Verification",
]


@dataclass(slots=True, repr=False)
class FlightCache(JudgedCache):
    """One verified generation of a flight cache. Use it in a `with` statement; not for two threads at once.

    It holds open files, so that it cannot be pickled: another process opens the cache itself.

    Attributes:
        manifest: The manifest of the generation.
    """

    _proofs: Path | None = None
    _locators: dict[int, Locator] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        *,
        trusted_keys: TrustedKeys,
        floor: int | Mapping[str, int] | None = None,
        generation: int | None = None,
        proofs: str | os.PathLike[str] | None = None,
        flown: bool = True,
        min_coverage: float | None = None,
        max_age_days: int | None = None,
        proof: float | None = None,
    ) -> "FlightCache":
        """Open the newest generation, or the one named, if it may be flown.

        Args:
            root: Folder of the cache.
            trusted_keys: Keys that may have signed it, `TrustedKey` or raw public ones of 32 bytes; or
                `ALLOW_UNSIGNED`.
            floor: Least generation to accept, for any cache or per known cache id: see
                `store.trust.rollback_protection`.
            generation: An older generation to use instead of the newest; never below the floor.
            proofs: A folder outside of the cache for parity records, which save later checks that an engine
                answers here as its stand-in did on the ground (`store.reader.engine_parity`). Only its owner
                may write to it; it is created if it does not exist.
            flown: False for a look from the ground: engines for other devices or library versions are then no
                reason to refuse the cache, and are not handed out; nor is a missing Pillow.
            min_coverage: Least part of the area in which a place must be found, 0 to 1.
            max_age_days: Greatest age of a tile today, days; a tile without a capture date is then refused.
            proof: Least part of the photographs of its proof that the cache found before it was committed, 0 to 1;
                True or 0 demands that there is a proof.

        Raises:
            NoGoError: It may not be flown, or falls short of what was demanded; with every reason.
            IncompatibleDeviceError: The cache is sound but for another device or library version.
            CacheUnusableError: This process lacks memory or open files, or a Python package that scales frames
                (Pillow) or checks signatures (cryptography); that says nothing about the cache.
            TypeError, ValueError: An argument is of another kind, or out of its range.
        """
        folder = None if proofs is None else Path(os.fsdecode(proofs))
        with TranslateShortages(f"cache {os.fspath(root)!r}"):
            found = open_generation(
                root,
                trusted_keys=trusted_keys,
                floor=as_floor(floor),
                generation=as_generation(generation),
                flown=flown,
            )
        cache = cls(
            found.manifest,
            found.files,
            _proofs=folder,
            elsewhere=found.elsewhere,
            _signed_by=found.signed_by,
        )
        cache._require_ready(min_coverage=min_coverage, max_age_days=max_age_days, proof=proof)
        return cache

    def close(self) -> None:
        """Close all files. Engines and indexes that were handed out keep working."""
        self._files.close()

    def __repr__(self) -> str:
        """Return which generation of which cache it is, and whether it is open."""
        envelope = self.manifest.envelope
        state = "closed" if self._files.closed else "open"
        return f"FlightCache(generation {envelope.generation} of cache {envelope.cache_id[:12]}, {state})"

    def __enter__(self) -> Self:
        """Use the cache in a `with` statement."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all files."""
        self.close()

    @property
    def preprocessing(self) -> Preprocessing:
        """The image contract of the descriptor network; of several, that of the first by name.

        Raises:
            NoGoError: It names a rule that this version lacks.
        """
        return contract_of(self.manifest.descriptor_engine)

    def engine_bytes(self, name: str) -> bytes:
        """Return the verified bytes of an engine.

        Raises:
            KeyError: No model has this name.
            NoGoError: The file is damaged.
        """
        return bytes(self._files.view(f"engine {name}", entry_of(self.manifest, name).artifact))

    def engine(self, name: str, *, threads: int | None = None) -> Engine:
        """Return an engine, loaded and ready to run. `threads` is as for `descriptor_index`.

        If a stand-in of a descriptor engine embedded the tiles, the engine's answers are first compared
        with those of the stand-in, once per device: see `store.reader.engine_parity`.

        Raises:
            KeyError, TypeError, ValueError: No model has this name; or the number of threads is out of its range.
            NoGoError: The file is damaged; or the engine answers otherwise than its stand-in.
            IncompatibleDeviceError: It is for another device, in a cache opened with `flown=False`.
            store.runtime.ExecutionError: Its library is missing, of another version, or refuses it.
        """
        entry, threads = entry_of(self.manifest, name), self._threads(threads)
        if self._loaded is not None and self._loaded.threads == threads:
            return self._loaded.engines[name]
        if name in self.elsewhere:
            raise IncompatibleDeviceError([self.elsewhere[name]], hint="load it on its own device")
        engine = load_entry(entry, self._files, threads=threads)
        stand_in = self.manifest.stand_ins.get(name)
        if stand_in is not None:
            role = golden_role(name, alone=len(self.manifest.weights) == 1)
            require_stand_in_parity(
                stand_in,
                entry,
                engine.run,
                preprocessing=contract_of(entry),
                golden=lambda: self._files.view(role, stand_in.golden),
                folder=self._proofs,
            )
        return engine

    def descriptor_index(self, *, threads: int | None = None) -> DescriptorIndex:
        """Return the index, loaded from sealed memory and checked against the manifest.

        Args:
            threads: Threads of a search, 1 to 1,024; more than one pays for many queries at once, not for one. By
                default those that `load_all` was called with, and 1 before it.

        Raises:
            NoGoError: The file is damaged.
            store.runtime.ExecutionError: faiss is missing, or the index is not what the manifest says.
            TypeError, ValueError: The number of threads is no whole number, or out of its range.
        """
        threads = self._threads(threads)
        if self._loaded is not None and self._loaded.threads == threads:
            return self._loaded.index
        return load_descriptor_index(self.manifest, self._files, threads=threads)

    def load_all(self, *, threads: int = 1) -> LoadedCache:
        """Load all engines, the index, tile table, chunks and calibration, and run each engine once.

        Call it before take-off: afterwards nothing of the cache is read from the medium any more but the tiles
        that it may carry, and no library is loaded. Whatever takes `threads` then uses what was loaded, unless
        another number is asked for.

        Args:
            threads: Threads within one run of an engine, and of a search, 1 to 1,024.

        Raises:
            NoGoError, CacheUnusableError, TypeError, ValueError, store.runtime.ExecutionError: As for `engine`.
        """
        require_pillow(load=True)
        threads = require_threads(threads)
        with TranslateShortages("loading the cache"):
            self._tile_table()
            if self.manifest.carried is not None:
                self._load_carried()
            loaded = LoadedCache(
                engines={
                    entry.model: self.engine(entry.model, threads=threads) for entry in self.manifest.engines
                },
                index=self.descriptor_index(threads=threads),
                calibration=self.calibration(),
                threads=threads,
            )
            loaded.run_once({each.model: contract_of(each) for each in self.manifest.descriptor_engines})
            if self.manifest.levels:
                locator = load_locator(
                    self.manifest,
                    self._files,
                    self._tile_table(),
                    index=loaded.index,
                    networks=self._networks(loaded.engines, threads),
                    calibration=self.calibration(),  # its own: the other one is the caller's to change
                )
                locator.run_once()
                self._locators = {threads: locator}
        self._loaded = loaded
        return loaded

    def describe(
        self, picture: Pixels, *, engines: Mapping[str, Engine] | None = None, threads: int | None = None
    ) -> Vectors:
        """Return the vector that the index is searched for, of all descriptor networks, float32 [1, d], length 1.

        Args:
            picture: uint8 [height, width, 3], RGB.
            engines: Engines to use in place of the cache's, by model, such as stand-ins.
            threads: Threads within one run of a network, as for `engine`.

        Raises:
            ValueError: The picture has another shape or type.
            StoreError: As for `engine`; Pillow is missing; or a network has no descriptor of this picture.
        """
        require_pillow(load=True)
        return describe(picture, self._networks(engines or {}, threads))

    def locate(
        self,
        frame: Pixels,
        *,
        altitude_m: float | None = None,
        metres_per_pixel: float | None = None,
        heading_deg: float | None = None,
        near: tuple[float, float, float] | None = None,
        headings: int = 1,
        pitch_deg: float | None = None,
        roll_deg: float | None = None,
        k: int = 10,
        threads: int | None = None,
    ) -> Answer:
        """Find the place that a camera frame shows, in a cache whose descriptors are those of chunks of ground.

        A camera that looks straight down is assumed. A square of ground about the principal point, of the side
        of the level that fits best, is cut from the frame and turned north; what the frame does not show of it
        is mirrored. All chunks of the level, or those nearby, are compared with it: scores and margin are exact
        in every kind of index. See `docs/locate.md`.

        Args:
            frame: uint8 [height, width, 3], RGB; of any size of the calibration's aspect.
            altitude_m: Altitude above ground in metres; needs a camera in the calibration. Give this, or:
            metres_per_pixel: How much ground a pixel of the frame shows, as given.
            heading_deg: Heading of the frame's upper edge, degrees clockwise from true north; None if unknown.
            near: Longitude and latitude in degrees and radius in metres: only chunks whose middle is within.
            headings: How many headings to try, at equal distances, if it is unknown; the best one answers.
            pitch_deg: Pitch of the camera from straight down; more than 10 degrees is a warning.
            roll_deg: Roll, likewise.
            k: Most candidates to return.
            threads: Threads within one run of a network, as for `engine`. The search takes one.

        Raises:
            ArgumentError: An argument is no usable value, or the frame is of another aspect; a `ValueError` too.
            RequestRefusedError: The descriptors of this cache are those of tiles; or it was closed.
            StoreError: As for `engine` and `descriptor_index`, which a first call without `load_all` loads.
        """
        if threads is not None:
            threads = require_whole("threads", threads, most=MAX_THREADS)
        locator = self._loaded_locator(self._threads(threads))
        question = parse_question(
            altitude_m=altitude_m,
            metres_per_pixel=metres_per_pixel,
            heading_deg=heading_deg,
            near=near,
            headings=headings,
            pitch_deg=pitch_deg,
            roll_deg=roll_deg,
            k=k,
        )
        return locator.locate(frame, question)

    def locator(
        self,
        *,
        engines: Mapping[str, Engine] | None = None,
        calibration: Mapping[str, Any] | None = None,
        threads: int | None = None,
    ) -> Locator:
        """Return what `locate` uses, loaded; with other engines, by model, such as stand-ins, or another camera.

        Raises:
            StoreError: As for `locate`.
        """
        self._files.require_open()
        require_chunks(self.manifest)
        require_pillow(load=True)
        with TranslateShortages("loading the chunks of the cache"):
            return load_locator(
                self.manifest,
                self._files,
                self._tile_table(),
                index=self.descriptor_index(threads=threads),
                networks=self._networks(engines or {}, threads),
                calibration=self.calibration() if calibration is None else calibration,
            )

    def _loaded_locator(self, threads: int) -> Locator:
        """Return what was loaded; only the networks depend on the number of threads."""
        self._files.require_open()
        if threads not in self._locators:
            other = next(iter(self._locators.values()), None)
            self._locators[threads] = (
                replace(other, networks=self._networks({}, threads))
                if other
                else self.locator(threads=threads)
            )
        return self._locators[threads]

    def _threads(self, threads: int | None) -> int:
        """Return a number of threads: by default those of `load_all`, and 1 before it."""
        loaded = 1 if self._loaded is None else self._loaded.threads
        return loaded if threads is None else threads

    def _networks(self, engines: Mapping[str, Engine], threads: int | None) -> tuple[DescriptorNetwork, ...]:
        """Return the descriptor networks; `engines` replaces some of their engines, by model."""
        return networks_of(
            self.manifest, lambda name: engines.get(name) or self.engine(name, threads=threads)
        )

    def memory(self) -> Memory:
        """Return how much memory this cache holds now, by part; after `load_all` it does not grow any more.

        Raises:
            RequestRefusedError: The cache was closed.
        """
        levels = (table for locator in self._locators.values() for table in locator.tables)
        return memory_of(self.manifest, self._files, levels, self._packs.read_bytes() if self._packs else ())

    def calibration(self) -> dict[str, Any]:
        """Return the camera calibration, as given in the request.

        Raises:
            NoGoError: The file is damaged, or no JSON object.
        """
        return parse_calibration(self._files.view("calibration", self.manifest.calibration))
