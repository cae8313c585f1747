"""Hash what a rollback will show, before it shows it."""

from pipeline.progress import Progress
from store.cache.writer import CacheWriter
from store.domain.manifest_projection import project
from store.errors import ErrorKind, RequestRefusedError
from store.manifest import manifest
from store.verify.coverage import damaged_artifacts, missing_artifacts


def require_artifacts(store: CacheWriter, target: int, progress: Progress) -> None:
    """Require that every artifact of a build is intact: a rollback must not turn a GO into a NO-GO.

    Raises:
        RequestRefusedError: One is missing or damaged.
    """
    shown = next(found for found in store.state.generations.values() if found.origin == target)
    parsed = manifest.parse(project(store.state, shown))
    problems = missing_artifacts(parsed, store.artifacts)
    if not problems:
        progress.start("verify", total=None, unit="bytes")
        problems = damaged_artifacts(parsed, store.artifacts, on_progress=progress.advance)
        progress.finish()
    if problems:
        raise RequestRefusedError(
            f"expected all artifacts of build {target}, found {problems[0]}"
            + (f" and {len(problems) - 1} more problems" if len(problems) > 1 else ""),
            kind=ErrorKind.TARGET_DAMAGED,
            hint="c10 repair (makes them again), or c10 rollback --to GENERATION, with another one",
        )
