"""Signing, trusting and refusing, from the command line."""

import json
import os
import stat

import pytest
from click.testing import CliRunner

from store.trust.signatures import parse_keys
from tools.cli import cli


def keygen(path, *extra, code=0):
    result = CliRunner().invoke(cli, ["keygen", "-o", str(path), *extra])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def keys(tmp_path):
    """A folder with two key pairs, `alice` and `bob`."""
    for name in ("alice", "bob"):
        keygen(tmp_path / name)
    return tmp_path


def test_keygen_writes_a_pair_and_overwrites_nothing(tmp_path):
    document = json.loads(keygen(tmp_path / "key", "--json", "--comment", "station 7").stdout)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    line = (tmp_path / "key.pub").read_text()
    assert line == f"{document['public_key']}  # c10 key {document['key_id']}, station 7\n"
    (key,) = parse_keys(line)
    assert key.key_id == document["key_id"]
    before = (tmp_path / "key").read_bytes()
    again = keygen(tmp_path / "key", "--json", code=2)
    assert json.loads(again.stdout)["error"]["kind"] == "key"
    assert (tmp_path / "key").read_bytes() == before
    assert keygen(tmp_path / "nowhere" / "key", code=2).stderr.startswith("c10: error: ")
    assert "--output" in CliRunner().invoke(cli, ["keygen"]).stderr


def test_keygen_tells_what_to_do_with_them(tmp_path):
    shown = keygen(tmp_path / "key").stdout
    assert "signing_key" in shown
    assert "trusted_keys" in shown
    assert (tmp_path / "key").read_text() not in shown


def test_an_unsigned_cache_is_go_and_says_what_was_not_checked(built):
    document = built.json("verify")
    assert (document["go"], document["signed_by"]) == (True, None)
    assert "unsigned" in [each["kind"] for each in document["warnings"]]
    assert "nobody signed this generation" in built.run("verify").stdout


def test_keys_make_an_unsigned_cache_a_no_go(built, keys, tmp_path):
    config = tmp_path / "c10.toml"
    config.write_text('trusted_keys = ["alice.pub"]\n')
    for given, env in (
        (("--trusted-key", str(keys / "alice.pub")), {}),
        (("--trusted-key", (keys / "alice.pub").read_text().split()[0]), {}),
        (("--config", str(config)), {}),
        ((), {"C10_TRUSTED_KEYS": str(keys / "alice.pub")}),
    ):
        result = built.run("verify", "--json", *given, env=env)
        assert result.exit_code == 5, result.output
        document = json.loads(result.stdout)
        assert [problem["kind"] for problem in document["problems"]] == ["signature"]
        assert "signing_key" in document["problems"][0]["mend"]
        assert (
            built.run("verify", "--unsigned", *(given if "--config" in given else ()), env=env).exit_code == 0
        )
    both = built.run("verify", "--unsigned", "--trusted-key", str(keys / "alice.pub"))
    assert both.exit_code == 2


def test_a_query_holds_to_the_keys_too(built, keys):
    picture = str(built.tile())
    result = built.run("query", picture, "--json")
    assert result.exit_code == 0
    assert "signatures were not checked" in result.stderr
    refused = built.run("query", picture, "--json", "--trusted-key", str(keys / "alice.pub"))
    assert refused.exit_code == 5
    assert json.loads(refused.stdout)["error"]["kind"] == "signature"
    assert "not checked" not in refused.stderr


@pytest.mark.parametrize("key", ["nowhere.pub", "00" * 32, "zz" * 32, "."])
def test_trusted_keys_that_are_none_are_exit_2(built, key):
    result = built.run("verify", "--json", "--trusted-key", key)
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["kind"] == "key"


def test_build_rollback_and_verify_with_a_key(world, keys, tmp_path):
    config = tmp_path / "c10.toml"
    config.write_text('signing_key = "alice"\ntrusted_keys = ["alice.pub"]\n')
    told = ("--config", str(config))
    assert world.run("verify", *told).exit_code == 5
    trusting = tmp_path / "trusting.toml"
    trusting.write_text('trusted_keys = ["alice.pub"]\n')
    for command in ("build", "plan"):
        refused = world.json(command, world.request, "--config", str(trusting), code=5)
        assert refused["error"]["kind"] == "signature"
        assert "c10 sign 3" in refused["error"]["hint"]

    planned = world.json("plan", world.request, "--no-measure", *told)
    assert (planned["decision"], planned["to_embed"]) == ("build", 0)
    signed = world.json("build", world.request, *told)
    assert (signed["outcome"], signed["generation"]) == ("built", 4)
    assert (signed["engines_compiled"], signed["tiles_embedded"]) == (0, 0)
    first = world.json("verify", "--full", *told)
    (key,) = parse_keys((keys / "alice.pub").read_text())
    assert (first["go"], first["signed_by"]) == (True, key.key_id)
    assert key.key_id in world.run("status").stdout
    again = world.json("build", world.request, *told)
    assert (again["outcome"], again["writes"]) == ("reused", 0)
    assert world.json("build", world.request, "--config", str(trusting))["outcome"] == "reused"
    without = world.json("build", world.request)
    assert (without["outcome"], without["generation"]) == ("reused", 4)

    back = world.json("rollback", "--to", "2", *told)
    assert back["generation"] == 5
    assert world.json("verify", *told)["go"] is True

    unsigned = world.run("rollback", "--to", "1", "--json")
    assert unsigned.exit_code == 0
    (warning,) = json.loads(unsigned.stdout)["warnings"]
    assert "expected generation 6 to be signed as 5 is, found no signing_key" in warning["message"]
    assert world.run("verify", *told).exit_code == 5

    other = world.run("build", world.request, "--again", "--json", env={"C10_SIGNING_KEY": str(keys / "bob")})
    assert json.loads(other.stdout)["generation"] == 7
    assert world.run("verify", *told).exit_code == 5
    assert world.run("verify", "--trusted-key", str(keys / "bob.pub")).exit_code == 0


@pytest.mark.parametrize("wrong", ["missing", "open", "public", "inside"])
def test_a_signing_key_that_cannot_be_used_is_exit_2_before_any_work(empty, keys, wrong):
    key = keys / "alice"
    match wrong:
        case "missing":
            key = keys / "nobody"
        case "open":
            key.chmod(0o644)
        case "public":
            key = keys / "alice.pub"
            key.chmod(0o600)
        case "inside":
            empty.cache.mkdir()
            os.link(key, empty.cache / "key")
            key = empty.cache / "key"
    for command in (("build", empty.request), ("plan", empty.request), ("rollback",)):
        result = empty.run(*command, "--json", env={"C10_SIGNING_KEY": str(key)})
        assert result.exit_code == 2, result.output
        assert json.loads(result.stdout)["error"]["kind"] == "key"
        assert result.stderr.startswith("c10: error: signing_key: expected ")
    assert wrong == "inside" or not empty.cache.exists()


@pytest.mark.parametrize(
    "settings",
    ["signing_key = 3", 'signing_key = ""', "trusted_keys = 3", "trusted_keys = [3]", 'trusted_keys = [""]'],
)
def test_settings_of_a_wrong_type_are_exit_2(built, tmp_path, settings):
    (tmp_path / "c10.toml").write_text(settings + "\n")
    result = built.run("verify", "--json", "--config", str(tmp_path / "c10.toml"))
    assert result.exit_code == 2
    assert settings.split()[0] in json.loads(result.stdout)["error"]["message"]
