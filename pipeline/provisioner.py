"""The provisioner: what can be asked of a flight cache, and with which ports each is done.

Everything a request names is read first, without touching the cache; then the build lock is taken, and what happens
under it is a warm run (`pipeline.build.up_to_date`), an attempt (`pipeline.build.attempt`), a rollback, a collection or a mending. Nothing
here decides about steps. Beyond a warm run, what does the work is imported when it is asked for, as commands are: a build
that finds nothing to do, which is most of them, waits for none of it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

from journal import BuildLockHeldError
from pipeline.build.report import BuildReport, PlanReport, RollbackReport
from pipeline.build.up_to_date import look_warm, reused
from pipeline.config import C10ProvisionerConfig
from pipeline.engines.models.network import look_at_models
from pipeline.engines.models.network_cache import NetworkMemory
from pipeline.errors import PipelineError, RequestError
from pipeline.lock import Lock
from pipeline.planning.inputs import Inputs
from pipeline.planning.resolve_inputs import gather
from pipeline.ports import Ports
from pipeline.request.request import BuildRequest
from store.cache.view import open_view
from store.disk.layout import Layout
from store.domain.manifest_projection import project
from store.errors import ErrorKind, RequestRefusedError
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.trust.key_files import load_signer, read_trusted
from store.trust.signatures import Signer

if TYPE_CHECKING:
    from pipeline.build.engines_only import EnginesReport
    from pipeline.embed.batcher import DescriptorBatcher
    from pipeline.repair.repair import Repair
    from pipeline.repair.report import RepairReport
    from store.cache.writer import CacheWriter
    from store.domain.state import Generation, State
    from store.maintenance.collect_garbage import CollectionResult
    from store.maintenance.rebuild_journal import RebuildResult
    from store.maintenance.sign import SignResult
    from store.policy.retention import KeepPolicy


@dataclass(slots=True, kw_only=True)
class CacheProvisioner:
    """Builds flight caches in one folder. Made by `build_cache_provisioner`."""

    config: C10ProvisionerConfig
    layout: Layout
    lock: Lock
    ports: Ports
    executor: "Callable[[], Callable[[], DescriptorBatcher]]"
    precision: str | None

    def build_cache_artifacts(self, request: BuildRequest, *, again: bool = False) -> BuildReport:
        """Build the flight cache that `request` describes, or find that it is there already.

        Args:
            request: What is wanted.
            again: Build even if this identity was rolled back from, or is there: every part is read then, and what is
                damaged is made anew.

        Returns:
            A report; a step that fails is reported, not raised, and recorded in the journal.

        Raises:
            BuildLockHeldError: Another build holds the lock.
            RequestError: The request names something that does not exist or makes no sense, or the executor is not
                installed.
            RequestRefusedError: The signing key cannot be used.
            StoreError, JournalError: The cache cannot be used at all.
        """
        began, signer, batcher = monotonic(), self._signer(), self.executor()
        try:
            inputs: Inputs | PipelineError = self._gather(request)
        except RequestError:
            raise
        except PipelineError as error:
            inputs = error
        asked = monotonic()
        try:
            with self.lock:
                report = self._build(request, inputs, batcher, again=again, signer=signer)
        except BuildLockHeldError as error:
            from pipeline.build.lock_denied import denial, note

            waited_ms = round((monotonic() - asked) * 1000)
            denied = denial(error, inputs, request, waited_ms=waited_ms, host=self.ports.host)
            note(denied, self.layout, clock=self.ports.clock)
            raise
        return replace(report, seconds=monotonic() - began)

    def plan(self, request: BuildRequest) -> PlanReport:
        """Tell what a build would do; writes nothing and takes no lock.

        Raises:
            PipelineError: Something the request names is missing, damaged or unusable, or the executor is not installed.
            StoreError, JournalError: The cache cannot be read.
        """
        from pipeline.build.dry_run import preview

        signer = self._signer()
        self.executor()
        return preview(self.layout, self._gather(request), key_id=signer.key_id if signer else None)

    def rollback(self, to: int | None = None, why: str = "") -> RollbackReport:
        """Append a generation that shows an earlier build.

        Args:
            to: A generation whose origin to show; by default the build before the one shown.
            why: For the record.

        Raises:
            BuildLockHeldError: A build holds the lock.
            RequestRefusedError: There is no such generation, or nothing before the one shown; or the signing key
                cannot be used.
            StoreError: The target's artifacts are not all there; nothing was changed.
        """
        from pipeline.build.attempt import no_longer_signed
        from store.policy import rollback

        signer = self._signer()
        if not self.layout.exists():
            open_view(self.layout)
        with self.lock, self._open(create=False, signer=signer) as store:
            before = _require_head(store.state)
            planned = rollback.plan(store.state, to=to, why=why)
            after = before
            if planned is not None:
                self._require_whole(store, planned.target)
                after = store.roll_back(planned)
            return RollbackReport(
                generation=after.number,
                origin=after.origin,
                previous_origin=before.origin,
                changed=planned is not None,
                manifest_sha256=after.manifest_sha256,
                body_sha256=after.body_sha256,
                warnings=no_longer_signed(before, after),
            )

    def sign(self, generation: int | None = None) -> "SignResult":
        """Sign a generation that is committed already, the newest if none is named, with the configured key.

        Raises:
            BuildLockHeldError: A build holds the lock.
            RequestRefusedError: There is no key, no such generation, or its manifest is not what the journal projects.
            StoreError, JournalError: The cache cannot be used.
        """
        from store.maintenance.sign import sign

        signer = self._signer()
        if signer is None:
            raise RequestRefusedError(
                "expected a key to sign with, found none",
                kind=ErrorKind.KEY,
                hint="c10 sign --key FILE, or signing_key in c10.toml; c10 keygen -o NAME makes one",
            )
        if not self.layout.exists():
            open_view(self.layout)
        with self.lock, self._open(create=False) as store:
            return sign(store, generation, signer)

    def compile_engines_for_corpus(self, request: BuildRequest) -> "EnginesReport":
        """Compile every network of a request for its device, without the build lock.

        Returns:
            A report; what fails is reported, not raised. The next build reuses what was compiled.

        Raises:
            RequestError: The request names something that does not exist or makes no sense.
            DiskFullError: The engines would not fit; nothing was begun.
            StoreError, JournalError: The cache cannot be used at all.
        """
        from pipeline.build.engines_only import EngineRun
        from pipeline.planning.disk_space import require_space_for_engines

        compiler = self.ports.compiler_for(request)
        models = look_at_models(request, compiler, self.precision, networks=self._networks())
        run = EngineRun(layout=self.layout, compiler=compiler, ports=self.ports)
        absent = run.absent(models)
        if absent:
            require_space_for_engines(self.layout, absent, self.ports.free_bytes(self.layout.root))
        return run.compile_all(models)

    def collect(self, policy: "KeepPolicy", *, dry_run: bool = True) -> "CollectionResult":
        """Remove what no kept generation needs, or only tell what that is.

        Raises:
            BuildLockHeldError: A build holds the lock.
            ArtifactsBusyError: An engine run did not finish storing within `lock_timeout_s`.
            RequestRefusedError: There is no cache.
            StoreError, JournalError: The cache cannot be used; what was begun is finished by the next collection.
        """
        from store.maintenance.collect_garbage import collect, preview

        if dry_run or not self.layout.exists():
            return preview(self.layout, policy)
        with self.lock, self._open(create=False, exclusive=True) as store:
            return collect(store, policy)

    def repair(self, *, dry_run: bool = False, trust_plugins: bool = False) -> "RepairReport":
        """Heal whatever can be healed: manifests, signatures, segments, artifacts, strangers.

        Args:
            dry_run: Say what would be tried; do nothing.
            trust_plugins: Load libraries that recorded requests name as `engine.plugins`; without it, engines that
                need them are not made again, since a journal may come from elsewhere.

        Returns:
            What was mended or not, and what a full verification says afterwards.

        Raises:
            BuildLockHeldError: A build holds the lock.
            RequestError: The executor is not installed; nothing was changed.
            RequestRefusedError: A trusted key cannot be used; nothing was changed.
            journal.JournalDamagedError, DamagedHistoryError: The journal itself is damaged; nothing was changed.
            StoreError, JournalError: The cache cannot be used.
        """
        return self._mending().repair(self.executor, dry_run=dry_run, trust_plugins=trust_plugins)

    def rebuild(self) -> "tuple[RebuildResult, RepairReport]":
        """Make the journal again from its segments and what still reads of it, then what lies beside it.

        Signatures whose records are lost are recorded again from their files, where a trusted key vouches for them.

        Raises:
            BuildLockHeldError: A build holds the lock.
            DamagedHistoryError: Records are missing, or do not fit the manifests; nothing was changed.
            StoreError, JournalError: The cache cannot be used.
        """
        return self._mending().rebuild()

    def _mending(self) -> "Repair":
        from pipeline.repair.repair import Repair

        return Repair(
            layout=self.layout,
            lock=self.lock,
            open_store=lambda: self._open(create=False),
            ports=self.ports,
            trusted_keys=self._trusted_keys(),
        )

    def _gather(self, request: BuildRequest) -> Inputs:
        ports = self.ports
        return gather(
            request,
            source=ports.source_for(request),
            compiler=ports.compiler_for(request),
            index=ports.index,
            today=datetime.fromtimestamp(ports.clock.wall_ns() / 1e9, tz=UTC).date(),
            precision=self.precision,
            stand_in=ports.stand_in,
            networks=self._networks(),
        )

    def _signer(self) -> Signer | None:
        key = self.config.signing_key
        return None if key is None else load_signer(key, cache=self.layout.root)

    def _trusted_keys(self) -> TrustedKeys:
        keys = self.config.trusted_keys
        return read_trusted(keys, cache=self.layout.root) if keys else ALLOW_UNSIGNED

    def _networks(self) -> NetworkMemory:
        return NetworkMemory(self.config.memory_folder)

    def _build(
        self,
        request: BuildRequest,
        inputs: Inputs | PipelineError,
        batcher: "Callable[[], DescriptorBatcher]",
        *,
        again: bool,
        signer: Signer | None,
    ) -> BuildReport:
        """Find the cache as it is wanted, or attempt to build it; the caller holds the build lock."""
        key_id = signer.key_id if signer else None
        if isinstance(inputs, Inputs) and not again:
            warm = look_warm(self.layout, inputs.identity, key_id=key_id)
            if warm is not None:
                return reused(warm, inputs)
        from pipeline.build.attempt import Attempt

        attempt = Attempt(
            request=request,
            inputs=inputs,
            again=again,
            key_id=key_id,
            layout=self.layout,
            lock=self.lock,
            open_store=lambda: self._open(create=True, signer=signer),
            batcher=batcher,
            ports=self.ports,
            settings=self.config,
            precision=self.precision,
        )
        return attempt.make()

    def _open(
        self, *, create: bool, signer: Signer | None = None, exclusive: bool = False
    ) -> "AbstractContextManager[CacheWriter]":
        from store.cache.writer import CacheWriter

        return CacheWriter.open(
            self.layout,
            clock=self.ports.clock,
            create=create,
            reserve_bytes=self.config.reserve_bytes,
            host=self.ports.host,
            signer=signer,
            exclusive_within_s=self.config.lock_timeout_s if exclusive else None,
        )

    def _require_whole(self, store: "CacheWriter", target: int) -> None:
        from store.manifest import manifest
        from store.verify.coverage import missing_artifacts

        shown = next(found for found in store.state.generations.values() if found.origin == target)
        problems = missing_artifacts(manifest.parse(project(store.state, shown)), store.artifacts)
        if problems:
            raise RequestRefusedError(
                f"expected all artifacts of build {target}, found {problems[0]}"
                + (f" and {len(problems) - 1} more problems" if len(problems) > 1 else ""),
                kind=ErrorKind.TARGET_DAMAGED,
                hint="roll back to another generation: c10 log, c10 rollback --to GENERATION",
            )


def _require_head(state: "State") -> "Generation":
    if state.head is None:
        raise RequestRefusedError(
            "expected a committed generation to roll back from, found none",
            kind=ErrorKind.NO_GENERATION,
            hint="c10 log",
        )
    return state.head
