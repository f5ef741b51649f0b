"""Kafka's topics as AsyncAPI 3, made of the types by which records are read and written."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from gateway.intake.topics import COMMANDS, DEAD_LETTERS, DIRECTORY, EVENTS, OUTCOMES, full_name
from gateway.intake.wire import Letter, Outcome
from handlers.directory.wire import DirectoryRecord
from handlers.events.wire import PublishRequest
from handlers.wallet.wire import Command

_REF: Final = "#/components/schemas/{name}"


class _Topic(NamedTuple):
    name: str
    action: str  # of the gateway
    record: Any
    key: str
    about: str


_TOPICS: Final = (
    _Topic(EVENTS, "receive", PublishRequest, "any; records of one key keep their order",
           "Events for users, or ephemeral ones for a live topic. A (source, id) seen before is a no-op."),
    _Topic(DIRECTORY, "receive", DirectoryRecord, "any; records of one key keep their order",
           "Users and videos. Fields left out keep their value; an older version changes nothing."),
    _Topic(COMMANDS, "receive", Command, "any; records of one key keep their order",
           "Awards, deductions, corrections. Whoever may write here makes money: guard it with Kafka's ACLs."),
    _Topic(OUTCOMES, "send", Outcome, "the command's source",
           "The answer to each command that could be read, refusals included; at least once."),
    _Topic(DEAD_LETTERS, "send", Letter, "the record's topic and partition",
           "What could not be read: no JSON, no or wrong fields, an unknown verb or kind, no value; at least once."),
)  # fmt: skip


def kafka_topics(prefix: str) -> dict[str, Any]:
    """The whole document; `prefix` begins the topics' names."""
    payloads, schemas = msgspec.json.schema_components([each.record for each in _TOPICS], ref_template=_REF)
    payloads = tuple(_plain(each) for each in payloads)
    channels, operations, messages = {}, {}, {}
    for topic, plain in zip(_TOPICS, payloads, strict=True):
        # Over HTTP the token says whose an event is; here nothing does.
        payload = {"allOf": [plain], "required": ["source"]} if topic.name == EVENTS else plain
        messages[topic.name] = {
            "summary": topic.about,
            "contentType": "application/json",
            "bindings": {"kafka": {"key": {"type": "string", "description": topic.key}}},
            "payload": payload,
        }
        channels[topic.name] = {
            "address": full_name(prefix, topic.name),
            "messages": {topic.name: {"$ref": f"#/components/messages/{topic.name}"}},
        }
        operations[topic.name] = {
            "action": topic.action,
            "summary": topic.about,
            "channel": {"$ref": f"#/channels/{topic.name}"},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Applause: Kafka",
            "version": "1",
            "description": "What backends and gateways write to Kafka.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": _plain(schemas)},
    }


def _plain(schema: Any) -> Any:
    """msgspec's schema as AsyncAPI has it: numbers for decimals, a discriminator that is a name, and patterns that end
    as JavaScript's do."""
    if isinstance(schema, list | tuple):
        return [_plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "decimal":
        return {"type": "number"}
    plain = {name: _plain(value) for name, value in schema.items()}
    if isinstance(plain.get("discriminator"), dict):
        plain["discriminator"] = plain["discriminator"]["propertyName"]
    if isinstance(plain.get("pattern"), str):
        plain["pattern"] = plain["pattern"].replace(r"\Z", "$")
    return plain
