"""Power cuts below ext4: blocks that were written and not flushed arrive in any order, in part, or not at all.

    python -m tests.crash.powercut.blocks --cuts 1500

A FUSE file records every block write and every flush; ext4 on a loop device sits on top of it, and a writer on that.
A state is all writes before the last flush that ended before the cut, and of those after it any subset, some of them
torn between sectors. Each is mounted, so that ext4 recovers itself first, and then the cache has to. Needs root,
/dev/fuse and the package mfusepy with libfuse.
"""

import argparse
import errno
import json
import os
import random
import stat
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.powercut import writer
from tests.crash.powercut.farm import until_told
from tests.crash.powercut.judge import Past
from tests.crash.powercut.rig import IMAGE_BYTES, judged, mounted, promise_of, report, sh, unable, unmount

_HEAD = struct.Struct("<cQI")
WRITE, FLUSH, TOLD = b"w", b"f", b"t"
SECTOR = 512
TORN = 0.3
START_S = 300.0
"""How long the file system with the recording may take to start; a machine that is busy has taken 10 s."""


def unable_here():
    """Why this machine cannot run this rig, or nothing."""
    if reason := unable():
        return reason
    if not Path("/dev/fuse").exists():
        return "needs /dev/fuse"
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as error:
        return f"needs mfusepy and libfuse3 ({error})"
    return None


def serve(at, log):
    """Be the file system with the recording file; returns when it is unmounted."""
    import mfusepy

    disk = bytearray(IMAGE_BYTES)
    sizes = {"/disk": IMAGE_BYTES, "/promises": 0}

    class Recorder(mfusepy.Operations):
        use_ns = True

        def __init__(self, out):
            self.out = out

        def getattr(self, path, fh=None):
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path in sizes:
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": sizes[path]}
            raise mfusepy.FuseOSError(errno.ENOENT)

        def readdir(self, path, fh):
            return [".", "..", "disk", "promises"]

        def open(self, path, flags):
            return 1

        def read(self, path, size, offset, fh):
            return bytes(disk[offset : offset + size])

        def write(self, path, data, offset, fh):
            if path == "/disk":
                disk[offset : offset + len(data)] = data
            else:
                sizes[path] = max(sizes[path], offset + len(data))
            kind = WRITE if path == "/disk" else TOLD
            self.out.write(_HEAD.pack(kind, offset, len(data)) + data)
            return len(data)

        def truncate(self, path, length, fh=None):
            return 0

        def fsync(self, path, datasync, fh):
            if path == "/disk":
                self.out.write(_HEAD.pack(FLUSH, 0, 0))
            return 0

        def flush(self, path, fh):
            return 0

        def release(self, path, fh):
            return 0

    with open(log, "wb", buffering=0) as out:
        mfusepy.FUSE(Recorder(out), str(at), foreground=True, nothreads=True)


def recorded(folder, bug):
    """Run a writer on recorded blocks; returns the log, where the writer began in it, and what happened."""
    device, at, log = folder / "device", folder / "mount", folder / "log"
    device.mkdir()
    at.mkdir()
    server = subprocess.Popen([sys.executable, "-m", __spec__.name, "--serve", str(device), str(log)])
    try:
        ends = time.monotonic() + START_S
        while not os.path.ismount(device) and server.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)
        sh("mkfs.ext4", "-q", "-F", device / "disk")
        with mounted(device / "disk", at):
            (at / "top").mkdir()
            os.sync()
            began = log.stat().st_size
            command = [
                sys.executable,
                writer.__file__,
                "generations",
                str(at / "top"),
                str(device / "promises"),
            ]
            sh(*command, *([bug] if bug else []))
            ended = log.stat().st_size
            past = Past.of(at / "top" / "cache")
    finally:
        unmount(device)
        server.wait(timeout=30)
    return entries(log.read_bytes()), began, ended, past


def entries(data):
    """(place behind it, kind, offset, bytes) of every entry of a log."""
    found, at = [], 0
    while at < len(data):
        kind, offset, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size + size
        found.append((at, kind, offset, data[at - size : at]))
    return found


def states(log, first, last, dice, count):
    """Images after cuts at random places, in the order of the places, each with what was promised there."""
    base, done, told = bytearray(IMAGE_BYTES), 0, b""
    for cut in sorted(dice.randrange(first, last + 1) for _ in range(count)):
        flush = max((place for place in range(cut) if log[place][1] == FLUSH), default=0)
        for _, kind, offset, data in log[done:flush]:
            if kind == WRITE:
                base[offset : offset + len(data)] = data
        done = max(done, flush)
        told = b"".join(data for _, kind, _, data in log[:cut] if kind == TOLD)
        image, share = bytearray(base), dice.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        for _, kind, offset, data in log[flush:cut]:
            if kind == WRITE and dice.random() < share:
                for begin, end in _kept(len(data), dice):
                    image[offset + begin : offset + end] = data[begin:end]
        yield image, promise_of(told.decode())


def _kept(size, dice):
    """Which parts of a block write arrive."""
    sectors = size // SECTOR
    if sectors < 2 or dice.random() >= TORN:
        return [(0, size)]
    if dice.random() < 0.5:
        cut = SECTOR * dice.randrange(1, sectors)
        return [(0, cut)] if dice.random() < 0.5 else [(cut, size)]
    return [(SECTOR * n, SECTOR * (n + 1)) for n in range(sectors) if dice.random() < 0.5]


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bug", default="")
    parser.add_argument("--serve", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(*options.serve)
        return 0
    if reason := unable_here():
        sys.stdout.write(json.dumps({"skipped": reason}) + "\n")
        return 0
    began, found, unmountable = time.monotonic(), [], 0
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with until_told() as told, tempfile.TemporaryDirectory(dir=memory, prefix="c10-blocks-") as name:
        folder = Path(name)
        log, start, end, past = recorded(folder, options.bug)
        first = sum(entry[0] <= start for entry in log)
        last = sum(entry[0] <= end for entry in log)
        cuts = states(log, first, last, random.Random(options.seed), options.cuts)
        for number, (image, promise) in enumerate(cuts):
            # A file of its own for each: see `fresh` of the rig.
            disk = folder / f"image-{number}"
            disk.write_bytes(image)
            try:
                with mounted(disk, folder / "mount"):
                    found.append(judged(folder / "mount" / "top", promise, past))
            except RuntimeError:
                unmountable += 1
            disk.unlink()
    return report(
        found,
        block_writes=sum(entry[1] == WRITE for entry in log[first:last]),
        flushes=sum(entry[1] == FLUSH for entry in log[first:last]),
        unmountable=unmountable,
        seed=options.seed,
        bug=options.bug,
        **told,
        seconds=round(time.monotonic() - began, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
