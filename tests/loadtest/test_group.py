"""What those who look at a busy group's chat say and find, and how its windows are laid out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from loadtest.crew import Door, Share
from loadtest.figures import Figure, Sample
from loadtest.histogram import of
from loadtest.phone import Address
from loadtest.scenarios.group import GroupJob, Looker, Seen, TalkPart, order_of, together

DOOR = Door(Address("127.0.0.1", 1, b'42["resumed"'))


class Line:
    """A transport that keeps the texts that are written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data[data.index(b"4") :])


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def part() -> TalkPart:
    return TalkPart(GroupJob(first_user=1, videos=1, conversation="c", run="r"), DOOR, Share())


@pytest.fixture
def looker(part: TalkPart, line: Line) -> Looker:
    """One whose chat is open."""
    phone = Looker(part, 9, "c")
    phone.connection_made(line)  # type: ignore[arg-type]
    phone.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    line.written.clear()
    return phone


def say(phone: Looker, text: str) -> None:
    phone.data_received(
        b"\x81" + (bytes((len(text),)) if len(text) < 126 else b"\x7e\x00" + bytes((len(text),))) + text.encode()
    )


def received(number: int) -> str:
    data = {"conversationId": "c", "messageId": f"m{number}", "number": number}
    event: dict[str, Any] = {"seq": None, "type": "message_received", "data": data}
    return f"42{msgspec.json.encode(['notification', event]).decode()}"


def reading(number: int) -> bytes:
    return b'421["message:read",{"conversationId":"c","messageId":"m%d"}]' % number


def test_the_newest_is_read_whenever_the_last_word_was_taken(looker: Looker, line: Line, part: TalkPart) -> None:
    for number in (1, 2, 3):
        say(looker, received(number))
    assert line.written == [reading(1)]
    say(looker, '431[{"ok":true,"data":{"number":1,"unreadCount":2}}]')
    say(looker, '431[{"ok":true,"data":{"number":3,"unreadCount":0}}]')
    assert line.written == [reading(1), reading(3)]
    assert (part.reads, part.heard.count, part.heard.broken, part.count.faults) == (2, 3, 0, 0)


@pytest.mark.parametrize("numbers", [(1, 1), (2, 1)])
def test_a_message_that_comes_twice_or_too_late_is_a_fault(
    looker: Looker, part: TalkPart, numbers: tuple[int, int]
) -> None:
    for number in numbers:
        say(looker, received(number))
    assert part.heard.broken == 1


@pytest.mark.parametrize(("code", "faults"), [("overloaded", 0), ("forbidden", 1)])
def test_a_word_that_is_not_taken_is_a_fault_unless_that_passes(
    looker: Looker, part: TalkPart, code: str, faults: int
) -> None:
    say(looker, received(1))
    say(looker, f'431[{{"ok":false,"error":{{"code":"{code}","retryable":true}}}}]')
    assert (part.reads, part.count.faults) == (0, faults)


def test_every_other_pair_of_windows_is_the_other_way_round() -> None:
    assert order_of(3) == [False, True, True, False, False, True]


def test_windows_of_a_kind_are_one_figure() -> None:
    seen = [
        Seen(
            Figure(
                measure="group, busy", server="applause", value=value, unit="likes/s", samples=7, server_cores=cores,
                client_most=cores, series=[Sample(at=at, rate=value) for at in (1.0, 2.0)],
            ),
            of([value / 1000]),
        )
        for value, cores in ((100.0, 0.5), (300.0, 1.0))
    ]  # fmt: skip
    figure = together(seen)
    assert (figure.value, figure.samples, figure.server_cores, figure.client_most) == (200.0, 14, 0.75, 1.0)
    assert [sample.at for sample in figure.series] == [1.0, 2.0, 3.0, 4.0]
    assert figure.histogram is not None
    assert figure.histogram.count == 2
