"""Reports of a verification: which problems last, and how each is fixed."""

from pathlib import Path

import pytest

from store.errors import UNREADABLE, IncompatibleDeviceError, NoGoError
from store.verify.report import (
    CacheProblem,
    Depth,
    Finding,
    HashedAmount,
    ProblemKind,
    VerifyReport,
    diagnose,
)
from tests.cache_facts import make_facts

ROOT = Path("/tmp/my cache")


def problem(kind, *generations):
    return CacheProblem(kind=kind, subject="x", found="y", path="", generations=generations, fix="c10 repair")


def verification(*problems):
    return VerifyReport(
        depth=Depth.FULL,
        generation=3,
        origin=3,
        identity="i",
        manifest_sha256="m",
        body_sha256="b",
        looked_at=1,
        hashed=HashedAmount(files=1, size=1, files_total=1, size_total=1),
        problems=problems,
        notes=(),
        facts=make_facts(),
    )


@pytest.mark.parametrize(
    ("found", "lasts"),
    [
        (problem(ProblemKind.ABSENT, 1), False),
        (problem(ProblemKind.ABSENT, 1, 2), False),
        (problem(ProblemKind.ABSENT, 2, 3), True),
        (problem(ProblemKind.ABSENT), False),
        (problem(ProblemKind.STRANGER), True),
        (problem(ProblemKind.DEVICE, 3), True),
    ],
)
def test_what_concerns_only_collected_generations_does_not_last(found, lasts):
    other = problem(ProblemKind.DEVICE, 3)
    assert verification(found, other).without((1, 2)).problems == ((found, other) if lasts else (other,))


def test_a_foreign_file_that_was_seen_before_lasts():
    found = problem(ProblemKind.STRANGER)
    assert verification(found).without((), passing=()).foreign_files == {found.subject}
    assert not verification(found).without((), passing={found.subject}).problems


def test_the_head_is_sound_if_only_older_generations_are_damaged():
    assert verification().go
    older = verification(problem(ProblemKind.ABSENT, 1))
    assert (older.go, older.head_sound, older.only_device) == (False, True, False)
    other_device = verification(problem(ProblemKind.DEVICE, 3))
    assert (other_device.head_sound, other_device.only_device) == (False, True)


def diagnosed(kind, **fields):
    finding = Finding(kind=kind, **({"subject": "x", "found": "y"} | fields))
    (problem,) = diagnose(
        [finding], root=ROOT, named_in={"d" * 64: (3, 1)}, head=3, keep_without=lambda generations: 0
    )
    return problem


@pytest.mark.parametrize("kind", ProblemKind)
def test_every_kind_of_problem_names_a_fix(kind):
    fix = diagnosed(kind).fix
    assert "'/tmp/my cache'" in fix
    assert fix.startswith(("c10 repair", "c10 build", "c10 sign", "chmod -R o-w"))


@pytest.mark.parametrize(
    ("kind", "fix"),
    [
        (ProblemKind.STRANGER, "c10 repair --cache '/tmp/my cache'"),
        (ProblemKind.MANIFEST, "c10 build REQUEST --cache '/tmp/my cache' --again"),
        (
            ProblemKind.DEVICE,
            "c10 build REQUEST --cache '/tmp/my cache' on that device, with its libraries",
        ),
    ],
)
def test_the_fix_of_a_problem(kind, fix):
    assert diagnosed(kind).fix == fix


def test_the_fix_of_an_unreadable_file_and_of_a_file_named_like_a_lock():
    assert (
        "permissions of /tmp/my cache/a/b"
        in diagnosed(ProblemKind.ABSENT, found=f"{UNREADABLE}: no", path="a/b").fix
    )
    assert diagnosed(ProblemKind.STRANGER, path="build.lock").fix.endswith(
        "out of the cache: C10 creates it again"
    )


def test_a_problem_names_the_generations_that_name_the_artifact():
    assert diagnosed(ProblemKind.DAMAGED, digest="d" * 64).generations == (1, 3)
    assert diagnosed(ProblemKind.DAMAGED, digest="e" * 64, generation=2).generations == ()
    assert diagnosed(ProblemKind.MANIFEST, generation=2).generations == (2,)
    assert diagnosed(ProblemKind.STRANGER).generations == ()


def test_damage_of_earlier_generations_alone_names_a_last_resort():
    def diagnosed_with(keeps):
        names = {digest * 64: (number,) for digest, number in (("a", 1), ("b", 2), ("c", 4))}
        findings = [
            Finding(kind=ProblemKind.ABSENT, subject="x", found="y", path=digest, digest=digest * 64)
            for digest in "abcd"
        ]
        return diagnose(findings, root=ROOT, named_in=names, head=4, keep_without=lambda of: keeps[of[0]])

    first, second, *others = diagnosed_with({1: 3, 2: 2})
    repair = "c10 repair --cache '/tmp/my cache'"
    assert [each.fix for each in others] == [repair, repair]
    assert [each.last_resort for each in others] == ["", ""]
    assert first.fix == f"{repair} (once; where it cannot make this again: {first.last_resort})"
    # One collection removes both: it may have to read what it keeps.
    for each, number in ((first, 1), (second, 2)):
        expected = f"give generation {number} up: c10 gc --keep 2 --yes --cache '/tmp/my cache'"
        assert each.last_resort.endswith(expected)
    for each in diagnosed_with({1: 0, 2: 0})[:2]:
        assert "after the next c10 build unless it was accepted: c10 gc --keep 1 --yes" in each.last_resort


def test_a_report_raises_its_problems():
    verification().require()
    device, absent = problem(ProblemKind.DEVICE, 3), problem(ProblemKind.ABSENT, 1)
    with pytest.raises(IncompatibleDeviceError, match="x: y"):
        verification(device).require()
    with pytest.raises(NoGoError, match="x: y"):
        verification(device, absent).require()
