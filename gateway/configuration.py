"""Where settings come from. The only reader of the environment.

A value is taken from the last of: its default, the TOML file of `--config`, the environment
(`APPLAUSE_SECTION__KEY`; a secret also from the file that `APPLAUSE_SECTION__KEY_FILE` names), a flag. A key that
nobody knows and a value out of bounds are errors that name it, since a limit that is silently not set is worse than
a server that does not start.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from gateway.consistency import contradictions
from gateway.settings import BadSettings, Broker, Origin, Section, Settings

PREFIX: Final = "APPLAUSE_"
WELL_KNOWN: Final = {
    "DATABASE_URL": "database.url",
    "REDIS_URL": "redis.url",
    "KAFKA_BOOTSTRAP_SERVERS": "kafka.bootstrap_servers",
}
SECRETS: Final = frozenset({"database.url", "redis.url", "auth.secret", "auth.previous_secret"})


class _Given(msgspec.Struct, frozen=True):
    """A value as somebody gave it, and how to name that place in a message."""

    value: Any
    place: str
    is_text: bool


def load(
    config: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings from all their places; `flags` by dotted key, None where a flag was not given.

    Raises BadSettings with every problem found.
    """
    problems: list[str] = []
    given: dict[str, _Given] = {}
    for values in (
        _from_file(config, problems),
        _from_environment(os.environ if environ is None else environ, problems),
        {key: _Given(value, _flag(key), False) for key, value in (flags or {}).items() if value is not None},
    ):
        given.update(values)
    converted = {key: _convert(key, each, problems) for key, each in given.items()}
    if problems:
        raise BadSettings(problems)
    settings = _assemble(converted)
    if problems := contradictions(settings):
        raise BadSettings(problems)
    return settings


def require_secret(settings: Settings) -> None:
    """Raise BadSettings where tokens are needed and none of their secrets can be made up (`migrate` needs none)."""
    if not (settings.auth.secret or settings.auth.jwks_url or settings.is_embedded):
        problem = "auth.secret: needed with DATABASE_URL (or auth.jwks_url), since all nodes must check tokens alike"
        raise BadSettings([problem])


def redacted(settings: Settings) -> Iterator[tuple[str, str]]:
    """Every key with its effective value, for people to read; secrets only say whether they are set."""
    for key in _types():
        section, _, name = key.rpartition(".")
        value = getattr(getattr(settings, section) if section else settings, name)
        if key in SECRETS:
            yield key, "(set)" if value else "(not set)"
        else:
            yield key, ",".join(value) if isinstance(value, tuple) else str(value)


def _flag(key: str) -> str:
    return "--" + key.rpartition(".")[2].replace("_", "-")


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "__")


def _types() -> dict[str, Any]:
    """Dotted key -> type, in the order of the Structs."""
    types: dict[str, Any] = {}
    for name, section in get_type_hints(Settings, include_extras=True).items():
        if isinstance(section, type) and issubclass(section, Section):
            fields = get_type_hints(section, include_extras=True)
            types.update({f"{name}.{field}": field_type for field, field_type in fields.items()})
        else:
            types[name] = section
    return types


def _from_file(config: Path | None, problems: list[str]) -> dict[str, _Given]:
    if config is None:
        return {}
    try:
        document = tomllib.loads(config.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{config}: {error}")
        return {}
    types = _types()
    sections = {key.partition(".")[0] for key in types if "." in key}
    found: dict[str, _Given] = {}
    for name, value in document.items():
        if name in sections and isinstance(value, dict):
            found.update({f"{name}.{field}": _Given(each, str(config), False) for field, each in value.items()})
        else:
            found[name] = _Given(value, str(config), False)
    unknown = [key for key in found if key not in types]
    problems += [f"{config}: unknown key {key}{_hint(key, [*types, *sections])}" for key in unknown]
    return {key: each for key, each in found.items() if key in types}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    keys = WELL_KNOWN | {_variable(key): key for key in _types()}  # the well-known first: ours win
    found: dict[str, _Given] = {}
    for variable, key in keys.items():
        if variable in environ:
            found[key] = _Given(environ[variable], variable, True)
        if key in SECRETS and (file := f"{variable}_FILE") in environ:
            if variable in environ:
                problems.append(f"{variable} and {file} are both set: one of them, please")
            elif (text := _read_secret(file, environ[file], problems)) is not None:
                found[key] = _Given(text, file, True)
    known = set(keys) | {f"{variable}_FILE" for variable, key in keys.items() if key in SECRETS}
    unknown = [name for name in sorted(environ) if name.startswith(PREFIX) and name not in known]
    problems += [f"unknown setting {name} in the environment{_hint(name, known)}" for name in unknown]
    return found


def _read_secret(variable: str, path: str, problems: list[str]) -> str | None:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{variable}: {error}")
        return None


def _hint(key: str, known: Iterable[str]) -> str:
    by_ending = {each.removeprefix(PREFIX): each for each in known}  # what all share would make all alike
    close = difflib.get_close_matches(key.removeprefix(PREFIX), by_ending, n=1, cutoff=0.7)
    return f"; did you mean {by_ending[close[0]]}?" if close else ""


def _convert(key: str, given: _Given, problems: list[str]) -> Any:
    """The value in its type, or a line in `problems` that never shows a secret."""
    value, expected = given.value, _types()[key]
    if given.is_text and get_origin(expected) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, expected, strict=not given.is_text)
    except msgspec.ValidationError as error:
        shown = "" if key in SECRETS else f" (it is {given.value!r})"
        problems.append(f"{given.place}: {key}: {_readable(expected, str(error))}{shown}")
        return None


def _readable(expected: Any, message: str) -> str:
    if Origin in get_args(expected):
        return "each origin is * or scheme://host[:port] without a path"
    if Broker in get_args(expected):
        return "each server is host:port"
    return message.replace("`", "").removesuffix(" - at $")


def _assemble(values: Mapping[str, Any]) -> Settings:
    sections: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (sections.setdefault(section, {}) if section else top)[name] = value
    types = get_type_hints(Settings)
    return Settings(**top, **{name: types[name](**fields) for name, fields in sections.items()})
