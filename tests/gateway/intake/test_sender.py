"""What a sender leaves behind."""

from __future__ import annotations

import os

import pytest

from fanout.kafka import Kafka, Topic
from gateway.intake.sender import NotSent, Sender
from tests.support.silence import in_silence


async def test_what_can_not_be_sent_takes_the_rest_with_it_in_silence(kafka: str) -> None:
    """The first is given up while nobody waits for it yet."""
    topic = f"sent-{os.getpid()}"
    await Kafka(kafka).ensure([Topic(topic, 1)])

    async def send_too_much() -> None:
        sender = Sender(Kafka(kafka), topic)
        with pytest.raises(NotSent, match="MessageSizeTooLargeError"):
            await sender.send([(b"k", b"x"), (b"k", b"x" * 2**21)])
        await sender.send([(b"k", b"x")])
        await sender.close()

    await in_silence(send_too_much)
