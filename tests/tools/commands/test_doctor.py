"""What the doctor says of a machine and a cache."""

import json
import shlex

from store.disk.layout import Layout
from tests.played_builds import Scenario
from tests.store_caches import record_builds
from tests.tools.conftest import World


def test_the_doctor_names_versions_file_system_and_state(built):
    document = built.json("doctor")
    assert document["ok"] is True
    assert document["packages"]["lmdb"]
    assert document["cache"]["file_system_accepted"] is True
    assert (document["cache"]["generations"], document["cache"]["head"]) == (3, 3)
    assert document["cache"]["failed_builds"] == 1
    assert document["cache"]["lock"] is None
    assert document["machine"]["sealed_memory"] is True
    lines = built.run("doctor").stdout.splitlines()
    assert max(len(line) for line in lines if str(built.cache) not in line) <= 100


def test_the_doctor_finds_what_is_missing_and_says_what_mends_it(world):
    (world.cache / "segments" / "00000002.events").unlink()
    result = world.run("doctor", "--json")
    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)["problems"]
    assert "generation 2" in problem["text"]
    assert problem["mend"].startswith("c10 build")


def test_the_doctor_misses_no_manifest_that_was_collected(tmp_path):
    cache = World(tmp_path)
    record_builds(Layout(cache.cache), *(Scenario(flight=name, engine=name) for name in ("f1", "f2", "f3")))
    assert cache.json("gc", "--keep", "1", "--yes")["collected_generations"] == [1]
    assert cache.json("doctor")["problems"] == []
    (cache.cache / "segments" / "00000001.events").unlink()
    (problem,) = cache.json("doctor", code=2)["problems"]
    assert "generation 1" in problem["text"]


def test_what_is_to_be_typed_holds_for_a_folder_with_a_space(tmp_path):
    cache = World(tmp_path / "one folder")
    record_builds(Layout(cache.cache), Scenario())
    (cache.cache / "segments" / "00000001.events").unlink()
    (problem,) = cache.json("doctor", code=2)["problems"]
    hints = [problem["mend"], cache.json("show", "9", code=2)["error"]["hint"]]
    assert all(str(cache.cache) in shlex.split(hint) for hint in hints)


def test_the_doctor_goes_on_over_a_damaged_journal(world):
    path = world.cache / "journal.mdb"
    path.write_bytes(b"x" * 9000)
    result = world.run("doctor")
    assert result.exit_code == 7
    assert "Packages" in result.stdout


def test_the_doctor_needs_no_cache(empty):
    assert empty.run("doctor").exit_code == 0
    told = " ".join(empty.run("doctor").stdout.split())  # a long path moves words to the next line
    assert "(no cache yet)" in told
