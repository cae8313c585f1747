"""The provisioner: everything that can be done with a flight cache.

A build reads everything that the request names before it touches the cache. Then it takes the build lock and
either finds the cache up to date (`pipeline.build.up_to_date`) or attempts a build
(`pipeline.build.attempt`). No step is decided here. What only work needs is imported where it is used: most
builds find nothing to do and must be fast.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

from journal import BuildLockHeldError, JournalError
from pipeline.build.report import BuildReport, Planned, PlanReport, RollbackReport
from pipeline.build.up_to_date import find_up_to_date, refused_if_reused, report_up_to_date
from pipeline.config import C10ProvisionerConfig
from pipeline.engines.models.network import inspect_models
from pipeline.engines.models.network_cache import NetworkCache
from pipeline.errors import PipelineError, RequestError
from pipeline.keys import MachineKeys
from pipeline.lock import CacheLock
from pipeline.planning.heads import Heads, reusable_engines
from pipeline.planning.inputs import Inputs
from pipeline.planning.resolve_inputs import resolve_inputs
from pipeline.ports import Ports
from pipeline.request.request import BuildRequest
from store.base.clock import utc_day
from store.cache.view import open_view
from store.disk.folder_integrity import refuse_symlinked_folders, refuse_unfit_folder
from store.disk.layout import Layout
from store.errors import ErrorKind, RequestRefusedError, StoreError
from store.trust.signatures import Signer

if TYPE_CHECKING:
    from pipeline.build.engines_only import EnginesReport
    from pipeline.embed.batcher import DescriptorBatcher
    from pipeline.repair.repair import Repair
    from pipeline.repair.report import RepairReport
    from store.cache.own_records import OwnRecords
    from store.cache.writer import CacheWriter
    from store.maintenance.collect_garbage import CollectionResult
    from store.maintenance.rebuild_journal import RebuildResult
    from store.maintenance.sign import SignResult
    from store.policy.retention import KeepPolicy


@dataclass(slots=True, kw_only=True)
class CacheProvisioner:
    """Builds flight caches in one folder; `build_cache_provisioner` creates it."""

    config: C10ProvisionerConfig
    layout: Layout
    lock: CacheLock
    ports: Ports
    executor: "Callable[[], Callable[[], DescriptorBatcher]]"
    precision: str | None

    def build_cache_artifacts(
        self, request: BuildRequest, *, force: bool = False, strict: bool = False
    ) -> BuildReport:
        """Build the flight cache that `request` describes, or find that it exists already.

        Args:
            request: The request.
            force: Build even if this identity exists or was rolled back from: every part is read, and a
                damaged one is made anew.
            strict: Fail before the commit if there is anything to warn of.

        Returns:
            A report; a failed step is reported and recorded in the journal, not raised.

        Raises:
            BuildLockHeldError: Another build holds the lock.
            RequestError: The request names something that does not exist or makes no sense (recorded, if there is
                a cache), or the executor is not installed.
            RequestRefusedError: The signing key cannot be used.
            StoreError, JournalError: The cache cannot be used at all.
        """
        began, keys, batcher = monotonic(), self._keys(), self.executor()
        try:
            inputs: Inputs | PipelineError = self._resolve(request, keys)
        except RequestError as error:
            self._record_refusal(request, error, batcher)
            raise
        except PipelineError as error:
            inputs = error
        waiting_since = monotonic()
        try:
            with self.lock:
                report = self._build(request, inputs, batcher, force=force, strict=strict, keys=keys)
        except BuildLockHeldError as error:
            from pipeline.build.lock_denied import denied_event, record_denied

            waited_ms = round((monotonic() - waiting_since) * 1000)
            denied = denied_event(error, inputs, request, waited_ms=waited_ms, host=self.ports.host)
            record_denied(denied, self.layout, clock=self.ports.clock)
            raise
        warnings = tuple(dict.fromkeys((*report.warnings, *keys.warnings)))
        report = replace(report, seconds=monotonic() - began, warnings=warnings)
        return refused_if_reused(report) if strict else report

    def plan(
        self,
        request: BuildRequest,
        *,
        anywhere: bool = False,
        measure: bool = False,
        on_planned: Callable[[Planned], object] = lambda _: None,
    ) -> PlanReport:
        """Return what a build would do; writes nothing and takes no lock.

        Args:
            request: The request.
            anywhere: Plan for a new cache, of whose folder nothing is known yet: it is not looked at.
            measure: Run a network for about a second where no earlier build here tells how fast it is.
            on_planned: Called with what would be built, also if it is then refused.

        Raises:
            PipelineError: Something the request names is missing, damaged or unusable, too few tiles are there,
                or the executor is not installed.
            StoreError, JournalError: The cache cannot be read, or a build would refuse it.
        """
        from pipeline.build.dry_run import preview_build
        from pipeline.build.measure import Machine

        keys = self._keys()
        self.executor()
        if not anywhere:
            refuse_unfit_folder(self.layout)
            refuse_symlinked_folders(self.layout)
        return preview_build(
            self.layout,
            self._resolve(request, keys),
            key=keys.own,
            keys=keys.reused,
            own_records=self._own_records(keys),
            strict=self.config.coverage_strict,
            machine=Machine.here(self.ports, self.config, measures=measure),
            on_planned=on_planned,
        )

    def rollback(self, to: int | None = None, why: str = "") -> RollbackReport:
        """Append a generation that shows an earlier build.

        Args:
            to: A generation whose origin to show; by default the build before the one shown.
            why: The reason to record.

        Raises:
            BuildLockHeldError: A build holds the lock.
            RequestRefusedError: There is no such generation, or none before the one shown; or the signing key
                cannot be used.
            NoGoError: A key would sign a build that no trusted key signed; nothing was changed.
            StoreError: Artifacts of the target are missing or damaged; nothing was changed.
        """
        from pipeline.build.build_warnings import warn_if_unsigned
        from pipeline.build.rollback_target import require_artifacts
        from store.cache.projections import require_may_sign, require_vouched
        from store.disk.repair_commands import cache_option
        from store.policy import rollback

        keys = self._keys()
        if not self.layout.exists():
            open_view(self.layout)
        with self.lock, self._open(create=False, signer=keys.signer) as store:
            planned = rollback.plan(store.state, to=to, why=why, option=cache_option(self.layout))
            before = after = store.state.generations[len(store.state.generations)]
            if planned is not None:
                if keys.signer is not None:
                    require_may_sign(before.number + 1, keys.signer, keys.reused)
                    require_vouched(store.state, planned.target, keys.reused)
                require_artifacts(store, planned.target, self.ports.progress)
                after = store.roll_back(planned)
            return RollbackReport(
                generation=after.number,
                origin=after.origin,
                previous_origin=before.origin,
                changed=planned is not None,
                manifest_sha256=after.manifest_sha256,
                body_sha256=after.body_sha256,
                forward=rollback.ways_forward(store.state),
                warnings=warn_if_unsigned(before, after.number, keys.reused, signed=bool(after.signatures)),
            )

    def sign(self, generation: int | None = None) -> "SignResult":
        """Sign a committed generation, by default the newest, with the configured key.

        Raises:
            BuildLockHeldError: A build holds the lock.
            RequestRefusedError: There is no key or no such generation, the key was retired before it, or its
                manifest differs from the journal.
            StoreError, JournalError: The cache cannot be used.
        """
        from store.maintenance.sign import sign

        keys = self._keys()
        if keys.signer is None:
            raise RequestRefusedError(
                "expected a key to sign with, found none",
                kind=ErrorKind.KEY,
                hint="c10 sign --key FILE, or signing_key in c10.toml; c10 keygen -o NAME makes one",
            )
        if not self.layout.exists():
            open_view(self.layout)
        with self.lock, self._open(create=False) as store:
            return sign(store, generation, keys.signer, keys=keys.reused)

    def compile_engines_for_corpus(self, request: BuildRequest) -> "EnginesReport":
        """Compile every network of a request for its device, without the build lock.

        Returns:
            A report; failures are reported, not raised. The next build reuses the engines.

        Raises:
            PipelineError: What the request names does not exist or makes no sense, or a head cannot be fitted.
            DiskFullError: The engines would not fit; nothing was written.
            StoreError, JournalError: The cache cannot be used at all.
        """
        from pipeline.build.engines_only import EngineRun
        from pipeline.planning.disk_space import require_space_for_engines

        compiler, keys = self.ports.compiler_for(request), self._keys()
        # A head that no build fitted needs the tiles.
        resolved = self._resolve(request, keys).models if request.has_heads else None
        networks = NetworkCache(self.config.digest_cache_folder)
        models = resolved or inspect_models(request, compiler, self.precision, networks=networks)
        run = EngineRun(
            layout=self.layout,
            compiler=compiler,
            ports=self.ports,
            keys=keys.reused,
            own_records=self._own_records(keys),
        )
        to_compile = run.models_without_engine(models)
        if to_compile:
            require_space_for_engines(self.layout, to_compile, self.ports.free_bytes(self.layout.root))
        return run.compile_all(models)

    def collect(self, policy: "KeepPolicy", *, dry_run: bool = True) -> "CollectionResult":
        """Remove what no kept generation needs, or only list it.

        Raises:
            BuildLockHeldError: A build holds the lock.
            ArtifactsBusyError: An engine run did not finish storing within `lock_timeout_s`.
            RequestRefusedError: There is no cache.
            StoreError, JournalError: The cache cannot be used; the next collection finishes what was started.
        """
        from store.maintenance.collect_garbage import collect, preview

        if dry_run or not self.layout.exists():
            return preview(self.layout, policy)
        with self.lock, self._open(create=False, exclusive=True) as store:
            return collect(store, policy)

    def repair(self, *, dry_run: bool = False, trust_plugins: bool = False) -> "RepairReport":
        """Repair manifests, signatures, segments and artifacts, and set foreign files aside.

        Args:
            dry_run: Only list what would be tried.
            trust_plugins: Load libraries that recorded requests name as `engine.plugins`; without it, engines
                that need them are not compiled, since a journal may come from elsewhere.

        Returns:
            What was repaired or not, and the result of a full verification afterwards.

        Raises:
            BuildLockHeldError: A build holds the lock.
            RequestError: The executor is not installed; nothing was changed.
            RequestRefusedError: A trusted key cannot be used; nothing was changed.
            journal.JournalDamagedError, DamagedHistoryError: The journal itself is damaged; nothing was
                changed.
            StoreError, JournalError: The cache cannot be used.
        """
        return self._repair().repair(self.executor, dry_run=dry_run, trust_plugins=trust_plugins)

    def rebuild(self) -> "tuple[RebuildResult, RepairReport]":
        """Rebuild the journal from its segments and what can still be read of it, then the files beside it.

        Signatures whose records are lost are recorded again from their files, if a trusted key made them.

        Raises:
            BuildLockHeldError: A build holds the lock.
            DamagedHistoryError: Records are missing, or do not fit the manifests; nothing was changed.
            StoreError, JournalError: The cache cannot be used.
        """
        return self._repair().rebuild()

    def _repair(self) -> "Repair":
        from pipeline.repair.repair import Repair

        return Repair(
            layout=self.layout,
            lock=self.lock,
            open_store=lambda: self._open(create=False),
            ports=self.ports,
            trusted_keys=self._keys(signing=False).trusted,
        )

    def _resolve(self, request: BuildRequest, keys: MachineKeys | None = None) -> Inputs:
        ports = self.ports
        return resolve_inputs(
            request,
            source=ports.source_for(request),
            compiler=ports.compiler_for(request),
            index=ports.index,
            today=utc_day(ports.clock),
            precision=self.precision,
            stand_in=ports.stand_in,
            networks=NetworkCache(self.config.digest_cache_folder),
            heads=self._heads(keys or self._keys()) if request.has_heads else None,
        )

    def _heads(self, keys: MachineKeys) -> Heads:
        from pipeline.build.dry_run import usable_state
        from pipeline.stages.engines.fit_head import heads_of

        state = usable_state(self.layout, keys.reused, self._own_records(keys))
        return heads_of(reusable_engines(state), self.layout, self.ports.progress)

    def _own_records(self, keys: MachineKeys) -> "OwnRecords":
        from store.cache.own_records import OwnRecords

        return OwnRecords(self.config.digest_cache_folder, keys.signer)

    def _keys(self, *, signing: bool = True) -> MachineKeys:
        return MachineKeys.load(self.config, self.layout, signing=signing)

    def _record_refusal(
        self, request: BuildRequest, error: RequestError, batcher: "Callable[[], DescriptorBatcher]"
    ) -> None:
        """Record a request that cannot be built, if there is a cache and it can be written to at once."""
        if not self.layout.exists():
            return
        at_once = replace(self, lock=CacheLock(self.layout, 0.0))
        try:
            with at_once.lock:
                at_once._build(request, error, batcher, force=False, keys=self._keys(signing=False))  # noqa: SLF001
        except (StoreError, JournalError, OSError) as why:
            self.ports.progress.say(f"not recorded in the cache: {getattr(why, 'message', why)}")

    def _build(
        self,
        request: BuildRequest,
        inputs: Inputs | PipelineError,
        batcher: "Callable[[], DescriptorBatcher]",
        *,
        force: bool,
        strict: bool = False,
        keys: MachineKeys,
    ) -> BuildReport:
        """Find the cache up to date, or attempt to build it; the caller holds the build lock."""
        refuse_symlinked_folders(self.layout)
        if isinstance(inputs, Inputs) and not force:
            found = find_up_to_date(self.layout, inputs.identity, key=keys.own, keys=keys.reused)
            if found is not None:
                return report_up_to_date(found, inputs)
        from pipeline.build.attempt import BuildAttempt

        attempt = BuildAttempt(
            request=request,
            inputs=inputs,
            force=force,
            strict=strict,
            key=keys.own,
            keys=keys.reused,
            own_records=self._own_records(keys),
            layout=self.layout,
            lock=self.lock,
            open_store=lambda: self._open(create=True, signer=keys.signer),
            batcher=batcher,
            ports=self.ports,
            settings=self.config,
            precision=self.precision,
            machine_warnings=keys.warnings,
        )
        return attempt.run()

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
