"""Builds in a process of its own, so that a test may trace it, watch it or kill it.

Usage: build_child.py ROOT [ACTION]..., with ROOT a `Site` and each action a JSON object: {"do": "build", ...request},
{"do": "rollback"} or {"do": "rename", "from": ..., "to": ...}. Says on standard output, line by line, which step
begins ("step embed"), moves on ("more embed") and ends ("done embed"), and what came of each action.

Windows are small and finished cells are recorded one by one, so that a build of forty tiles can be caught in the
middle; `pace` is a pause in seconds after each window.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.embed.batcher import LocalDescriptorBatcher
from pipeline.embed.cells import plan_windows
from pipeline.stages import context as pipeline_run
from pipeline.testing import RecordingProgress
from tests.small_builds import Site

WINDOW = 4


class Talking(RecordingProgress):
    def start(self, step, *, total, unit):
        super().start(step, total=total, unit=unit)
        self.tell("step", step)

    def advance(self, amount=1, *, phase=""):
        super().advance(amount)
        self.tell("more", self.steps[-1][0])

    def finish(self, note=""):
        super().finish(note)
        self.tell("done", self.steps[-1][0])

    @staticmethod
    def tell(what, step):
        print(what, step.partition(" ")[0], flush=True)


class Paced:
    """Real workers, whose results are taken slowly."""

    def __init__(self, pace):
        self.pace, self.real = pace, LocalDescriptorBatcher(workers=2)

    def embed(self, windows, **options):
        for result in self.real.embed(windows, **options):
            yield result
            time.sleep(self.pace)


def act(site, action):
    match action.pop("do"):
        case "build":
            ports = {"descriptor_batcher": Paced(action.pop("pace", 0.0)), "progress": Talking()}
            report = site.provisioner(**ports).build_cache_artifacts(site.request(**action))
            return {**report.to_document(), "subject": report.error.subject if report.error else None}
        case "rollback":
            return site.provisioner().rollback().to_document()
        case "rename":
            os.rename(action["from"], action["to"])
            return {}


def main(root, *actions):
    plan_windows.__kwdefaults__["size"] = WINDOW
    pipeline_run._GROUP_EVENTS = 1
    site = Site(root)
    print("ready", os.getpid(), flush=True)
    for action in actions:
        try:
            print("report", json.dumps(act(site, json.loads(action))), flush=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test wants to know
            print("error", json.dumps([type(error).__name__, str(error)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
