"""Feed every decoder with inputs that are almost right.

    python -m tests.crash.fuzz.run --records 1000000 --manifests 100000 --requests 100000 --images 20000 \\
        --archives 10000 --networks 2000

Only the project's own errors may come out, within bounded memory and time. Prints one JSON object.
"""

import argparse
import collections
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback

from tests.crash.fuzz.targets import TARGETS
from tests.crash.powercut.farm import run, until_told

GATE = {
    "records": 12_000,
    "manifests": 4000,
    "requests": 1500,
    "images": 1500,
    "archives": 250,
    "networks": 400,
    "segments": 1500,
    "tables": 1500,
    "vectors": 1500,
    "bundles": 800,
    "haves": 800,
    "imports": 150,
}
SLOW_S = 10
MORE_MEMORY = 3 << 30
BATCH = 200
"""Inputs per answer of a worker."""

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def work(name, count, seed):
    """A worker: every so-manyth batch of inputs; yields counts, and what went wrong."""

    def batches(number, done, workers):
        def slow(*_):
            raise TimeoutError(f"longer than {SLOW_S} s")

        signal.signal(signal.SIGALRM, slow)
        with tempfile.TemporaryDirectory(dir=MEMORY, prefix="c10-fuzz-") as folder:
            target = TARGETS[name](folder)
            for seed_input in target.seeds:
                target.feed(seed_input)
            _limit_memory()
            for at in range(number + done * workers, (count + BATCH - 1) // BATCH, workers):
                yield _batch(target, random.Random(f"{name} {seed} {at}"), min(BATCH, count - at * BATCH))

    return batches


def _limit_memory():
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, hard))


def _batch(target, dice, count):
    accepted, refused, wrong = 0, collections.Counter(), []
    for _ in range(count):
        data = target.change(dice.choice(target.seeds), target.seeds, dice)
        signal.alarm(SLOW_S)
        try:
            target.feed(data)
            accepted += 1
        except target.errors as error:
            refused[type(error).__name__] += 1
        except Exception:  # noqa: BLE001 - that is what is looked for
            wrong.append({"input": data[:4000].hex(), "failed": traceback.format_exc()[-900:]})
        finally:
            signal.alarm(0)
    return {"accepted": accepted, "refused": refused, "wrong": wrong}


def main(arguments=None):
    parser = argparse.ArgumentParser()
    for name in TARGETS:
        parser.add_argument(f"--{name}", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    asked = {name: getattr(options, name) for name in TARGETS}
    counts = (
        GATE
        if all(count is None for count in asked.values())
        else {name: n for name, n in asked.items() if n}
    )
    answer, failures = {}, []
    with until_told() as told:
        for name, count in counts.items():
            began = time.monotonic()
            found = answer[name] = {"inputs": 0, "accepted": 0, "refused": collections.Counter()}
            for result in run(work(name, count, options.seed), workers=options.workers):
                wrong = result.get("wrong", [result])
                failures += [{"target": name, **each} for each in wrong]
                found["accepted"] += result.get("accepted", 0)
                found["refused"].update(result.get("refused", {}))
                found["inputs"] = found["accepted"] + found["refused"].total() + len(wrong)
                found["seconds"] = round(time.monotonic() - began, 1)
    told |= {"targets": answer, "failures": len(failures), "examples": failures[:8], "seed": options.seed}
    json.dump(told, sys.stdout)
    sys.stdout.write("\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
