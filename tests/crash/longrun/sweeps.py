"""Every sweep of the long run, with the row of the scorecard that it counts for."""

from collections.abc import Iterator

from tests.crash.harness import seeded, shim
from tests.crash.harness.drivers import DRIVERS
from tests.crash.harness.plan import Plan

WITHOUT_JOURNAL = ("mirror", "mirror-birth", "rebuild")
"""Writers that begin without a journal that can be read, so that neither reader can live beside them."""

NESTED = 6
ALLOCATIONS = 400
NO_REHEARSAL = {"company", "failed", "proof-failed", "prove-failed", "provision-failed"}
"""Writers whose allocations are not made to fail: another process joins in, or they fail anyway."""


def plans(most: int | None, seed: int, bug: str = "") -> Iterator[tuple[str, Plan]]:
    """Yield every sweep with the row of the scorecard that it counts for; all calls of each if `most` is None."""
    given = {"seed": seed, "bug": bug if bug in seeded.BUGS else ""}
    for name in DRIVERS:
        for action in shim.KILLS:
            yield "kills", Plan(driver=name, actions=(action,), most=most, **given)
        for reader in () if name in WITHOUT_JOURNAL else ("keeps", "looks"):
            yield (
                "kills beside a reader",
                Plan(driver=name, actions=("kill", "after"), most=most or 12, reader=reader, **given),
            )
        yield (
            "kills of recovery, too",
            Plan(driver=name, actions=("kill", "torn"), most=min(most or 8, 8), nested=NESTED, **given),
        )
        for action in shim.ERRORS:
            yield "errors", Plan(driver=name, actions=(action,), most=most, **given)
        if name not in NO_REHEARSAL:
            yield "allocations", Plan(driver=name, allocations=ALLOCATIONS, **given)
