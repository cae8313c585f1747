"""`sign` from the command line, and what repair and rebuild make of trusted keys."""

import json
import shlex

import pytest
from click.testing import CliRunner

from store.trust.signatures import parse_keys
from tools.cli import cli

pytestmark = pytest.mark.deep


@pytest.fixture
def keys(tmp_path):
    """A folder with two key pairs, `alice` and `bob`."""
    for name in ("alice", "bob"):
        assert CliRunner().invoke(cli, ["keygen", "-o", str(tmp_path / name)]).exit_code == 0
    return tmp_path


def key_id(keys, name):
    (key,) = parse_keys((keys / f"{name}.pub").read_text())
    return key.key_id


def trusting(keys, name):
    return ("--trusted-key", str(keys / f"{name}.pub"))


def test_a_cache_is_signed_later_and_again_with_another_key(world, keys):
    assert world.run("verify", *trusting(keys, "alice")).exit_code == 5
    first = world.json("sign", "--key", str(keys / "alice"))
    assert first == {
        "generation": 3,
        "build": 1,
        "key_id": key_id(keys, "alice"),
        "changed": True,
        "signed_by": [key_id(keys, "alice")],
        "manifest_sha256": world.json("status")["manifest_sha256"],
    }
    second = world.run("sign", "3", env={"C10_SIGNING_KEY": str(keys / "bob")})
    assert second.exit_code == 0
    assert second.stdout.startswith("signed generation 3 (build 1)\n")
    again = world.run("sign", "--key", str(keys / "bob"))
    assert again.stdout.startswith("nothing to do: generation 3 (build 1) has this signature\n")
    for name in ("alice", "bob"):
        assert world.json("verify", "--full", *trusting(keys, name))["signed_by"] == key_id(keys, name)
    assert f"{key_id(keys, 'alice')}, {key_id(keys, 'bob')}" in " ".join(world.run("status").stdout.split())
    # A build with either key finds the work done.
    for name in ("alice", "bob"):
        report = world.json("build", world.request, code=0)
        assert report["outcome"] == "reused"
        signed = world.run("build", world.request, "--json", env={"C10_SIGNING_KEY": str(keys / name)})
        assert json.loads(signed.stdout)["outcome"] == "reused"


def test_the_mend_of_a_missing_signature_is_to_sign(world, keys):
    result = world.run("verify", "--json", *trusting(keys, "alice"))
    (problem,) = json.loads(result.stdout)["problems"]
    mend = problem["mend"].partition(" (")[0]
    assert mend == f"c10 sign --cache {shlex.quote(str(world.cache))}"
    done = CliRunner().invoke(cli, shlex.split(mend)[1:], env={"C10_SIGNING_KEY": str(keys / "alice")})
    assert done.exit_code == 0
    assert world.run("verify", *trusting(keys, "alice")).exit_code == 0


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ((), "key"),
        (("--key", "nowhere"), "key"),
        (("9", "--key", "alice"), "unknown-generation"),
        (("0", "--key", "alice"), "usage"),
    ],
)
def test_what_cannot_be_signed_is_exit_2(world, keys, words, kind):
    given = [str(keys / word) if word in {"alice", "nowhere"} else word for word in words]
    result = world.run("sign", *given, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["kind"] == kind
    assert not list((world.cache / "manifests").glob("*.sig*"))


def test_a_damaged_manifest_is_not_signed(world, keys):
    path = world.manifest_file(1)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data.replace(b"tiny", b"tine"))
    result = world.run("sign", "1", "--json", "--key", str(keys / "alice"))
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert (error["kind"], error["hint"]) == ("target-damaged", f"c10 repair --cache {world.cache}")


def test_without_a_cache_nothing_is_made(empty, keys):
    assert empty.json("sign", "--key", str(keys / "alice"), code=2)["error"]["kind"] == "no-cache"
    assert not empty.cache.exists()


@pytest.mark.parametrize("command", ["repair", "rebuild"])
def test_mending_ends_with_a_verification_by_the_trusted_keys(world, keys, tmp_path, command):
    config = tmp_path / "c10.toml"
    config.write_text('trusted_keys = ["alice.pub"]\n')
    for given, env in (
        (trusting(keys, "alice"), {}),
        (("--config", str(config)), {}),
        ((), {"C10_TRUSTED_KEYS": str(keys / "alice.pub")}),
    ):
        result = world.run(command, "--json", *given, env=env)
        assert result.exit_code == 5, result.output
        document = json.loads(result.stdout)
        assert document["go"] is False
        assert "signature" in document["problems"][0]
        told = given if "--config" in given else ()
        assert world.run(command, "--unsigned", *told, env=env).exit_code == 0
    world.json("sign", "--key", str(keys / "alice"))
    assert world.run(command, *trusting(keys, "alice")).exit_code == 0
    assert world.run(command, *trusting(keys, "bob")).exit_code == 5
    assert world.run(command, "--unsigned", *trusting(keys, "bob")).exit_code == 2


def lose_journal(world):
    (world.cache / "journal.mdb").unlink()
    (world.cache / "journal.mdb").write_bytes(b"garbage" * 999)


def test_a_rebuild_with_keys_takes_late_signatures_up_again(world, keys):
    for generation, name in (("1", "alice"), ("3", "alice"), ("3", "bob")):
        world.json("sign", generation, "--key", str(keys / name))
    before = {path.name: path.read_bytes() for path in (world.cache / "manifests").iterdir()}
    lose_journal(world)
    both = (*trusting(keys, "alice"), *trusting(keys, "bob"))
    document = world.json("rebuild", *both)
    assert (document["go"], document["signatures"], document["signatures_left"]) == (True, 3, [])
    assert document["repairs"] == []
    assert {path.name: path.read_bytes() for path in (world.cache / "manifests").iterdir()} == before
    for name in ("alice", "bob"):
        assert world.json("verify", "--full", *trusting(keys, name))["signed_by"] == key_id(keys, name)
    # The records are there again: nothing more is found, and a file that is lost is written anew.
    (world.cache / "manifests" / "00000001.sig").unlink()
    assert world.json("rebuild", *both)["signatures"] == 0
    assert {path.name: path.read_bytes() for path in (world.cache / "manifests").iterdir()} == before


def test_a_rebuild_without_keys_says_how_a_late_signature_counts_again(world, keys):
    world.json("sign", "--key", str(keys / "alice"))
    lose_journal(world)
    result = world.run("rebuild", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["signatures"], document["signatures_left"]) == (0, ["manifests/00000003.sig"])
    assert "warning: manifests/00000003.sig: expected a record of this signature" in result.stderr
    (hint,) = [line for line in result.stderr.splitlines() if line.startswith("  -> ")]
    command = hint.removeprefix("  -> ").partition(" (")[0]
    assert command == f"c10 rebuild --trusted-key FILE --cache {shlex.quote(str(world.cache))}"
    assert (world.cache / "quarantine" / "00000003.sig.0").is_file()
    assert world.run("verify", *trusting(keys, "alice")).exit_code == 5
    words = [str(keys / "alice.pub") if word == "FILE" else word for word in shlex.split(command)[1:]]
    again = CliRunner().invoke(cli, words)
    assert again.exit_code == 0, again.output
    assert "signatures 1 recorded again" in " ".join(again.stdout.split())
    assert "warning" not in again.stderr
    assert world.json("verify", "--full", *trusting(keys, "alice"))["signed_by"] == key_id(keys, "alice")


def test_a_rebuild_takes_up_no_signature_that_no_trusted_key_vouches_for(world, keys):
    """Of another key, of another manifest, beyond the bound of its key, or of other bytes."""
    world.json("sign", "3", "--key", str(keys / "alice"))
    world.json("sign", "3", "--key", str(keys / "bob"))
    manifests = world.cache / "manifests"
    (manifests / "00000002.sig").write_bytes((manifests / "00000003.sig2").read_bytes())
    (manifests / "00000001.sig").write_bytes(b"planted")
    lose_journal(world)
    bounded = f"{(keys / 'alice.pub').read_text().split()[0]} not_after=2"
    document = world.json("rebuild", "--trusted-key", bounded, *trusting(keys, "bob"))
    assert document["signatures"] == 1
    assert document["signatures_left"] == ["manifests/00000002.sig", "manifests/00000003.sig"]
    assert [path.name for path in manifests.glob("*.sig*")] == ["00000003.sig"]
    assert world.json("verify", "--full", *trusting(keys, "bob"))["go"] is True
    assert world.run("verify", *trusting(keys, "alice")).exit_code == 5
    # The other one lies in quarantine, and its key may be trusted further later on.
    assert world.json("rebuild", *trusting(keys, "alice"))["signatures"] == 1
    assert world.run("verify", *trusting(keys, "alice")).exit_code == 0


def test_a_trusted_key_that_is_none_is_refused_before_anything_is_repaired(world, tmp_path):
    world.manifest_file(1).unlink()
    assert world.json("repair", "--trusted-key", str(tmp_path / "nowhere"), code=2)["error"]["kind"] == "key"
    assert not world.manifest_file(1).exists()


SPOIL = {
    "flipped": lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
    "emptied": lambda path: path.write_bytes(b""),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.unlink(), path.symlink_to("/nowhere")),
    "of the future": lambda path: path.with_name("00000004.json").write_bytes(b"planted"),
}


@pytest.mark.parametrize("how", SPOIL)
@pytest.mark.parametrize("command", ["build", "plan", "rollback", "gc", "status", "accept"])
def test_a_damaged_newest_manifest_leads_straight_to_repair(world, command, how):
    path = world.manifest_file(3)
    path.chmod(0o644)
    SPOIL[how](path)
    words = {
        "build": (world.request,),
        "plan": (world.request,),
        "rollback": (),
        "gc": ("--yes",),
        "status": (),
        "accept": ("1",),
    }
    error = world.json(command, *words[command], code=7)["error"]
    name = "00000004.json" if how == "of the future" else "00000003.json"
    assert f"manifests/{name}" in error["message"]
    command_line = error["hint"].partition(" (")[0]
    assert command_line == f"c10 repair --cache {shlex.quote(str(world.cache))}"
    if command == "build":
        assert CliRunner().invoke(cli, shlex.split(command_line)[1:]).exit_code == 0
        assert world.json("build", world.request)["outcome"] == "reused"


def test_a_planted_signature_of_the_future_stops_no_rollback(world, keys):
    planted = world.cache / "manifests" / "00000004.sig"
    planted.write_bytes(b"planted")
    found = world.json("verify", "--full", code=5)
    assert [problem["path"] for problem in found["problems"]] == ["manifests/00000004.sig"]
    result = world.run("rollback", "--to", "2", "--json", env={"C10_SIGNING_KEY": str(keys / "alice")})
    assert result.exit_code == 0, result.output
    assert (world.cache / "quarantine" / "00000004.sig.0").read_bytes() == b"planted"
    assert world.run("verify", "--full", *trusting(keys, "alice")).exit_code == 0
    assert [path.name for path in (world.cache / "quarantine").iterdir()] == ["00000004.sig.0"]
