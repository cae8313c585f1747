"""Histories made by hand, and the artifacts that may lie beside them."""

from collections.abc import Sequence

from tests.played_builds import make, ref_of

from store.domain import events as e
from tools.forensics.cost import rates_of
from tools.forensics.findings import findings_of
from tools.forensics.history import BuildHistory, Source
from tools.forensics.records import DecodedRecord, RecordHistory
from tools.forensics.state_at import FoldedState
from tools.forensics.timeline import build_timeline

SECOND = 1_000_000_000


class Story:
    """Records in the making: each some seconds after the one before."""

    def __init__(self):
        self.records = []
        self.wall = self.mono = 0

    def add(self, event, *, build=1, after=0.0, jump=0.0, tag="x", problem=""):
        self.mono += round(after * SECOND)
        self.wall += round((after + jump) * SECOND)
        self.records.append(
            DecodedRecord(
                seq=len(self.records) + 1,
                chain="",
                build=build,
                wall_ns=self.wall,
                mono_ns=self.mono,
                tag=tag,
                version=1,
                event=event,
                problem=problem,
            )
        )
        return self

    def genesis(self):
        """The record that a cache begins with."""
        return self.add(make(e.CacheCreated, cache_id="c" * 32), build=None)

    def build(
        self, number, *, boot="b", compiling=2.0, embedding=1.0, count=10, parent=None, generation=None
    ):
        """A whole committed build."""
        self.add(make(e.BuildStarted, host={"boot": boot}), build=number)
        self.add(make(e.TilesSelected, count=count, wanted=count), build=number, after=0.5)
        self.add(make(e.BuildPlanned), build=number)
        self.add(make(e.StepStarted, kind="engine", subjects=("net",), key="k"), build=number)
        self.add(
            make(e.EngineCompiled, model="net", key="k", artifact=ref_of(b"12345")),
            build=number,
            after=compiling,
        )
        self.add(make(e.CheckPassed, check="engine", subject="net"), build=number, after=0.25)
        self.add(make(e.StepStarted, kind="cells", subjects=("6/0/0",), key="s"), build=number)
        self.add(
            make(e.CellEmbedded, zoom=6, rows=count, embedded=count, block=ref_of(b"123")),
            build=number,
            after=embedding,
        )
        self.add(make(e.StepStarted, kind="index"), build=number)
        self.add(make(e.IndexBuilt, rows=count), build=number, after=0.125)
        self.add(make(e.CoverageWalked, files=3), build=number, after=0.125)
        committed = make(e.BuildCommitted, generation=generation or number, origin=number, parent=parent)
        return self.add(committed, build=number, after=0.0625)

    def timeline(self, number=1):
        return build_timeline(self.records, number)

    def findings(self, number=1, earlier: Sequence[int] = ()):
        rates = rates_of(self.timeline(each) for each in earlier)
        history = RecordHistory(records=self.records)
        return findings_of(self.timeline(number), history, FoldedState(), rates)

    def kinds(self, number=1, **more):
        return [each["kind"] for each in self.findings(number, **more)]

    def source(self, *artifacts):
        """The records, with artifacts beside them."""
        return Source(
            kind="bundle",
            path="a.c10",
            history=RecordHistory(records=self.records),
            artifacts=Shelf(*artifacts),
        )

    def builds(self, *artifacts, wanted=None, at=None):
        return BuildHistory(source=self.source(*artifacts), at=at).fold(wanted)


class Shelf:
    """Artifacts that can be read."""

    def __init__(self, *artifacts):
        self.artifacts = {ref_of(data): data for data in artifacts}

    def read(self, ref):
        return self.artifacts.get(ref)

    def holds(self, ref):
        return ref in self.artifacts
