"""The keys of one machine: the one that signs what it commits, and those that it trusts."""

from pipeline.config import C10ProvisionerConfig
from store.backports import Self
from store.base.cache_warning import CacheWarning
from store.base.valueclass import valueclass
from store.disk.layout import Layout
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.trust.key_files import load_signer, read_trusted
from store.trust.signatures import Signer, TrustedKey, parse_trusted_keys


@valueclass(frozen=True, slots=True, kw_only=True)
class MachineKeys:
    """The key that signs, if any; and the trusted keys as they are configured."""

    signer: Signer | None
    trusted: TrustedKeys

    @classmethod
    def load(cls, config: C10ProvisionerConfig, layout: Layout, *, signing: bool = True) -> Self:
        """Read the configured keys, without the one that signs if `signing` is off.

        Raises:
            RequestRefusedError: A key file cannot be used.
        """
        key, trusted = config.signing_key if signing else None, config.trusted_keys
        return cls(
            signer=None if key is None else load_signer(key, cache=layout.root),
            trusted=read_trusted(trusted, cache=layout.root) if trusted else ALLOW_UNSIGNED,
        )

    @property
    def own(self) -> TrustedKey | None:
        """The public key of the one that signs."""
        return None if self.signer is None else TrustedKey(self.signer.public)

    @property
    def reused(self) -> tuple[TrustedKey, ...]:
        """The keys whose builds' results are reused: the one that signs, and the trusted ones."""
        return (*(() if self.own is None else (self.own,)), *self._trusted())

    @property
    def warnings(self) -> tuple[CacheWarning, ...]:
        """A warning if the ground commands of this machine refuse what its key signs."""
        own, trusted = self.own, {key.public for key in self._trusted()}
        if own is None or not trusted or own.public in trusted:
            return ()
        return (
            CacheWarning(
                kind="signing-key-untrusted",
                message=f"signing_key: expected {own.key_id} among trusted_keys, found other ones: "
                "c10 verify refuses what it signs",
                hint="add its .pub to trusted_keys in c10.toml",
            ),
        )

    def _trusted(self) -> tuple[TrustedKey, ...]:
        return () if self.trusted is ALLOW_UNSIGNED else parse_trusted_keys(self.trusted)
