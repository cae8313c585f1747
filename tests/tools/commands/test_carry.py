"""What the commands say of a cache that carries its tiles."""

import json
from pathlib import Path

from store.manifest.manifest import parse


def test_commands_tell_what_is_carried(empty):
    world, request = empty, Path(empty.request)
    request.write_text(request.read_text().replace("[tiles]", "[carry]\ntiles = true\n[tiles]"))
    assert world.json("status", code=2)["error"]["kind"] == "no-cache"
    plan = world.run("plan", world.request, "--no-measure")
    assert "its tiles were not packed yet" in plan.stdout
    assert world.json("build", world.request)["outcome"] == "built"
    size = sum(path.stat().st_size for path in (world.folder / "tiles").rglob("*.png"))
    assert world.json("status")["carried_bytes"] == size
    assert "of tiles" in world.run("status").stdout
    assert "20 tiles carried" in world.run("show", "1").stdout
    steps = world.json("replay", "1")["steps"]
    (packs,) = (step for step in steps if step["kind"] == "packs")
    assert (packs["outcome"], packs["count"], packs["unit"]) == ("done", 20, "tiles")
    told = " ".join(world.run("replay", "1").stdout.split())
    assert "20 tiles to be carried" in told
    assert "tiles packed" in told
    manifest = parse(world.manifest_file(1).read_bytes())
    why = world.json("why", manifest.carried.packs.sha256)
    assert "pack table" in json.dumps(why)
    assert world.json("build", world.request)["outcome"] == "reused"
    assert world.json("build", "--again", world.request)["outcome"] == "built"
    assert "pack table" in json.dumps(world.json("diff", "1", "2")["artifacts"])
    for limit, code in ((1000, 2), (1 << 30, 0)):
        request.write_text(
            request.read_text().replace("tiles = true", f"tiles = true\nmax_bytes = {limit}", 1)
        )
        assert world.run("plan", world.request, "--no-measure").exit_code == code
        request.write_text(request.read_text().replace(f"max_bytes = {limit}\n", ""))


def test_a_cache_without_tiles_carries_no_bytes(built):
    assert built.json("status")["carried_bytes"] == 0
