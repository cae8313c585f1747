"""Operator settings from a TOML file and from environment variables, as plain values.

What the settings are called and what they may be is decided by `pipeline.config`; here they are only read.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.config import C10ProvisionerConfig
from pipeline.errors import ErrorKind, RequestError
from pipeline.request.files import base_folder, read_request_text
from store.trust.signatures import is_key_line

_GIVEN_OTHERWISE = frozenset({"cache_root", "digest_cache_folder"})


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a file; key files that it names start from its own folder.

    Raises:
        RequestError: It cannot be read or is no TOML.
    """
    text = read_request_text(path, what="a settings file")
    try:
        return _from(base_folder(path), tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RequestError(
            f"{path}: expected TOML, found: {error}",
            hint="mend the settings file",
            kind=ErrorKind.REQUEST_UNREADABLE,
            subject=str(path),
        ) from error


def from_environment(variables: Mapping[str, str], *, prefix: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings among environment variables, and the names that are none.

    A text that is a TOML value, such as `4`, `2.5` or `false`, is taken as that value; any other as itself.
    """
    known = {item.name for item in fields(C10ProvisionerConfig)} - _GIVEN_OTHERWISE
    settings: dict[str, Any] = {}
    strange: list[str] = []
    for variable, text in sorted(variables.items()):
        name = variable.removeprefix(prefix).lower()
        if name in known:
            settings[name] = _value(text)
        else:
            strange.append(variable)
    return settings, tuple(strange)


def _from(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    def placed(value: object) -> object:
        if isinstance(value, list):
            return [placed(item) for item in value]
        return str(folder / value) if isinstance(value, str) and value and not is_key_line(value) else value

    keys = {name: placed(settings[name]) for name in ("signing_key", "trusted_keys") if name in settings}
    return settings | keys


def _value(text: str) -> Any:  # noqa: ANN401 - whatever the text says
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed.get("value")
    return value if len(parsed) == 1 and isinstance(value, (bool, int, float, str)) else text
