"""One build as it is shown."""


def test_a_failed_build_is_shown_with_its_traceback(built):
    document = built.json("show", "2")
    assert document["status"] == "failed"
    assert document["failure"]["step"] == "cells"
    assert "Traceback" in document["failure"]["traceback"]
    assert {"build", "identity", "inputs", "plan", "steps", "checks", "failure"} <= set(document)
    text = built.run("show", "2").stdout
    assert "Failure" in text
    assert "Traceback" in text


def test_a_committed_build_is_shown_with_plan_steps_and_checks(built):
    document = built.json("show", "3")
    assert document["failure"] is None
    assert document["generations"] == [2]
    assert built.json("show", "1")["generations"] == [1, 3]
    assert {step["kind"] for step in built.json("show", "1")["steps"]} >= {
        "engine",
        "cells",
        "index",
        "coverage",
    }
    assert {step["decision"] for step in document["plan"]} == {"reuse", "run"}
    assert all(step["why"] for step in document["plan"])
    assert all(check["passed"] for check in document["checks"])


def test_an_unknown_build_is_refused(built):
    result = built.run("show", "99")
    assert result.exit_code == 2
    assert "expected a build from 1 to 3, found 99" in result.stderr
    assert built.json("show", "99", code=2)["error"]["kind"] == "unknown-build"
    assert "expected a whole number from 1, found 'foo'" in built.run("show", "foo").stderr


def test_the_newest_build_is_the_default(built, empty):
    assert built.json("show")["build"] == 3
    refused = empty.run("show")
    assert (refused.exit_code, "no-cache" in empty.run("show", "--json").stdout) == (2, True)
