"""Histories made by hand, and the artifacts that may lie beside them."""

from collections.abc import Sequence

from store.domain import events as e
from store.testing import make, ref_of
from tools.forensics.cost import rates_of
from tools.forensics.findings import findings
from tools.forensics.history import Look, Source
from tools.forensics.records import History, Moment
from tools.forensics.state_at import Folded
from tools.forensics.timeline import track

SECOND = 1_000_000_000


class Story:
    """Records in the making: each some seconds after the one before."""

    def __init__(self):
        self.moments = []
        self.wall = self.mono = 0

    def tell(self, event, *, build=1, after=0.0, jump=0.0, tag="x", problem=""):
        self.mono += round(after * SECOND)
        self.wall += round((after + jump) * SECOND)
        self.moments.append(
            Moment(
                seq=len(self.moments) + 1,
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
        return self.tell(make(e.CacheCreated, cache_id="c" * 32), build=None)

    def build(
        self, number, *, boot="b", compiling=2.0, embedding=1.0, count=10, parent=None, generation=None
    ):
        """A whole committed build."""
        self.tell(make(e.BuildStarted, host={"boot": boot}), build=number)
        self.tell(make(e.TilesSelected, count=count, wanted=count), build=number, after=0.5)
        self.tell(make(e.BuildPlanned), build=number)
        self.tell(make(e.StepStarted, kind="engine", subjects=("net",), key="k"), build=number)
        self.tell(
            make(e.EngineCompiled, model="net", key="k", artifact=ref_of(b"12345")),
            build=number,
            after=compiling,
        )
        self.tell(make(e.CheckPassed, check="engine", subject="net"), build=number, after=0.25)
        self.tell(make(e.StepStarted, kind="cells", subjects=("6/0/0",), key="s"), build=number)
        self.tell(
            make(e.CellEmbedded, zoom=6, rows=count, embedded=count, block=ref_of(b"123")),
            build=number,
            after=embedding,
        )
        self.tell(make(e.StepStarted, kind="index"), build=number)
        self.tell(make(e.IndexBuilt, rows=count), build=number, after=0.125)
        self.tell(make(e.CoverageWalked, files=3), build=number, after=0.125)
        committed = make(e.BuildCommitted, generation=generation or number, origin=number, parent=parent)
        return self.tell(committed, build=number, after=0.0625)

    def track(self, number=1):
        return track(self.moments, number)

    def findings(self, number=1, earlier: Sequence[int] = ()):
        rates = rates_of(self.track(each) for each in earlier)
        history = History(moments=self.moments)
        return findings(self.track(number), history, Folded(), rates)

    def kinds(self, number=1, **more):
        return [each["kind"] for each in self.findings(number, **more)]

    def source(self, *artifacts):
        """The records, with artifacts beside them."""
        return Source(
            kind="bundle", path="a.c10", history=History(moments=self.moments), holdings=Shelf(*artifacts)
        )

    def look(self, *artifacts, wanted=None, at=None):
        return Look(source=self.source(*artifacts), at=at).fold(wanted)


class Shelf:
    """Artifacts that can be read."""

    def __init__(self, *artifacts):
        self.artifacts = {ref_of(data): data for data in artifacts}

    def read(self, ref):
        return self.artifacts.get(ref)

    def holds(self, ref):
        return ref in self.artifacts
