"""What spends come to: against a model that knows nothing but balances, and by tables; and amounts on the wire."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.payloads import decode
from handlers.errors import Refusal
from handlers.money import MAX_MINOR, as_minor, as_number
from handlers.wallet.rules import Blocked, Books, Full, Movement, Spend, TooLittle, Wallet, decide
from handlers.wallet.wire import BoostRequest, CorrectionRequest, DeductionRequest, GiftRequest

PEOPLE: Final = (1, 2, 3)
SUSPENDED: Final = 9
LYK: Final = "LYK"


def books(**balances: int) -> Books:
    """`books(ann=5)`: Ann, who is 1, has 5 minor units; 9 is suspended."""
    names = {"ann": 1, "ben": 2, "cleo": 3, "suspended": SUSPENDED}
    wallets = {(user, LYK): Wallet(balances.get(name, 0), 0, 0) for name, user in names.items()}
    return Books(seqs=dict.fromkeys(names.values(), 0), wallets=wallets, suspended={SUSPENDED})


def gift(giver: int, receiver: int, amount: int) -> Spend:
    return Spend(
        giver, LYK, -amount, "gift_sent", f"user:{receiver}", {"toUserId": receiver}, f"{giver}/key",
        payee_id=receiver, payee_account=f"user:{giver}", payee_metadata={"fromUserId": giver},
    )  # fmt: skip


def own(user_id: int, amount: int, action: str = "purchase") -> Spend:
    return Spend(user_id, LYK, -amount, action, "platform:purchases", {}, f"{user_id}/key")


def by_backend(user_id: int, change: int, action: str = "correction") -> Spend:
    return Spend(user_id, LYK, change, action, "platform:issuance", {}, "shop/key", "Why", is_own=False)


# -- against a model ---------------------------------------------------------------------------------------------------

amounts = st.integers(1, 60)
people = st.sampled_from([*PEOPLE, SUSPENDED])
spends = st.one_of(
    st.builds(gift, people, people, amounts),
    st.builds(own, people, amounts, st.sampled_from(["purchase", "boost_post"])),
    st.builds(by_backend, people, amounts.map(lambda amount: -amount), st.sampled_from(["penalty", "withdrawal"])),
    st.builds(by_backend, people, st.integers(-60, 60).filter(bool)),
)


def naive(balances: dict[int, int], spend: Spend) -> type:
    """What must come of it, knowing no more than who has how much."""
    if spend.is_own and (spend.user_id == spend.payee_id or SUSPENDED in (spend.user_id, spend.payee_id)):
        return Blocked
    if balances[spend.user_id] + spend.change < 0:
        return TooLittle
    balances[spend.user_id] += spend.change
    if spend.payee_id is not None:
        balances[spend.payee_id] -= spend.change
    return Movement


@given(st.lists(spends, max_size=40))
def test_any_mix_comes_to_what_the_model_says(mix: list[Spend]) -> None:
    stage = books(ann=100, ben=50)
    balances = {user: wallet.balance for (user, _), wallet in stage.wallets.items()}
    start = dict(balances)
    for spend in mix:
        before = dataclasses.replace(stage.wallets[spend.user_id, LYK])
        outcome = decide(stage, spend)
        assert type(outcome) is naive(balances, spend)
        assert {user: wallet.balance for (user, _), wallet in stage.wallets.items()} == balances
        if isinstance(outcome, TooLittle):
            assert (outcome.need, outcome.have) == (-spend.change, before.balance)
        if isinstance(outcome, Movement):
            assert (outcome.user_id, outcome.points, outcome.action) == (spend.user_id, spend.change, spend.action)
    for user in balances:
        mine = [movement for movement in stage.movements if movement.user_id == user]
        assert [movement.seq for movement in mine] == list(range(1, stage.seqs[user] + 1))
        assert [movement.n for movement in mine] == list(range(1, stage.wallets[user, LYK].n + 1))
        balance = start[user]
        for movement in mine:
            assert (movement.balance_before, movement.balance_after) == (balance, balance + movement.points)
            balance = movement.balance_after
            assert balance >= 0
        assert balance == balances[user]
    for name in {movement.transfer for movement in stage.movements} - {None}:
        assert sum(movement.points for movement in stage.movements if movement.transfer == name) == 0


# -- by tables ---------------------------------------------------------------------------------------------------------


def test_both_halves_of_a_gift_name_each_other() -> None:
    stage = books(ann=5)
    sent = decide(stage, gift(1, 2, 5))
    assert isinstance(sent, Movement)
    assert stage.movements[0] is sent
    received = stage.movements[1]
    assert (sent.action, sent.points, sent.counter_account) == ("gift_sent", -5, "user:2")
    assert (received.action, received.points, received.counter_account) == ("gift_received", 5, "user:1")
    assert sent.transfer == received.transfer == sent.origin != received.origin
    assert (sent.metadata, received.metadata) == ({"toUserId": 2}, {"fromUserId": 1})


@pytest.mark.parametrize(
    ("spend", "outcome"),
    [
        (gift(1, 1, 1), Blocked()),
        (gift(1, SUSPENDED, 1), Blocked()),
        (gift(SUSPENDED, 1, 1), Blocked()),
        (own(SUSPENDED, 1), Blocked()),
        (gift(1, 2, 101), TooLittle(101, 100)),
        (gift(3, 3, 1), Blocked()),  # whether or not there is enough
        (own(3, 1), TooLittle(1, 0)),
        (by_backend(3, -1), TooLittle(1, 0)),
        (by_backend(1, MAX_MINOR - 99), Full()),
        (gift(1, 2, 100), Full()),
    ],
)
def test_what_is_refused_changes_nothing(spend: Spend, outcome: object) -> None:
    stage = books(ann=100, ben=MAX_MINOR - 50)
    before = dataclasses.asdict(stage)
    assert decide(stage, spend) == outcome
    assert dataclasses.asdict(stage) == before


@pytest.mark.parametrize("spend", [own(1, 100), by_backend(1, MAX_MINOR - 100), by_backend(SUSPENDED, -1)])
def test_up_to_the_bound_it_goes(spend: Spend) -> None:
    assert isinstance(decide(books(ann=100, suspended=1), spend), Movement)


def test_what_is_reserved_is_not_there() -> None:
    stage = books(ann=100)
    stage.wallets[1, LYK].reserved = 40
    assert decide(stage, own(1, 61)) == TooLittle(61, 60)
    assert isinstance(decide(stage, own(1, 60)), Movement)


# -- amounts -----------------------------------------------------------------------------------------------------------

GOOD: Final = [
    ("1", 100), ("0.01", 1), ("0.1", 10), ("1.50", 150), ("1.0", 100), ("10", 1000), ("999999.99", 99_999_999),
    ("9999999999999.99", MAX_MINOR), ("0.07", 7), ("1.15", 115), ("4503599627370.49", 450359962737049),
    ("9999999999999.9", 999999999999990),
]  # fmt: skip
BAD: Final = [
    "0", "0.00", "-1", "-0", "-0.01", "1e2", "1E2", "1.5e1", "0.001", "1.000", "10000000000000", "10000000000000.00",
    "1" * 17, "1" * 400, "1e400", '"1"', '"1.50"', "null", "true", "[1]", "{}", '""',
]  # fmt: skip
NO_JSON: Final = ["NaN", "Infinity", "-Infinity", ".5", "1.", "+1", "01", "0x1", "1_000", "٣"]


def gift_of(amount: str) -> bytes:
    return f'{{"toUserId":2,"amount":{amount},"actionId":"action-1"}}'.encode()


@pytest.mark.parametrize(("text", "minor"), GOOD)
def test_an_amount_is_exact(text: str, minor: int) -> None:
    request = msgspec.json.decode(gift_of(text), type=GiftRequest)
    assert as_minor(bytes(request.amount)) == minor
    assert as_number(minor) == Decimal(text)


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("request_type", [GiftRequest, BoostRequest, DeductionRequest])
def test_what_is_no_amount_is_named(text: str, request_type: type[Any]) -> None:
    others = {GiftRequest: '"toUserId":2', BoostRequest: '"videoId":"a"', DeductionRequest: '"userId":2,"reason":"x"'}
    body = f'{{{others[request_type]},"actionId":"action-1","amount": {text} }}'.encode()
    with pytest.raises(Refusal) as refused:
        decode(msgspec.json.Decoder(request_type), body)
    assert (refused.value.code, refused.value.field) == ("invalid_payload", "amount")
    assert "$" not in refused.value.message


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        decode(msgspec.json.Decoder(GiftRequest), gift_of(text))
    assert refused.value.code == "invalid_payload"
    assert refused.value.field == ("amount" if text in ("NaN", "Infinity", "-Infinity") else None)


@given(st.integers(-MAX_MINOR, MAX_MINOR))
def test_there_and_back(minor: int) -> None:
    """Also through a client's numbers, which are doubles."""
    assert as_minor(str(as_number(minor)).encode()) == minor
    assert as_minor(msgspec.json.encode(float(as_number(minor)))) == minor


def corrected_by(**fields: Any) -> bytes:
    return msgspec.json.encode({"actionId": "action-1", "userId": 7, "amount": 1, "reason": "x", **fields})


@pytest.mark.parametrize("amount", [-1, 1, 0.01, -0.01, -99.5])
def test_a_correction_has_a_sign(amount: float) -> None:
    decode(msgspec.json.Decoder(CorrectionRequest), corrected_by(amount=amount))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"amount": 0}, "amount"),
        ({"amount": "1"}, "amount"),
        ({"amount": 0.001}, "amount"),
        ({"action": "penalty"}, "action"),
        ({"currency": "lyk"}, "currency"),
        ({"reason": ""}, "reason"),
        ({"reason": "x" * 201}, "reason"),
        ({"metadata": {"a": "x" * 4096}}, "metadata"),
        ({"metadata": {"a": [{"b": "\0"}]}}, "metadata"),
        ({"metadata": {"\0": 1}}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"userId": 0}, "userId"),
        ({"note": "x"}, "note"),
    ],
)
def test_what_is_wrong_with_a_correction_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Refusal) as refused:
        decode(msgspec.json.Decoder(CorrectionRequest), corrected_by(**fields))
    assert (refused.value.code, refused.value.field) == ("invalid_payload", field)


@pytest.mark.parametrize(("note", "good"), [("x" * 200, True), ("😀" * 200, True), ("x" * 201, False), ("\0", False)])
def test_a_note_is_short(note: str, good: bool) -> None:
    body = msgspec.json.encode({"toUserId": 2, "amount": 1, "actionId": "action-1", "note": note})
    if good:
        assert decode(msgspec.json.Decoder(GiftRequest), body).note == note
    else:
        with pytest.raises(Refusal) as refused:
            decode(msgspec.json.Decoder(GiftRequest), body)
        assert refused.value.field == "note"
