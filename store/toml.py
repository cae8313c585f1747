"""The parser of TOML: `tomllib`, which is in Python from 3.11 on and in the package `tomli` before. Pure."""

import sys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["tomllib"]
