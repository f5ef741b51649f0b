"""Each way in which events or balances can be wrong is seen, and what is right is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtest.crew import Checked
from loadtest.promises import Kept, Reservoir
from loadtest.witness import CHAIN, NO_GAP, Witness, answer_of, cents


class Seat:
    """A witness with what it notes."""

    def __init__(self) -> None:
        self.order, self.chain = Checked(4, NO_GAP), Checked(3, CHAIN)
        self.witness = Witness(7, self.order, self.chain)

    def welcome(self, seq: int, *, complete: bool = True, epoch: str = "e") -> None:
        hello = {"seq": seq, "epoch": epoch, "complete": complete, "userId": 7}
        self.witness.welcomed(f'42["welcome",{json.dumps(hello)}]'.encode())

    def tell(self, seq: int | None, **data: Any) -> None:
        event = {"id": "i", "seq": seq, "type": "points_earned", "data": data}
        self.witness.told(f'42["notification",{json.dumps(event)}]'.encode())

    def earn(self, seq: int, points: float, before: float, after: float) -> None:
        self.tell(seq, points=points, previousBalance=before, newBalance=after, currency="LYK")

    @property
    def broken(self) -> tuple[int, int]:
        return self.order.broken, self.chain.broken


def test_what_is_right_is_right() -> None:
    seat = Seat()
    seat.welcome(3)
    seat.earn(4, 1, 10, 11)
    seat.tell(None, typing=True)  # ephemeral
    seat.earn(5, 0.1, 11, 11.1)
    seat.welcome(6)  # it comes back, having missed one
    seat.earn(6, 2, 11.1, 13.1)
    assert seat.broken == (0, 0)
    assert (seat.order.count, seat.chain.count) == (3, 3)
    assert (seat.witness.seq, seat.witness.balance, seat.witness.earned) == (6, 1310, 310)


@pytest.mark.parametrize("seqs", [(1, 3), (1, 1), (2,), (1, 2, 1), (1, 2, 4, 3)])
def test_a_hole_a_repetition_and_a_wrong_order_are_seen(seqs: tuple[int, ...]) -> None:
    seat = Seat()
    seat.welcome(0)
    for seq in seqs:
        seat.tell(seq)
    assert seat.order.broken > 0
    assert "user 7" in seat.order.examples[0]


@pytest.mark.parametrize(
    "moves",
    [
        [(1, 0, 1), (1, 2, 3)],  # does not go on where it was
        [(1, 0, 2)],  # moves by something else
        [(1, 0, 1), (1, 0, 1)],  # the same again: paid twice in events, once in the balance
    ],
)
def test_a_broken_chain_is_seen(moves: list[tuple[float, float, float]]) -> None:
    seat = Seat()
    seat.welcome(0)
    for seq, (points, before, after) in enumerate(moves, 1):
        seat.earn(seq, points, before, after)
    assert seat.broken == (0, 1)


def test_a_client_that_was_told_to_reload_goes_on_from_there() -> None:
    seat = Seat()
    seat.welcome(0)
    seat.earn(1, 1, 0, 1)
    seat.welcome(90, complete=False, epoch="f")
    seat.earn(91, 1, 40, 41)
    assert seat.broken == (0, 0)
    assert (seat.witness.reloads, seat.witness.epoch) == (1, "f")


def test_what_acks_say_was_paid_must_be_told() -> None:
    seat = Seat()
    seat.welcome(0)
    seat.earn(1, 2, 0, 2)
    for acked, is_creator, is_paid in ((200, False, True), (300, False, False), (100, False, False), (100, True, True)):
        seat.witness.acked, seat.witness.is_creator = acked, is_creator
        assert seat.witness.is_paid is is_paid


def test_an_answer_is_read_from_its_packet() -> None:
    good = answer_of(
        b'4312[{"ok":true,"data":{"videoId":"v","award":{"points":0.1,"newBalance":7.3}},"replayed":true}]'
    )
    assert good.ok
    assert good.replayed
    assert good.data is not None
    assert good.data.award is not None
    assert (cents(good.data.award.points), cents(good.data.award.new_balance)) == (10, 730)
    bad = answer_of(b'430[{"ok":false,"error":{"code":"rate_limited","message":"m","retryable":true}}]')
    assert bad.error is not None
    assert bad.error.code == "rate_limited"


def test_a_reservoir_keeps_so_many_and_prefers_nobody() -> None:
    hits = [0] * 50
    for _ in range(400):
        reservoir = Reservoir(10)
        for number in range(50):
            if (place := reservoir.place()) is not None:
                reservoir.put(place, Kept(number, "video:like", b"{}", None))
        assert len(reservoir.all) == 10
        for kept in reservoir.all:
            hits[kept.user] += 1
    assert min(hits) > 30  # of 80 expected
    assert max(hits) < 140
