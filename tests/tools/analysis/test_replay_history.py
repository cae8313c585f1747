"""Folding a long history gives, at each committed build, exactly the body that was committed."""

import pytest

from store.base import canonical_json, identity
from store.base.values import Position
from store.domain import events as e
from store.domain.fold import fold, fold_into
from store.domain.manifest_projection import body_of, render
from store.domain.state import FLIGHT, State
from store.manifest import manifest
from tests.played_builds import PREPROCESSING, make, ref_of
from tools.forensics.records import DecodedRecord
from tools.forensics.state_at import FoldedState, fold_stepwise

EVENTS = 100_000
BUILDS = 50


def fold_all(records):
    folded = FoldedState()
    for _ in fold_stepwise(records, folded):
        pass
    return folded


class Writer:
    """What a builder does, without disk and work: fold events, project a manifest before each commit."""

    def __init__(self):
        self.state = State()
        self.records = []
        self.bodies = {}

    def append(self, event, build=None):
        seq = len(self.records) + 1
        record = DecodedRecord(
            seq=seq,
            chain=f"{seq:064x}",
            build=build,
            wall_ns=seq * 1_000_000,
            mono_ns=seq * 1_000_000,
            tag="x",
            version=1,
            event=event,
        )
        fold_into(self.state, (record.recorded_event,))
        self.records.append(record)

    def build(self, number, cells):
        inputs = identity.build_inputs(
            flight_id=f"f{number}",
            sector="stable_rear",
            bbox_e7=[0, 0, 10, 10],
            zoom=[18, 18],
            origin={},
            calibration="c" * 64,
            tiles={"digest": f"{number:064x}"},
            models=[{"name": "net", "role": "descriptor", "onnx": "a" * 64, "preprocessing": PREPROCESSING}],
            engine={"backend": "onnxruntime", "version": "1"},
            index={"kind": "flat"},
            checks={},
        )
        calibration = ref_of(b"{}")
        self.append(
            e.BuildStarted(
                identity=identity.build_identity(inputs),
                inputs=inputs,
                calibration=calibration,
                again=False,
                host={},
            ),
            number,
        )
        selected = make(
            e.TilesSelected, digest=f"{number:064x}", table=ref_of(b"table"), count=cells, wanted=cells
        )
        self.append(selected, number)
        self.append(e.BuildPlanned(steps=()), number)
        key = self.engine(number)
        for place in range(cells):
            cell = make(
                e.CellEmbedded,
                space="s" * 64,
                zoom=18,
                cell_x=place,
                cell_y=number,
                key=f"{number}/{place}",
                block=ref_of(f"{number}/{place}".encode()),
                rows=1,
                embedded=1,
            )
            self.append(cell, number)
        index = make(
            e.IndexBuilt,
            key=f"i{number}",
            components={"space": "s" * 64},
            artifact=ref_of(b"i%d" % number),
            blocks=ref_of(b"b%d" % number),
        )
        self.append(index, number)
        self.append(make(e.CoverageWalked, geography=ref_of(b"g%d" % number)), number)
        self.commit(number)
        return key

    def engine(self, number):
        """Every tenth build compiles anew; the others take what is there."""
        edition = number // 10
        components = identity.engine_components(
            onnx_sha256=f"{edition:064x}",
            backend="onnxruntime",
            version="1",
            target="cpu",
            precision="fp32",
            batch=1,
            options={},
        )
        key = identity.engine_key(components)
        if key in self.state.step_cache.engines:
            self.append(e.StepReused(kind="engine", count=1, keys={"net": key}), number)
            return key
        artifact = ref_of(b"engine %d" % number)
        compiled = make(
            e.EngineCompiled,
            model="net",
            purpose=FLIGHT,
            key=key,
            components=components,
            artifact=artifact,
            signature={"input": "i", "output": "o", "dimensions": 4},
        )
        self.append(compiled, number)
        passed = make(e.CheckPassed, check="engine", subject="net", key=key, artifact=artifact.sha256)
        self.append(passed, number)
        return key

    def commit(self, number):
        body = body_of(self.state, self.state.builds[number])
        generation = len(self.state.generations) + 1
        raw = render(
            body,
            manifest.Envelope(
                cache_id=self.state.cache_id,
                generation=generation,
                origin=number,
                before=Position(len(self.records), f"{len(self.records):064x}"),
                wall_ns=(len(self.records) + 1) * 1_000_000,
            ),
        )
        head = self.state.head
        committed = make(
            e.BuildCommitted,
            format=1,
            generation=generation,
            parent=head.origin if head else None,
            origin=number,
            manifest_sha256=canonical_json.sha256(raw),
            body_sha256=manifest.body_digest(body),
        )
        self.append(committed, number)
        self.bodies[len(self.records)] = canonical_json.encode(body)


@pytest.mark.deep
def test_a_hundred_thousand_events():
    writer = Writer()
    writer.append(e.CacheCreated(cache_id="ab" * 16, format=1, writer="test"))
    for number in range(1, BUILDS + 1):
        writer.build(number, EVENTS // BUILDS)
    assert len(writer.records) > EVENTS
    folded, seen = FoldedState(), {}
    for record in fold_stepwise(writer.records, folded):
        assert folded.state.position.seq == record.seq
        if record.seq in writer.bodies:
            head = folded.state.head_build
            seen[record.seq] = canonical_json.encode(body_of(folded.state, head))
    assert seen == writer.bodies
    assert [each.seq for each in folded.commits] == list(writer.bodies)
    assert all(each.matches for each in folded.commits)
    assert folded.state == writer.state


def test_any_prefix_folds_to_what_it_was():
    writer = Writer()
    writer.append(e.CacheCreated(cache_id="ab" * 16, format=1, writer="test"))
    for number in range(1, 13):
        writer.build(number, 5)
    going = FoldedState()
    for record in fold_stepwise(writer.records, going):
        prefix = writer.records[: record.seq]
        assert fold_all(prefix).state == going.state == fold(each.recorded_event for each in prefix)


def test_a_body_that_is_another_is_found():
    writer = Writer()
    writer.append(e.CacheCreated(cache_id="ab" * 16, format=1, writer="test"))
    writer.build(1, 3)
    last = writer.records[-1]
    other = make(
        e.BuildCommitted,
        format=1,
        generation=1,
        origin=1,
        manifest_sha256=last.event.manifest_sha256,
        body_sha256="0" * 64,
    )
    forged = DecodedRecord(
        **{name: getattr(last, name) for name in DecodedRecord.__slots__} | {"event": other}
    )
    folded = fold_all([*writer.records[:-1], forged])
    assert [each.matches for each in folded.commits] == [False]


def test_what_could_not_have_happened_ends_the_fold_and_not_the_look():
    writer = Writer()
    writer.append(e.CacheCreated(cache_id="ab" * 16, format=1, writer="test"))
    writer.build(1, 3)
    records = [*writer.records[:5], *writer.records[6:]]
    folded = fold_all(records)
    assert folded.state.position.seq == 5
    assert "expected seq 6" in folded.problem
