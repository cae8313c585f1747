"""Runs beside one version of the library: reads names from standard input, says which of them it lacks."""

import importlib
import json
import sys

module = importlib.import_module(sys.argv[1])
missing = []
for kind, name, keywords in json.load(sys.stdin):
    owner = {"module": module, "Severity": module.ILogger.Severity}.get(kind) or getattr(module, kind, None)
    there = hasattr(owner, name) or name in getattr(owner, "__members__", ())
    words = getattr(getattr(owner, name, None), "__doc__", None) or ""
    if not there or any(f"{keyword}:" not in words for keyword in keywords):
        missing.append([kind, name, *keywords])
json.dump({"version": module.__version__, "missing": sorted(missing)}, sys.stdout)
