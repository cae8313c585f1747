"""The manifest of the head as it is printed."""

import pytest


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_the_manifest_is_printed_byte_for_byte(built, extra):
    result = built.run("manifest", *extra)
    assert result.stdout_bytes == built.manifest_file(3).read_bytes()


def test_a_manifest_that_is_not_there_yet_is_projected(world):
    raw = world.manifest_file(3).read_bytes()
    world.manifest_file(3).unlink()
    result = world.run("manifest")
    assert result.stdout_bytes == raw
    assert "warning" in result.stderr
