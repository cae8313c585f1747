"""Looks at histories made by hand: which build is meant, what its keys are, what could not have happened."""

from dataclasses import replace

import pytest

from journal import Record
from journal.record import EMPTY, encode, extend, link
from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain.state import STAND_IN
from store.errors import RequestRefusedError
from tests.played_builds import PREPROCESSING, make, ref_of
from tests.tools.stories import Story
from tools.analysis.replay_document import diff_document, replay
from tools.analysis.replay_text import diff_lines
from tools.analysis.why import why
from tools.forensics.history import BuildHistory, DeniedRun
from tools.forensics.records import read
from tools.forensics.step_keys import component_changes, explain_keys, spaces_of


def committed(count):
    story = Story().genesis()
    for number in range(1, count + 1):
        story.build(number, parent=number - 1 or None)
    return story


def failed():
    return make(e.BuildFailed, step="cells", kind="bad-tile", subject="6/1/2")


def chosen(story, word=None):
    return story.builds().choose(word)


def refusal(call, *args, **more):
    with pytest.raises(RequestRefusedError) as caught:
        call(*args, **more)
    return str(caught.value)


def test_without_a_word_what_went_wrong_last_is_meant():
    story = committed(2)
    assert chosen(story) == 2
    story.add(make(e.BuildStarted), build=3).add(failed(), build=3)
    assert chosen(story) == 3
    story.build(4, parent=2, generation=3)
    assert chosen(story) == 3
    story.add(make(e.BuildDenied), build=None)
    assert chosen(story) == DeniedRun(story.records[-1], story.records[-1].event)
    story.add(make(e.BuildStarted), build=5)
    assert chosen(story) == 5


def test_a_failure_of_no_build_is_no_build():
    story = committed(1).add(failed(), build=None)
    assert chosen(story) == 1
    assert "expected a build to replay, found none" in refusal(
        replay, Story().add(failed(), build=None).source()
    )


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("2", 2),
        ("@2", 1),
        ("@13", 1),
        ("@14", 2),
        ("@1", "expected a record of a build, found @1, x, which belongs to none"),
        ("@0", "expected a record from 1 to 26, found @0"),
        ("@27", "expected a record from 1 to 26, found @27"),
        ("3", "expected a build from 1 to 2, found 3"),
        ("last", "expected the number of a build, or @ and the number of a record, found 'last'"),
    ],
)
def test_words_that_name_a_build(word, found):
    story = committed(2).add(make(e.BuildDenied), build=None)
    if isinstance(found, int):
        assert chosen(story, word) == found
    else:
        assert found in refusal(chosen, story, word)
    assert isinstance(chosen(story, "@26"), DeniedRun)


@pytest.mark.parametrize(
    ("kind", "listing", "records"),
    [
        ("cache", "c10 log", "c10 replay (its first column)"),
        ("segments", "c10 replay", "c10 replay (its first column)"),
        ("bundle", "c10 replay --bundle 'a b'", "c10 replay --bundle 'a b' (its first column)"),
        ("journal", "c10 replay --journal 'a b'", "c10 replay --journal 'a b' (its first column)"),
    ],
)
def test_hints_name_a_command_that_takes_the_same_records(kind, listing, records):
    source = replace(committed(1).source(), kind=kind, path="a b")
    for call in (lambda: replay(source, word="3"), lambda: diff_document(BuildHistory(source=source), 1, 3)):
        assert hint_of(call) == listing
    assert hint_of(lambda: why(source, "build", number=3)) == listing
    assert hint_of(lambda: BuildHistory(source=source, at=99)) == records


def hint_of(call):
    with pytest.raises(RequestRefusedError) as caught:
        call()
    return caught.value.hint


@pytest.mark.parametrize("at", [0, 14])
def test_only_records_that_there_are_can_be_looked_at(at):
    assert f"expected a record from 1 to 13, found {at}" in refusal(committed(1).builds, at=at)
    assert "expected a build from 1 to 1, found 2" in refusal(committed(1).builds().timeline, 2)


def test_what_could_be_reused_is_known_as_it_was_when_the_build_came_to_its_cells():
    story = Story().genesis().add(make(e.BuildStarted))
    story.add(make(e.CellEmbedded, space="s", key="old"))
    story.add(make(e.StepReused, kind="index")).add(make(e.StepReused, kind="cells"))
    story.add(make(e.CellEmbedded, space="s", key="new"))
    memo = story.builds(wanted=1).step_cache(1)
    assert [event.key for event in memo.blocks_of(("s", 0, 0, 0))] == ["old"]
    assert story.builds().step_cache(1) is None
    assert story.builds(wanted=2).step_cache(1) is None


def test_a_refused_build_can_be_replayed():
    story = committed(1).add(make(e.BuildRefused, identity="ab" * 32, reason="rolled back from"), build=2)
    document = replay(story.source())
    assert (document["build"], document["status"], document["started"]) == (2, "refused", document["ended"])
    assert document["summary"] == (
        "build 2 refused after 0 ms at start: this very request was rolled back from, and not asked for again with"
        " --again"
    )


def test_records_that_make_no_sense_are_told_as_far_as_they_do():
    story = committed(1).add(make(e.BuildStarted, inputs={"flight_id": "x"}), build=7)
    document = replay(story.source(), word="7")
    assert (document["status"], document["identity"], document["keys"]) == ("open", None, [])
    assert document["inputs"] == {"flight_id": "x"}
    assert "expected build 2, found 7" in document["state"]["problem"]
    (finding,) = [each for each in document["findings"] if each["kind"] == "impossible-history"]
    assert (finding["severity"], finding["seq"]) == ("error", 13)
    assert "expected build 7 to be told by its records, found record 14 cannot follow" in refusal(
        diff_document, BuildHistory(source=story.source()), 1, 7
    )
    assert diff_document(BuildHistory(source=story.source()), 1, 1)["inputs"] == []


def test_a_commit_of_what_no_manifest_can_hold_does_not_project():
    document = replay(committed(1).source())
    assert [each["projects"] for each in document["verified"]] == [False]
    assert "projection" in {each["kind"] for each in document["findings"]}


def written(*payloads):
    """Records as a journal holds them, given as bytes or as tag and payload."""
    head, values = EMPTY, []
    for payload in payloads:
        raw = payload
        if isinstance(payload, tuple):
            tag, content = payload
            raw = encode(Record(tag=tag, version=1, build=None, wall_ns=1, mono_ns=1, payload=content))
        values.append((head.seq + 1, link(head.chain, raw), raw))
        head = extend(head, [raw])
    return values


def test_what_is_no_record_keeps_its_place():
    genesis = ("cache.created", {"cache_id": "c" * 32, "format": 1, "writer": "test"})
    history = read(written(genesis, b"noise", ("cache.created", {}), ("sheep.dreamt", {"count": 3})))
    assert [record.seq for record in history.records] == [1, 2, 3, 4]
    assert [record.tag for record in history.records] == [
        "cache.created",
        "?",
        "cache.created",
        "sheep.dreamt",
    ]
    assert [bool(record.problem) for record in history.records] == [False, True, True, False]
    assert history.records[3].payload == {"count": 3}
    assert history.problem == ""


@pytest.mark.parametrize("known", ["", "the disk is gone"])
def test_reading_ends_where_the_chain_breaks(known):
    values = written(b"one", b"two", b"three")
    values[1] = (2, values[1][1], b"tow")
    history = read(values, problem=known)
    assert len(history.records) == 1
    assert history.problem == known or "record 2 does not continue the chain" in history.problem
    assert read(values[1:]).head == (0, EMPTY.chain.hex())


MODELS = [
    {"name": "net", "role": "descriptor", "preprocessing": PREPROCESSING},
    {"name": "map", "role": "auxiliary"},
]


def engine(**components):
    fields = {"model": "net", "purpose": "flight", "key": "k", "artifact": ref_of(b"e")}
    return make(e.EngineCompiled, **fields, components={"precision": "fp32", "batch": 4} | components)


def building(*compiled, models=MODELS):
    story = Story().genesis().add(make(e.BuildStarted, inputs={"models": models}))
    for event in compiled:
        story.add(event)
    return story.builds().build(1)


@pytest.mark.parametrize(
    ("models", "compiled"),
    [
        (None, engine()),
        ("net", engine()),
        ([7, MODELS[1]], engine()),
        ([{"name": "net", "role": "descriptor", "preprocessing": "none"}], engine()),
        ([{"name": "other", "role": "descriptor", "preprocessing": PREPROCESSING}], engine()),
        (MODELS, engine(batch="many")),
        (MODELS, engine(batch=[4])),
    ],
)
def test_a_space_that_is_not_known(models, compiled):
    assert spaces_of(building(compiled, models=models)) == ()


def test_a_space_hangs_on_the_engine_that_embeds():
    here, there = engine(), engine(precision="fp16")
    spaces = {spaces_of(building(here)), spaces_of(building(there)), spaces_of(building(engine(batch=None)))}
    assert len(spaces) == 3
    stand_in = make(
        e.EngineCompiled,
        **{name: getattr(here, name) for name in ("key", "components", "model")},
        purpose=STAND_IN,
    )
    assert spaces_of(building(there, stand_in)) == spaces_of(building(here)) != ()


def keyed(*builds):
    """Failed builds, each given by the engines that it compiled."""
    story = Story().genesis()
    for number, compiled in enumerate(builds, 1):
        story.add(make(e.BuildStarted), build=number)
        for event in compiled:
            story.add(event, build=number)
        story.add(failed(), build=number)
    return story.builds().state


def test_a_key_is_told_with_the_build_that_first_had_it_and_what_changed():
    old = engine(onnx="a", options={"level": 3, "flags": ["x"]})
    new = make(
        e.EngineCompiled,
        model="net",
        key="n",
        components={"precision": "fp32", "batch": 4, "onnx": "b", "options": {"level": 3, "flags": ["y"]}},
    )
    (key,) = explain_keys(keyed([old], [], [new], [], [new]), 5)
    assert (key["since"], key["before"]) == (3, {"build": 1, "key": "k"})
    assert key["changed"] == [
        {"path": "onnx", "old": "a", "new": "b"},
        {"path": "options.flags", "old": ["x"], "new": ["y"]},
    ]
    (key,) = explain_keys(keyed([old], [new], [old], [new], [], [old]), 6)
    assert (key["since"], key["before"]) == (1, {"build": 4, "key": "n"}), "it comes back"
    assert {"path": "onnx", "old": "b", "new": "a"} in key["changed"]
    (key,) = explain_keys(keyed([old], [], [new]), 1)
    assert (key["since"], key["before"], key["changed"]) == (1, None, [])


def test_a_stand_in_has_a_key_of_its_own():
    stand_in = make(e.EngineCompiled, model="net", key="s", purpose=STAND_IN)
    kinds = {
        (key["kind"], key["subject"], key["key"]) for key in explain_keys(keyed([engine(), stand_in]), 1)
    }
    assert kinds == {("engine", "net", "k"), ("stand-in", "net", "s")}


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": [1]}, {"a": [True]}, ["a"]),
        ({"a": None}, {}, []),
        ({"a": {"b": 1}}, {"a": 1}, ["a"]),
        (1, 2, [""]),
        ([{"name": "x", "v": 1}], [{"name": "x", "v": 2}, {"name": "y"}], ["x.v", "y"]),
        ([{"name": "x"}, {"name": "x"}], [{"name": "x"}], [""]),
        ([{"v": 1}], [{"v": 2}], [""]),
    ],
)
def test_changes_are_named_by_their_paths(old, new, paths):
    assert [change["path"] for change in component_changes(old, new)] == paths


def test_artifacts_of_both_sides_are_compared():
    story = Story().genesis()
    for number, digit in ((1, "a"), (2, "b")):
        ref = ArtifactRef(sha256=digit * 64, size=number)
        story.add(make(e.BuildStarted, calibration=ref_of(b"c")), build=number)
        if number == 2:
            story.add(
                make(e.EngineCompiled, model="net", key=digit, artifact=ref, purpose=STAND_IN), build=number
            )
        story.add(make(e.EngineCompiled, model="net", key=digit, artifact=ref), build=number)
        story.add(make(e.CheckFailed, check="engine", subject="net", why="off"), build=number)
        story.add(failed(), build=number)
    document = diff_document(BuildHistory(source=story.source()), 1, 2)
    rows = [(row["role"], row["same"], row["a_bytes"], row["b_bytes"]) for row in document["artifacts"]]
    assert rows == [
        ("calibration", True, 1, 1),
        ("engine net", False, 1, 2),
        ("stand-in engine", False, None, 2),
    ]
    (check,) = document["checks"]
    assert (check["a"]["passed"], check["b"]["passed"]) == (False, False)


def test_what_checks_measured_otherwise_is_told():
    story = Story().genesis()
    for number, measured in ((1, {"cosine_ppb": 7, "images": 3}), (2, {"cosine_ppb": 8, "images": 3})):
        story.add(make(e.BuildStarted, calibration=ref_of(b"c")), build=number)
        story.add(make(e.CheckPassed, check="engine", subject="net", measured=measured), build=number)
        story.add(failed(), build=number)
    lines = diff_lines(diff_document(BuildHistory(source=story.source()), 1, 2))
    assert any("engine net, cosine: 0.000000007 -> 0.000000008" in line for line in lines)
    assert not any("images" in line for line in lines)
