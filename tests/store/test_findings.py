"""What a verification found, and what of it lasts."""

import pytest

from store.findings import Covered, Depth, Problem, ProblemKind, Verification


def problem(kind, *generations):
    return Problem(kind=kind, subject="x", found="y", path="", generations=generations, mend="c10 repair")


def verification(*problems):
    return Verification(
        depth=Depth.FULL,
        generation=3,
        origin=3,
        identity="i",
        manifest_sha256="m",
        body_sha256="b",
        looked_at=1,
        hashed=Covered(files=1, size=1, files_total=1, size_total=1),
        problems=problems,
        notes=(),
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


def test_the_head_is_sound_where_only_older_generations_suffer():
    assert verification().go
    older = verification(problem(ProblemKind.ABSENT, 1))
    assert (older.go, older.head_sound, older.only_device) == (False, True, False)
    elsewhere = verification(problem(ProblemKind.DEVICE, 3))
    assert (elsewhere.head_sound, elsewhere.only_device) == (False, True)
