"""Sites whose generations are signed: one of fakes, and one with chunks, a proof and carried tiles."""

from pathlib import Path

from store.trust.key_files import write_key_pair
from tests.proven_builds import ProvenSite
from tests.small_builds import FakeSite, tiny_network, words


class Signed:
    """A site with a key of its own beside the cache."""

    def __init__(self, root, **options):
        super().__init__(root, **options)
        self.key = self.root / "key"
        if not self.key.exists():
            write_key_pair(self.key)
        self.key.chmod(0o600)
        line = Path(f"{self.key}.pub").read_text(encoding="ascii")
        self.trusted_keys = (bytes.fromhex(line.split()[0]),)

    def provisioner(self, **ports):
        return super().provisioner(**({"signing_key": self.key} | ports))


class SignedSite(Signed, FakeSite):
    """A signed site whose ports are fakes."""

    def settle(self):
        """The tiles after `grown`."""
        self.tiles[6, 0, 12] = words(4711)


def grown(top):
    """A site with four generations: two builds, a rollback, another build with another network."""
    site = SignedSite(top)
    numbers = [site.build().generation]
    site.settle()
    numbers.append(site.build(flight_id="f2").generation)
    numbers.append(site.provisioner().rollback().generation)
    site.write("net2.onnx", tiny_network(seed=5))
    numbers.append(site.build(flight_id="f4", network="net2.onnx").generation)
    assert numbers == [1, 2, 3, 4]
    return site


class SignedProvenSite(Signed, ProvenSite):
    """A signed site that finds places and carries tiles."""


def grown_proven(top):
    """A site with four generations: two builds over different ground, a rollback, another build."""
    site = SignedProvenSite(top)
    numbers = [site.build().generation]
    site.change_ground(3)
    numbers.append(site.build(flight_id="f2").generation)
    numbers.append(site.provisioner().rollback().generation)
    site.change_ground(4)
    numbers.append(site.build(flight_id="f4").generation)
    assert numbers == [1, 2, 3, 4]
    return site
