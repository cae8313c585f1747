"""Signatures and trusted keys: what holds, and every way in which one does not."""

import sys
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from store.errors import CacheUnusableError, ErrorKind, NoGoError
from store.runtime.capabilities import library_version
from store.trust import signatures
from store.trust.go_no_go import Policy, check_flightworthy
from store.trust.signatures import (
    Signature,
    Signer,
    TrustedKey,
    is_key_line,
    parse_keys,
    parse_signature,
    signature_file,
    signature_problems,
)

ROOT = Path(__file__).parents[3]
VERSION = library_version("onnxruntime") or "1"


def signer_of(seed):
    return Signer.of(Ed25519PrivateKey.from_private_bytes(seed))


ALICE, BOB = signer_of(b"a" * 32), signer_of(b"b" * 32)
RAW = b'{"any": "bytes"}\n'
SIGNED = signature_file(ALICE.sign(RAW))
BY_ALICE = (TrustedKey(ALICE.public),)


def test_a_signature_file_is_read_back_unchecked():
    assert parse_signature(SIGNED) == ALICE.sign(RAW)
    assert parse_signature(SIGNED[:-1]) is None


def reasons(signature=SIGNED, *, raw=RAW, generation=3, keys=BY_ALICE):
    files = () if signature is None else (signature,)
    return signature_problems(raw, files, generation=generation, keys=keys)


class TestSignature:
    def test_bytes_are_those_of_the_format(self):
        """Test vector 1 of RFC 8032 for the key; the rest as docs/format.md says."""
        signer = signer_of(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
        public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        assert signer.public.hex() == public
        assert signer.key_id == "21fe31dfa154a261"
        assert signatures.signed_bytes(b"x\n").hex() == (
            "6331302f6d616e69666573742f310073cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac"
        )
        file = signature_file(signer.sign(b"x\n"))
        assert file.startswith(b'{"format":1,"key_id":"21fe31dfa154a261","signature":"')
        assert (len(file), file[-3:]) == (184, b'"}\n')
        assert not reasons(file, raw=b"x\n", keys=(TrustedKey(signer.public),))

    def test_a_trusted_signature_holds(self):
        assert reasons() == ()
        assert reasons(keys=(TrustedKey(BOB.public), TrustedKey(ALICE.public))) == ()
        assert reasons(keys=(TrustedKey(ALICE.public, 3),)) == ()
        assert ALICE.sign(RAW) == ALICE.sign(RAW)

    def test_a_signature_that_does_not_hold_is_not_given(self):
        with pytest.raises(RuntimeError, match="is faulty"):
            Signer(BOB.public, ALICE._private).sign(RAW)

    def test_the_private_key_is_not_shown(self):
        assert repr(ALICE) == f"Signer(public={ALICE.public!r})"

    @pytest.mark.parametrize(
        "signature",
        [
            b"",
            b"x" * 64,
            ALICE.sign(RAW).signature.encode(),
            bytes.fromhex(ALICE.sign(RAW).signature),
            SIGNED[:-1],
            SIGNED + b"\n",
            SIGNED + b"x",
            SIGNED[:-1] + b"\r\n",
            b" " + SIGNED,
            b"\xef\xbb\xbf" + SIGNED,
            SIGNED.replace(b":1,", b":2,"),
            SIGNED.replace(b":1,", b":1.0,"),
            SIGNED.replace(b":1,", b":true,"),
            SIGNED.replace(b":1,", b": 1,"),
            SIGNED.replace(b'"format":1,', b""),
            SIGNED.replace(b'{"format":1,', b'{"format":1,"format":1,'),
            SIGNED.replace(b'"}', b'","extra":1}'),
            SIGNED.replace(b'"}', b'0"}'),
            SIGNED[:-5] + b'"}\n',
            SIGNED.replace(ALICE.key_id.encode(), b""),
            SIGNED.upper(),
            SIGNED * 2,
        ],
    )
    def test_anything_but_the_one_form_is_refused(self, signature):
        (reason,) = reasons(signature)
        assert (
            reason == f"signature: expected a signature file of format 1, found {len(signature)} other bytes"
        )

    def test_no_signature(self):
        assert reasons(None) == (
            f"signature: expected one by {ALICE.key_id}, found no regular file beside the manifest",
        )
        assert "of which there is none" in reasons(keys=())[0]

    def test_an_unknown_key(self):
        keys = (TrustedKey(BOB.public), TrustedKey(signer_of(b"c" * 32).public))
        (reason,) = reasons(keys=keys)
        assert reason.endswith(f"found one by {ALICE.key_id}")
        assert all(key.key_id in reason for key in keys)

    def test_a_key_id_is_no_proof(self):
        forged = Signature(key_id=ALICE.key_id, signature=BOB.sign(RAW).signature)
        (reason,) = reasons(signature_file(forged))
        assert "over other bytes" in reason

    def test_a_key_signs_up_to_its_bound(self):
        for bound, generation, good in ((3, 3, True), (2, 3, False), (0, 1, False), (0, 0, True)):
            keys = (TrustedKey(ALICE.public, bound),)
            assert (reasons(generation=generation, keys=keys) == ()) is good
        (reason,) = reasons(keys=(TrustedKey(ALICE.public, 2),))
        assert (
            reason
            == f"signature: expected key {ALICE.key_id} to sign up to generation 2 (not_after), found generation 3"
        )

    def test_the_narrowest_bound_counts(self):
        both = [TrustedKey(ALICE.public), TrustedKey(ALICE.public, 2), TrustedKey(ALICE.public, 9)]
        assert reasons(keys=both)
        assert reasons(keys=both[::-1])

    def test_every_reason_is_listed(self):
        found = reasons(raw=RAW + b"x", keys=(TrustedKey(ALICE.public, 2),))
        assert len(found) == 2
        assert "not_after" in found[0]
        assert "over other bytes" in found[1]

    @given(st.integers(0, len(SIGNED) * 8 - 1))
    def test_no_bit_may_flip(self, bit):
        damaged = bytearray(SIGNED)
        damaged[bit // 8] ^= 1 << bit % 8
        assert reasons(bytes(damaged))

    @given(st.integers(0, len(RAW) * 8 - 1))
    def test_no_bit_of_the_manifest_may_flip(self, bit):
        damaged = bytearray(RAW)
        damaged[bit // 8] ^= 1 << bit % 8
        assert reasons(raw=bytes(damaged))

    def test_a_signature_has_no_twin(self):
        """S plus the order of the group satisfies the equation as well; RFC 8032 (5.1.7) refuses it."""
        order = 2**252 + 27742317777372353535851937790883648493
        raw = bytes.fromhex(ALICE.sign(RAW).signature)
        twin = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
        assert reasons(signature_file(Signature(key_id=ALICE.key_id, signature=twin.hex())))

    def test_a_missing_package_is_no_bad_signature(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
        with pytest.raises(CacheUnusableError, match="expected the Python package cryptography") as error:
            reasons()
        assert (error.value.kind, error.value.hint) == (ErrorKind.PACKAGE, "pip install cryptography")

    def test_a_shortage_of_memory_is_no_bad_signature(self, monkeypatch):
        def fails(name, *_, **__):
            raise ImportError(f"{name}.so: failed to map segment from shared object")

        monkeypatch.setattr("builtins.__import__", fails)
        with pytest.raises(CacheUnusableError) as error:
            reasons()
        assert error.value.kind is ErrorKind.RESOURCES

    @pytest.mark.parametrize("content", [b"", b"{}", b"hostile", b"[" * 10_000])
    def test_nothing_is_parsed_before_its_signature_holds(self, content, monkeypatch):
        def policy(key):
            return Policy(trusted_keys=[key], installed={}.get)

        with pytest.raises(NoGoError) as signed:
            check_flightworthy(
                content, [signature_file(ALICE.sign(content))], generation=1, policy=policy(ALICE.public)
            )
        assert signed.value.kind is ErrorKind.MANIFEST_INVALID
        monkeypatch.setattr("store.trust.go_no_go.parse", lambda _: pytest.fail("it was parsed"))
        with pytest.raises(NoGoError) as refused:
            check_flightworthy(
                content, [signature_file(ALICE.sign(content))], generation=1, policy=policy(BOB.public)
            )
        assert refused.value.kind is ErrorKind.SIGNATURE


def curve_points():
    """The y of all points whose order divides 8, from the curve's equation (RFC 8032, 5.1)."""
    prime, d = 2**255 - 19, -121665 * pow(121666, -1, 2**255 - 19) % (2**255 - 19)

    def doubled(x, y):
        denominator = d * x * x * y * y
        return (
            2 * x * y * pow(1 + denominator, -1, prime) % prime,
            (y * y + x * x) * pow(1 - denominator, -1, prime) % prime,
        )

    # (0, 1), (0, -1) and (+-root of -1, 0) have orders 1, 2 and 4. A point of order 8 doubles to y = 0, hence
    # x^2 = -y^2, and with that the curve's equation -x^2 + y^2 = 1 + d x^2 y^2 becomes d y^4 + 2 y^2 - 1 = 0.
    root, found = pow(2, (prime - 1) // 4, prime), {1, prime - 1, 0}
    assert root**2 % prime == prime - 1
    inner = pow(1 + d, (prime + 3) // 8, prime)
    for candidate in (inner, inner * root % prime):
        if candidate**2 % prime != (1 + d) % prime:
            continue
        for sign in (1, -1):
            square = (sign * candidate - 1) * pow(d, -1, prime) % prime
            y = pow(square, (prime + 3) // 8, prime)
            for each in (y, y * root % prime):
                x = each * root % prime
                if each**2 % prime == square and doubled(*doubled(*doubled(x, each))) == (0, 1):
                    found |= {each, prime - each}
    return found


class TestKeys:
    def test_keys_under_which_anybody_signs_are_refused(self):
        points = curve_points()
        assert points == signatures._SMALL_ORDER
        assert len(points) == 5
        prime = 2**255 - 19
        for y in {*points, prime, prime + 1}:
            for sign in (0, 1 << 255):
                with pytest.raises(ValueError, match="anybody can sign"):
                    TrustedKey((y | sign).to_bytes(32, "little"))

    @pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33, "k" * 32, 7, None, bytearray(b"k" * 32)])
    def test_what_is_no_key_is_a_reason(self, key):
        with pytest.raises(ValueError, match="expected an Ed25519 public key of 32 bytes"):
            TrustedKey(key)
        policy = Policy(trusted_keys=[ALICE.public, key], installed={}.get)
        with pytest.raises(NoGoError, match="trusted key 2: expected") as error:
            check_flightworthy(RAW, [SIGNED], generation=1, policy=policy)
        assert error.value.kind is ErrorKind.SIGNATURE

    @pytest.mark.parametrize(
        "keys", [ALICE.public, bytearray(32), {}, "keys/ground.pub", Path("ground.pub"), 7, None]
    )
    def test_something_else_is_no_list_of_keys(self, keys):
        with pytest.raises(NoGoError) as error:
            check_flightworthy(
                RAW,
                [SIGNED],
                generation=1,
                policy=Policy(trusted_keys=keys, installed={}.get),
            )
        assert len(error.value.reasons) == 1
        assert "expected a list of keys" in error.value.reasons[0]

    @pytest.mark.parametrize("bound", [-1, 1.5, "3", True])
    def test_bounds_are_generations(self, bound):
        with pytest.raises(ValueError, match="not_after"):
            TrustedKey(ALICE.public, bound)

    @pytest.mark.parametrize(
        ("text", "is_line"),
        [
            ("ab" * 32, True),
            (f"{'ab' * 32} not_after=3", True),
            (f" {'ab' * 32}\n", True),
            ("", False),
            ("keys.pub", False),
            ("ab" * 31, False),
        ],
    )
    def test_what_begins_as_a_line_of_keys_is_no_path(self, text, is_line):
        assert is_key_line(text) is is_line

    def test_a_file_of_keys(self):
        text = f"# fleet\n\r\n{ALICE.public.hex()}\t# al\u00edce,\u00a0station 7\r\n  {BOB.public.hex()} not_after=12\n"
        assert parse_keys(text) == (TrustedKey(ALICE.public), TrustedKey(BOB.public, 12))
        assert parse_keys("") == parse_keys("# nothing") == ()

    @pytest.mark.parametrize(
        "line",
        [
            "x",
            ALICE.public.hex()[:-1],
            ALICE.public.hex() + "0",
            ALICE.public.hex().upper() + "A",
            f"{ALICE.public.hex()} not_after=",
            f"{ALICE.public.hex()} not_after=-1",
            f"{ALICE.public.hex()} not_after=1.5",
            f"{ALICE.public.hex()} not_after=3 not_after=4",
            f"{ALICE.public.hex()} {BOB.public.hex()}",
            f"{ALICE.public.hex()} notafter=3",
            "00" * 32,
        ],
    )
    def test_a_file_of_keys_with_a_bad_line(self, line):
        with pytest.raises(ValueError, match="line 2: expected"):
            parse_keys(f"{BOB.public.hex()}\n{line}\nnonsense\n")

    @pytest.mark.parametrize("end", "\v\f\r\x1c\x1d\x1e\x85\u2028\u2029")
    def test_no_key_hides_in_a_comment(self, end):
        """Behind letters that end a line for Python, and that editors hardly show."""
        line = f"{ALICE.public.hex()} # station 6, retired{end}{BOB.public.hex()}\r\n"
        assert parse_keys(line) == (TrustedKey(ALICE.public),)
        with pytest.raises(ValueError, match="line 1: expected"):
            parse_keys(f"{ALICE.public.hex()}{end}{BOB.public.hex()}")

    @given(st.text())
    def test_key_files_are_read_or_refused(self, text):
        with suppress(ValueError):
            assert all(isinstance(key, TrustedKey) for key in parse_keys(text))
