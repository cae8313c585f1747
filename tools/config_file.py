"""Read operator settings from a TOML file and from environment variables.

`pipeline.config` defines the settings and checks their values.
"""

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.config import C10ProvisionerConfig
from pipeline.errors import ErrorKind, RequestError
from pipeline.request.files import base_folder, read_request_text
from store.toml import tomllib
from store.trust.signatures import is_key_line

_NOT_SETTINGS = frozenset({"cache_root", "digest_cache_folder"})


def read_settings(path: Path, *, overridden: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings in a file but those that something overrides. Paths of key files are relative to its folder.

    Raises:
        RequestError: It cannot be read, is not TOML, or a setting in it is unknown, mistyped or out of its range.
    """
    text = read_request_text(path, what="a settings file")
    try:
        settings = _resolve_key_paths(base_folder(path), tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RequestError(
            f"{path}: expected TOML, found: {error}",
            hint="fix the settings file",
            kind=ErrorKind.REQUEST_UNREADABLE,
            subject=str(path),
        ) from error
    settings = {name: value for name, value in settings.items() if name not in overridden}
    try:
        C10ProvisionerConfig.from_settings(settings, cache_root=Path())
    except RequestError as error:
        raise RequestError(
            f"{path}: {error.message}", hint=error.hint, kind=error.kind, subject=str(path)
        ) from None
    return settings


def from_environment(
    variables: Mapping[str, str], *, prefix: str, overridden: Collection[str] = ()
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings in environment variables but those that something overrides, and variables that are no settings.

    A text that is a TOML value, such as `4`, `2.5` or `false`, is read as that value, any other text as a
    string. An empty variable counts as not set.

    Raises:
        RequestError: A value is mistyped or out of its range; the message begins with the variable.
    """
    known = {item.name for item in fields(C10ProvisionerConfig)} - _NOT_SETTINGS
    settings: dict[str, Any] = {}
    unknown: list[str] = []
    for variable, text in sorted(variables.items()):
        name = variable.removeprefix(prefix).lower()
        if not text or name in overridden:
            continue
        if name not in known:
            unknown.append(variable)
            continue
        settings[name] = _parse_value(text)
        try:
            C10ProvisionerConfig.from_settings({name: settings[name]}, cache_root=Path())
        except RequestError as error:
            raise RequestError(
                f"{variable}: {error.message}",
                hint="change the variable, or unset it",
                kind=error.kind,
                subject=variable,
            ) from None
    return settings, tuple(unknown)


def _resolve_key_paths(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    def resolve(value: object) -> object:
        if isinstance(value, list):
            return [resolve(item) for item in value]
        return str(folder / value) if isinstance(value, str) and value and not is_key_line(value) else value

    keys = {name: resolve(settings[name]) for name in ("signing_key", "trusted_keys") if name in settings}
    return settings | keys


def _parse_value(text: str) -> Any:  # noqa: ANN401 - any TOML value
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed.get("value")
    return value if len(parsed) == 1 and isinstance(value, (bool, int, float, str)) else text
