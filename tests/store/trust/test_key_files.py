"""Keys on disk: made, read, and refused when they are no secret or no key."""

import os
import stat
from pathlib import Path

import pytest

from store.disk.layout import Layout
from store.errors import ErrorKind, RequestRefusedError
from store.trust.key_files import load_signer, read_trusted, write_key_pair
from store.trust.signatures import TrustedKey, signature_file, signature_problems
from tests.child_python import run_python
from tests.damaging import replace_by
from tests.store_caches import open_writer

ROOT = Path(__file__).parents[3]
RAW = b'{"any": "bytes"}\n'


class TestKeyFiles:
    def test_a_new_pair_signs_and_is_trusted(self, tmp_path):
        pair = write_key_pair(tmp_path / "ground", comment="station\n7 \x1b[2J")
        assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
        assert pair.public == tmp_path / "ground.pub"
        assert (
            pair.public.read_text() == f"{pair.public_bytes.hex()}  # c10 key {pair.key_id}, station7 [2J\n"
        )
        signer = load_signer(pair.private, cache=tmp_path / "cache")
        keys = read_trusted([str(pair.public)], cache=tmp_path / "cache")
        assert keys == (TrustedKey(signer.public),)
        assert signature_problems(RAW, [signature_file(signer.sign(RAW))], generation=1, keys=keys) == ()
        assert read_trusted([pair.public_bytes.hex() + " not_after=4"]) == (TrustedKey(signer.public, 4),)

    @pytest.mark.parametrize("taken", ["key", "key.pub"])
    def test_nothing_is_overwritten(self, tmp_path, taken):
        (tmp_path / taken).write_text("mine")
        with pytest.raises(RequestRefusedError, match="keys are never overwritten"):
            write_key_pair(tmp_path / "key")
        assert [path.name for path in tmp_path.iterdir()] == [taken]
        assert (tmp_path / taken).read_text() == "mine"

    def test_no_key_is_made_in_a_cache(self, tmp_path):
        with open_writer(Layout(tmp_path / "cache")):
            pass
        (tmp_path / "way").symlink_to(tmp_path / "cache" / "manifests")
        for folder in (tmp_path / "cache", tmp_path / "cache" / "tmp", tmp_path / "way"):
            with pytest.raises(RequestRefusedError, match="outside of any cache"):
                write_key_pair(folder / "key")

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(Exception, match="key file") as error:
            write_key_pair(tmp_path / "nowhere" / "key")
        assert error.value.hint

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
    def test_a_signing_key_that_others_may_use(self, tmp_path, mode):
        pair = write_key_pair(tmp_path / "key")
        pair.private.chmod(mode)
        self.refused(pair.private, tmp_path, f"found mode {mode:04o}")

    def test_a_signing_key_inside_of_the_cache(self, tmp_path):
        pair = write_key_pair(tmp_path / "cache-key")
        (tmp_path / "cache").mkdir()
        os.link(pair.private, tmp_path / "cache" / "key")
        (tmp_path / "link").symlink_to(tmp_path / "cache" / "key")
        (tmp_path / "way").symlink_to(tmp_path / "cache")
        for path in (tmp_path / "cache/key", tmp_path / "link", tmp_path / "way/key"):
            self.refused(path, tmp_path, "outside of the cache")
            with pytest.raises(RequestRefusedError, match="outside of the cache"):
                load_signer(path, cache=tmp_path / "way")
        assert load_signer(pair.private, cache=tmp_path / "cache")

    @pytest.mark.parametrize(
        "what", ["missing", "folder", "pipe", "empty", "junk", "public", "sparse", "cut"]
    )
    def test_a_signing_key_that_is_none(self, tmp_path, what):
        pair, path = write_key_pair(tmp_path / "pair"), tmp_path / "key"
        pem = pair.private.read_bytes()
        content = {"junk": os.urandom(100), "public": pair.public.read_bytes(), "cut": pem[: len(pem) // 2]}
        if what in content:
            path.write_bytes(content[what])
        else:
            replace_by(path, what)
        if path.is_file():
            path.chmod(0o600)
        self.refused(path, tmp_path, "signing_key: expected")

    @pytest.mark.parametrize("mode", [0o644, 0o600])
    def test_a_public_key_is_told_apart_from_a_private_one(self, tmp_path, mode):
        from cryptography.hazmat.primitives import serialization as s

        pair = write_key_pair(tmp_path / "ground")
        pair.public.chmod(mode)
        with pytest.raises(RequestRefusedError, match="found a public one") as error:
            load_signer(pair.public, cache=tmp_path / "cache")
        assert error.value.hint == f"name the private key: {pair.private}"
        public = s.load_pem_private_key(pair.private.read_bytes(), None).public_key()
        (tmp_path / "key").write_bytes(
            public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        )
        with pytest.raises(RequestRefusedError, match="found a public one") as error:
            load_signer(tmp_path / "key", cache=tmp_path / "cache")
        assert "that of NAME.pub is NAME" in error.value.hint

    def test_a_private_key_among_the_trusted_ones_is_not_quoted(self, tmp_path):
        pair = write_key_pair(tmp_path / "ground")
        with pytest.raises(RequestRefusedError, match="found a private one") as error:
            read_trusted([str(pair.private)])
        assert error.value.hint.startswith(f"name the public key: {pair.public}")
        secret = pair.private.read_text().splitlines()[1]
        assert secret[:20] not in error.value.message + error.value.hint

    def test_parts_of_a_private_key_among_the_trusted_ones_are_not_quoted(self, tmp_path):
        pair = write_key_pair(tmp_path / "ground")
        text = pair.private.read_text()
        (secret,) = [line for line in text.splitlines() if "KEY" not in line]
        (tmp_path / "body").write_text(secret + "\n")
        (tmp_path / "key.ppk").write_text(f"PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\n{secret}\n")
        for entry in (str(tmp_path / "body"), str(tmp_path / "key.ppk"), text):
            with pytest.raises(RequestRefusedError) as error:
                read_trusted([entry])
            assert secret[:20] not in error.value.message + error.value.hint

    def test_keys_of_other_kinds(self, tmp_path):
        from cryptography.hazmat.primitives import serialization as s
        from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519

        def write(key, encryption=None):
            path = tmp_path / "key"
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
            encryption = encryption or s.NoEncryption()
            path.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, encryption))
            return path

        for key in (ec.generate_private_key(ec.SECP256R1()), ed448.Ed448PrivateKey.generate()):
            self.refused(write(key), tmp_path, "expected an Ed25519 key")
        secret = write(ed25519.Ed25519PrivateKey.generate(), s.BestAvailableEncryption(b"password"))
        self.refused(secret, tmp_path, "found an encrypted one")

    def refused(self, path, tmp_path, text):
        with pytest.raises(RequestRefusedError) as error:
            load_signer(path, cache=tmp_path / "cache")
        assert text in error.value.message
        assert (error.value.kind, bool(error.value.hint)) == (ErrorKind.KEY, True)

    @pytest.mark.parametrize("content", [b"", b"# none\n", b"junk", b"\xff\xfe", b"00" * 32])
    def test_trusted_keys_that_are_none(self, tmp_path, content):
        (tmp_path / "keys").write_bytes(content)
        with pytest.raises(RequestRefusedError) as error:
            read_trusted([str(tmp_path / "keys")])
        assert error.value.kind is ErrorKind.KEY

    def test_trusted_keys_that_others_could_have_put_there(self, tmp_path):
        pair = write_key_pair(tmp_path / "key")
        pair.public.chmod(0o666)
        with pytest.raises(RequestRefusedError, match="anybody may write"):
            read_trusted([str(pair.public)])
        pair.public.chmod(0o644)
        (tmp_path / "cache").mkdir()
        os.link(pair.public, tmp_path / "cache/key.pub")
        with pytest.raises(RequestRefusedError, match="outside of the cache"):
            read_trusted([str(tmp_path / "cache/key.pub")], cache=tmp_path / "cache")
        with pytest.raises(RequestRefusedError, match="expected a readable file"):
            read_trusted([str(tmp_path / "nowhere"), "a\0b"])

    def test_who_holds_a_key_leaves_no_core_file(self, tmp_path):
        pair = write_key_pair(tmp_path / "key")
        code = (
            "import resource, sys; from pathlib import Path; from store.trust.key_files import load_signer\n"
            "load_signer(Path(sys.argv[1]), cache=Path('/nowhere')); print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
        )
        assert run_python(code, str(pair.private)).stdout.strip() == "0"
