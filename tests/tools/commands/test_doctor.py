"""What the doctor says of a machine and a cache."""

import json


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
