"""The events of what is done to builds that have ended: roll back, accept, sign, collect, repair, import.

The rules of `store.domain.events` hold for them, and they are part of its union.
"""

from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef

MAX_COLLECTED = 4096
"""How many digests one collection event holds, so that it stays far below the size of a record."""


@valueclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """The next commit, in the same transaction, shows an earlier build: `left` and `target` are origins."""

    left: int
    target: int
    requested: int | None
    why: str
    host: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class GenerationAccepted:
    """A person marked a generation as good."""

    generation: int
    why: str
    host: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class GenerationSigned:
    """A generation got one more signature after its commit."""

    generation: int
    signature: str
    key_id: str
    host: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class CollectionPlanned:
    """These artifacts are about to be removed under a policy, and these generations' files.

    A collection is as many of these events as it needs, `MAX_COLLECTED` digests each.
    """

    digests: tuple[str, ...]
    generations: tuple[int, ...]
    size: int
    policy: Document
    host: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """These artifacts and generations' files were removed; steps that made them count as not done."""

    digests: tuple[str, ...]
    generations: tuple[int, ...]
    size: int
    host: Document


@valueclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """A damaged file was replaced; the damaged bytes were kept under the path `quarantine`."""

    subject: str
    sha256: str
    action: str
    quarantine: str


@valueclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Records before this one, or artifacts, were imported from a bundle: this copy of the cache diverges from here.

    `source` is the name of the file, `bundle` its digest and size (it is no artifact of the cache), `cache_id` that of
    the cache it comes from, `generations` those that were new here, `artifacts` how many were stored.
    """

    source: str
    cache_id: str
    bundle: ArtifactRef | None
    generations: tuple[int, ...]
    artifacts: int
    host: Document
