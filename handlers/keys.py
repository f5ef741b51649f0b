"""Request keys of a batch: what a caller has asked before is answered as it was answered then (spec 2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from handlers.caller import Caller
from handlers.deed import Deed
from handlers.errors import Refusal, refusal_ack
from storage import requests
from storage.pool import session
from storage.requests import StoredRequest, Taken
from storage.statement import Write, micros

if TYPE_CHECKING:
    from asyncpg import Connection

    from storage.pool import Pool

Key = tuple[int | str, str]  # whose it is (a user's id, a backend's subject), actionId


class Keys:
    """The keys that are taken, those of the batch's earlier deeds included.

    `lasting` keeps the new ones for 30 days instead of 7: where money moves. The callers' heads are held; a backend
    has none, its keys are unique by an index, and a batch that finds one taken meanwhile runs again.
    """

    def __init__(self, *, lasting: bool = False) -> None:
        self._lasting = lasting
        self._kept: dict[Key, tuple[bytes, bytes]] = {}
        self._new: list[StoredRequest] = []

    async def read(self, conn: Connection, deeds: Sequence[Deed]) -> None:
        """Enter what is stored of these deeds' keys."""
        people = [(deed.user_id, deed.action_id) for deed in deeds if deed.subject is None]
        backends = [(deed.subject, deed.action_id) for deed in deeds if deed.subject is not None]
        if people:
            self._kept |= await requests.list_taken(conn, people)
        if backends:
            self._kept |= await requests.list_taken_by_backends(conn, backends)

    def enter(self, deed: Deed, fingerprint: bytes, outcome: bytes) -> None:
        """What is stored of a deed's key, where a domain has read it with other things."""
        self._kept[_key(deed)] = (fingerprint, outcome)

    def is_taken(self, deed: Deed) -> bool:
        """Whether `replay` has an answer: the deed does nothing new."""
        return _key(deed) in self._kept

    def replay(self, deed: Deed) -> bytes | Refusal | None:
        """The kept outcome, or `idempotency_conflict` where the key was used for something else; None: it is new."""
        kept = self._kept.get(_key(deed))
        if kept is None:
            return None
        fingerprint, outcome = kept
        if fingerprint != deed.fingerprint:
            return Refusal("idempotency_conflict", "This actionId was used for another action.", field="actionId")
        # What an earlier run of this very deed stored, its COMMIT unanswered, is no replay to its caller.
        deed.is_replay = deed.is_replay or not deed.attempted
        return replayed(outcome) if deed.is_replay else outcome

    def keep(self, deed: Deed, outcome: bytes, now: datetime) -> None:
        """Take the key: `outcome`, the whole acknowledgement, is the answer from now on."""
        key = _key(deed)
        self._kept[key] = (deed.fingerprint, outcome)
        self._new.append(StoredRequest(*key, deed.fingerprint, outcome, micros(now)))

    def keep_refusal(self, deed: Deed, refusal: Refusal, now: datetime) -> bytes:
        """Take the key with a refusal that stands: `insufficient_funds`, `fraud_blocked`, `forbidden` or `conflict`.
        Returns the acknowledgement."""
        outcome = refusal_ack(refusal)
        self.keep(deed, outcome, now)
        return outcome

    @property
    def has_news(self) -> bool:
        """Whether any key was taken."""
        return bool(self._new)

    def writes(self) -> list[Write]:
        """The writes that store the keys taken."""
        return requests.insert_requests(self._new, lasting=self._lasting)


class Outcomes:
    """`GET /v1/actions/{actionId}`: what came of an action that its caller lost sight of."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def fetch(self, caller: Caller, action_id: str) -> bytes:
        """The kept acknowledgement as it was first given; Refusal `not_found` where the key is not taken."""
        async with session(self._pool) as conn:
            taken: Taken = {}
            if caller.user_id is not None:
                taken = await requests.list_taken(conn, [(caller.user_id, action_id)])
            if not taken and caller.is_backend:
                taken = await requests.list_taken_by_backends(conn, [(caller.subject, action_id)])
        if not taken:
            raise Refusal("not_found", "No outcome of such an action is kept.", field="actionId")
        ((_, outcome),) = taken.values()
        return outcome


_AGAIN: Final = b',"replayed":true}'


def replayed(outcome: bytes) -> bytes:
    """A kept acknowledgement as it is given again."""
    return outcome[:-1] + _AGAIN


def first_given(acknowledgement: bytes) -> bytes:
    """An acknowledgement as it was given first."""
    return acknowledgement[: -len(_AGAIN)] + b"}" if acknowledgement.endswith(_AGAIN) else acknowledgement


def _key(deed: Deed) -> Key:
    return (deed.user_id if deed.subject is None else deed.subject, deed.action_id)
