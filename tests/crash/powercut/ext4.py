"""Power cuts of a real ext4: the file system drops dead in an instant, and recovers when it is mounted again.

    python -m tests.crash.powercut.ext4 --cuts 400

A writer builds and rolls back on a loop-mounted image. After a random number of acknowledgements and a random pause it
is stopped, and the ioctl that file system tests use shuts ext4 down without flushing its journal: whatever was not
synced is gone. Needs root.
"""

import argparse
import fcntl
import json
import os
import random
import struct
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.powercut.farm import until_told
from tests.crash.powercut.rig import Served, blank, fresh, judged, mounted, report, sh, unable, unmount

FS_IOC_SHUTDOWN = 0x8004587D
"""_IOR('X', 125, __u32) of include/uapi/linux/fs.h, which ext4 shares."""

NO_LOG_FLUSH = 2
MOST_ACKNOWLEDGED = 60
LONGEST_PAUSE_S = 0.004
DURING_BIRTH, BIRTH_S = 0.2, 0.06
"""So many cuts do not wait for anything, but at most so long."""


def cut(image, folder, dice, *, bug="", options=()):
    """One power cut; returns what is wrong afterwards, or nothing."""
    at = folder / "mount"
    at.mkdir(exist_ok=True)
    sh("mount", "-o", ",".join(("loop", *options)), image, at)
    top = at / "top"
    try:
        top.mkdir()
        os.sync()
        served = Served(top, bug=bug)
        if dice.random() < DURING_BIRTH:
            time.sleep(dice.random() * BIRTH_S)
        else:
            served.until(dice.randrange(1, MOST_ACKNOWLEDGED))
            time.sleep(dice.random() * LONGEST_PAUSE_S)
        served.stop()
        fd = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        os.close(fd)
        promise = served.end()
    finally:
        unmount(at)
    image = fresh(image)
    try:
        with mounted(image, at, *options):
            return judged(top, promise), promise
    finally:
        image.unlink()


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--options", default="", help="mount options, such as data=journal")
    parser.add_argument("--bug", default="")
    parser.add_argument("--work", default=None, help="folder for images; by default in memory")
    options = parser.parse_args(arguments)
    if reason := unable():
        sys.stdout.write(json.dumps({"skipped": reason}) + "\n")
        return 0
    began, dice, found, acknowledged = time.monotonic(), random.Random(options.seed), [], 0
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    work = options.work or memory
    with until_told() as told, tempfile.TemporaryDirectory(dir=work, prefix="c10-ext4-") as name:
        folder = Path(name)
        image = blank(folder)
        for _ in range(options.cuts):
            sh("cp", "--sparse=always", image, folder / "image")
            mount_options = tuple(word for word in options.options.split(",") if word)
            wrong, promise = cut(folder / "image", folder, dice, bug=options.bug, options=mount_options)
            found.append(wrong)
            acknowledged += promise.seq > 0
    return report(
        found,
        after_an_acknowledgement=acknowledged,
        seed=options.seed,
        options=options.options,
        bug=options.bug,
        **told,
        seconds=round(time.monotonic() - began, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
