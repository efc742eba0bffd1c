"""Parameters of the chapters from the command line: plain YAML literals, their names checked before anything runs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from lpft_utils.common.errors import ParameterError
from lpft_utils.common.names import nearest

PROFILE_NAMES = ("smoke", "laptop", "gpu")
EDITIONS = ("instructor", "student")


def parse_literal(name: str, text: str) -> Any:
    """Read one value as a YAML literal: number, text, true/false, null, list or mapping of these.

    Args:
        name: Name of the parameter, for the error message.
        text: What was typed, such as `rte`, `3`, `1e-4`, `[0, 1, 2]` or `null`.

    Returns:
        The value as a plain Python object.

    Raises:
        ParameterError: The text is not valid YAML, or stands for something else, such as a date.
    """
    try:
        return json.loads(text)  # before YAML 1.1, to which 1e-4 is a text
    except ValueError:
        pass
    try:
        value = yaml.safe_load(text)
        json.dumps(value)  # fails for a date, a set, bytes
    except (yaml.YAMLError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(
            f"parameter {name}: expected a plain literal such as rte, 3, 1e-4, [0, 1] or null; got {text!r} ({reason})"
        ) from error
    return value


def parse_pairs(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Read name and value pairs from the command line.

    Args:
        pairs: (name, text of the value) pairs.

    Returns:
        Values by name.

    Raises:
        ParameterError: A name is given twice, or a value is no literal.
    """
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            raise ParameterError(f"parameter {name} is given twice; give it once")
        values[name] = parse_literal(name, text)
    return values


def check_names(known: Mapping[str, Sequence[str]], given: Mapping[str, Any]) -> None:
    """Check parameters against what the chapters declare.

    Args:
        known: Parameter names by chapter name.
        given: The parameters to inject.

    Raises:
        ParameterError: No chapter declares one of the names, or the profile is unknown.
    """
    everywhere = {name for names in known.values() for name in names}
    for name in given:
        if name not in everywhere:
            raise ParameterError(f"no chapter has a parameter {name!r}: {nearest(name, sorted(everywhere))}")
    profile = given.get("profile")
    if profile is not None and profile not in PROFILE_NAMES:
        raise ParameterError(f"unknown profile {profile!r}: {nearest(str(profile), PROFILE_NAMES)}")
