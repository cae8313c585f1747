"""The engine that actors get."""

from dataclasses import replace

import pytest

from pipeline.embed.ray.actor_pool import ActorPool
from store.errors import CacheUnusableError, ErrorKind
from tests.embedding import write_engine


def test_an_engine_that_cannot_be_read_is_an_error_of_the_store(tmp_path):
    spec = replace(write_engine(tmp_path), path=str(tmp_path / "file" / "engine"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheUnusableError) as caught:
        ActorPool(None, spec, b"", None)
    assert caught.value.kind is ErrorKind.FILE_SYSTEM
