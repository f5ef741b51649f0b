"""What is documented of Kafka is what is read and written there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.__main__ import build
from gateway.asyncapi import kafka_topics
from gateway.intake.topics import READ, WRITTEN
from tests.gateway.intake.test_records import UNREADABLE
from tests.support.intake import command, event, user, video

DOCUMENT = kafka_topics("shop")
GIVEN: list[tuple[str, Any]] = [
    ("events", event(1, 2, ephemeral=True, eventType="a:b", timestamp="2026-01-01T00:00:00Z")),
    ("events", event(recipientIds=..., topic="live:x")),
    ("commands", command("award", 1, 1.5, action="refund", currency="LYK", metadata={"a": 1})),
    ("commands", command("deduct", 1, 1, action="withdrawal")),
    ("commands", command("correct", 1, -1)),
    ("directory", user(1, username="ann", displayName=None, roles=["viewer"], version=2)),
    ("directory", video("v", ownerId=1, title="V", version=1)),
]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Any = DOCUMENT
    for name in schema["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """As far as these schemas go."""
    schema = resolved(schema)
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    if "type" in schema and schema["type"] == "null":
        return value is None
    if "type" in schema and (
        not isinstance(value, kinds[schema["type"]]) or (value is True and schema["type"] != "boolean")
    ):
        return False
    one_of = [fits(value, each) for each in schema.get("anyOf", ())]
    whole = [fits(value, each) for each in schema.get("allOf", ())]
    length = len(value) if isinstance(value, str | list) else 0
    number = value if isinstance(value, int | float) else 0
    if (
        (one_of and not any(one_of))
        or not all(whole)
        or ("enum" in schema and value not in schema["enum"])
        or not schema.get("minLength", 0) <= length <= schema.get("maxLength", length)
        or not schema.get("minItems", 0) <= length <= schema.get("maxItems", length)
        or not schema.get("minimum", number) <= number <= schema.get("maximum", number)
        or ("pattern" in schema and not re.search(schema["pattern"], value))
    ):
        return False
    if isinstance(value, list):
        return all(fits(each, schema.get("items", {})) for each in value)
    if not isinstance(value, dict):
        return True
    properties = schema.get("properties", {})
    if set(schema.get("required", ())) - value.keys():
        return False
    if schema.get("additionalProperties") is False and value.keys() - properties.keys():
        return False
    return all(fits(value[name], properties[name]) for name in value.keys() & properties.keys())


def payload(topic: str) -> dict[str, Any]:
    [message] = DOCUMENT["channels"][topic]["messages"].values()
    return dict(resolved(message)["payload"])


def test_every_topic_is_there_with_who_writes_it() -> None:
    assert {name: each["address"] for name, each in DOCUMENT["channels"].items()} == {
        name: f"shop.{name}" for name in (*READ, *WRITTEN)
    }
    actions = {name: each["action"] for name, each in DOCUMENT["operations"].items()}
    assert actions == dict.fromkeys(READ, "receive") | dict.fromkeys(WRITTEN, "send")


@pytest.mark.parametrize(("topic", "record"), GIVEN)
def test_what_is_read_fits(topic: str, record: Any) -> None:
    assert fits(json.loads(json.dumps(record)), payload(topic))


SHAPES = [
    each for each in UNREADABLE if isinstance(each[1], dict) and each[2].startswith(("Object", "Invalid", "Expected"))
]
BEYOND_SHAPES = ("two decimals", "above 0", "other than 0", "bytes - at", "NUL")


@pytest.mark.parametrize(
    ("topic", "record", "reason"), [each for each in SHAPES if not any(w in each[2] for w in BEYOND_SHAPES)]
)
def test_what_can_t_be_read_for_its_shape_does_not_fit(topic: str, record: Any, reason: str) -> None:
    assert not fits(json.loads(json.dumps(record)), payload(topic)), reason


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLAUSE_KAFKA__PREFIX", "shop")
    printed = CliRunner().invoke(build(), ["schema", "asyncapi"])
    assert (printed.exit_code, json.loads(printed.stdout)) == (0, json.loads(json.dumps(DOCUMENT)))
