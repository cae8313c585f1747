"""`c10 show` and `c10 replay` render the same facts about a build."""

import pytest

SAME = ("build", "status", "generations", "accepted", "collected", "identity")


@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_show_and_replay_agree(built, number):
    shown, replayed = built.json("show", number), built.json("replay", number)
    assert {name: shown[name] for name in SAME} == {name: replayed[name] for name in SAME}
    assert shown["inputs"] == replayed["inputs"]
    assert {name: value for name, value in shown["host"].items() if name != "request"} == replayed["host"]
    checks = [{name: check[name] for name in shown["checks"][0]} for check in replayed["checks"]]
    assert shown["checks"] == checks
    if number == "2":
        assert shown["failure"]["message"] == replayed["failure"]["message"]
        assert shown["failure"]["traceback"].splitlines() == replayed["failure"]["traceback"]
