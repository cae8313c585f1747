"""Read and write key files: the private key of a ground station, and the trusted public keys.

A private key must be a regular file that nobody else may read, outside of the cache it signs, Ed25519 and not
encrypted. Trusted keys must be outside of the cache that they verify, in a file that not everybody may write
to. The aircraft does not need this module: its keys may come from anywhere.
"""

import contextlib
import os
import resource
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from store.base.valueclass import valueclass
from store.errors import ErrorKind, RequestRefusedError, from_os_error
from store.files.regular_file import NotRegularError, open_regular, sync_folder
from store.trust.signatures import Signer, TrustedKey, is_key_line, key_id, parse_keys

_MAX_PRIVATE: Final = 16 << 10
_MAX_TRUSTED: Final = 1 << 20
_KEYGEN_HINT: Final = "c10 keygen -o NAME (makes one)"


@valueclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A new key pair: its two files, and the public key."""

    private: Path
    public: Path
    public_bytes: bytes

    @property
    def key_id(self) -> str:
        """The id of the key in signature files."""
        return key_id(self.public_bytes)


def load_signer(path: Path, *, cache: Path) -> Signer:
    """Read the private key that signs for a cache. From then on this process writes no core file.

    Raises:
        RequestRefusedError: It is missing, not secret, inside the cache, or no usable key.
    """
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - only where a key is used
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 - as above

    data, status, where = _read_key_file(path, "signing_key", limit=_MAX_PRIVATE)
    if _is_public(data):
        raise _refused(
            f"signing_key: expected a private key in {path}, found a public one",
            f"name the private key: {path.with_suffix('') if path.suffix == '.pub' else 'that of NAME.pub is NAME'}",
        )
    if status.st_mode & 0o077:
        raise _refused(
            f"signing_key: expected {path} to be its owner's alone, found mode {stat.S_IMODE(status.st_mode):04o}",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    _refuse_within("signing_key", path, where, cache)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        private = load_pem_private_key(data, None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        found = "an encrypted one" if isinstance(error, TypeError) else "something else"
        raise _refused(
            f"signing_key: expected a PKCS8 PEM file with a private key in {path}, found {found}",
            _KEYGEN_HINT,
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise _refused(
            f"signing_key: expected an Ed25519 key in {path}, found {type(private).__name__.strip('_')}",
            _KEYGEN_HINT,
        )
    return Signer.of(private)


def read_trusted(entries: Sequence[str], *, cache: Path | None = None) -> tuple[TrustedKey, ...]:
    """Read trusted keys.

    Args:
        entries: Each a line of a key file (`HEX [not_after=N]`), or the path of such a file.
        cache: The cache that they verify; their files must be outside of it.

    Raises:
        RequestRefusedError: An entry is no key, cannot be read, or may have been written by anybody.
    """
    keys = list[TrustedKey]()
    for entry in entries:
        if "\n" in entry and not is_key_line(entry):  # no message may quote it: it may be a private key
            raise _refused(
                f"trusted_keys: expected a path or the line of a key, found {len(entry):,} characters in several lines",
                "name NAME.pub, as c10 keygen writes it",
            )
        text, name = (
            (entry, "trusted key")
            if is_key_line(entry)
            else (_read_trusted_keys_file(Path(entry), cache), entry)
        )
        try:
            found = parse_keys(text)
        except ValueError as error:
            raise _refused(f"{name}: {'; '.join(str(error).splitlines()[:5])}", "fix the key file") from error
        if not found:
            raise _refused(
                f"{name}: expected at least one key, found none", "put the line of NAME.pub into it"
            )
        keys.extend(found)
    return tuple(keys)


def write_key_pair(path: Path, *, comment: str = "") -> KeyPair:
    """Create a key pair: `path` for the private key, mode 0600, and `path`.pub for the public one.

    The public file holds one line in the format of trusted key files.

    Raises:
        RequestRefusedError: One of the names is taken, or is in a cache; nothing was written.
        CacheUnusableError: The folder cannot be written.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - only where a key is made
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - as above

    folder = Path(os.path.realpath(path.parent))
    if any((above / "journal.mdb").exists() for above in (folder, *folder.parents)):
        raise _refused(
            f"expected a folder outside of any cache for a private key, found {folder}", "name another folder"
        )
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    printable = " ".join("".join(letter for letter in comment if letter.isprintable()).split())
    line = f"{public.hex()}  # c10 key {key_id(public)}{', ' + printable if printable else ''}\n"
    pair = KeyPair(private=path, public=path.with_name(path.name + ".pub"), public_bytes=public)
    with contextlib.ExitStack() as cleanup:
        for target, data, mode in ((pair.private, secret, 0o600), (pair.public, line.encode(), 0o644)):
            _create_file(target, data, mode, cleanup)
        cleanup.pop_all()
    return pair


def _create_file(path: Path, data: bytes, mode: int, cleanup: contextlib.ExitStack) -> None:
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        cleanup.callback(path.unlink)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(fd)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise _refused(
            f"expected {path} to be free, found a file: keys are never overwritten", "choose another NAME"
        ) from error
    except OSError as error:
        raise from_os_error(error, f"key file {path}") from error


def _read_trusted_keys_file(path: Path, cache: Path | None) -> str:
    data, status, where = _read_key_file(path, "trusted_keys", limit=_MAX_TRUSTED)
    if status.st_mode & stat.S_IWOTH:
        raise _refused(
            f"trusted_keys: expected {path} to be safe, found that anybody may write to it",
            f"chmod o-w {shlex.quote(str(path))}",
        )
    if cache is not None:
        _refuse_within("trusted_keys", path, where, cache)
    if b"PRIVATE KEY-----" in data:  # no message may quote a line of it
        raise _refused(
            f"trusted_keys: expected public keys in {path}, found a private one",
            f"name the public key: {path}.pub, as c10 keygen writes it",
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(
            f"trusted_keys: expected a text file, found other bytes in {path}", "name a file of keys"
        ) from error


def _is_public(data: bytes) -> bool:
    """Return whether a file holds a public key, in PEM or as the line of a key file."""
    if b"PUBLIC KEY-----" in data:
        return True
    try:
        return bool(parse_keys(data.decode("utf-8")))
    except ValueError:
        return False


def _read_key_file(path: Path, what: str, *, limit: int) -> tuple[bytes, os.stat_result, Path]:
    """Return the content of a regular file, its status, and its path with all links resolved."""
    try:
        fd = open_regular(path, follow_symlinks=True)
    except NotRegularError as error:
        raise _no_key_file(path, what, limit) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _refused(
            f"{what}: expected a readable file, found {path}: {reason}", "fix its path or permissions"
        ) from error
    try:
        status = os.fstat(fd)
        if status.st_size > limit:
            raise _no_key_file(path, what, limit)
        return os.pread(fd, limit + 1, 0), status, Path(f"/proc/self/fd/{fd}").readlink()
    except OSError as error:
        raise _refused(
            f"{what}: expected a readable file, found {path}: {error.strerror}", "check the disk"
        ) from error
    finally:
        os.close(fd)


def _no_key_file(path: Path, what: str, limit: int) -> RequestRefusedError:
    found = f"expected a file of at most {limit:,} bytes, found something else: {path}"
    return _refused(f"{what}: {found}", "name a key file")


def _refuse_within(what: str, path: Path, where: Path, cache: Path) -> None:
    if where.is_relative_to(os.path.realpath(cache)):
        raise _refused(
            f"{what}: expected a file outside of the cache, found {path} in it: a copy of the cache would contain it",
            "move it out of the cache",
        )


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401, PLC0415 - only where a key is used
    except ImportError as error:
        raise _refused(
            f"expected the package cryptography to use keys, found none: {error}",
            "python -m pip install cryptography",
        ) from error


def _refused(message: str, hint: str) -> RequestRefusedError:
    return RequestRefusedError(message, kind=ErrorKind.KEY, hint=hint)
