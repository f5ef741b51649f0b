"""A request in, a deed out: decoding, limits and the lane, the same for every door. Every path answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from gateway.counts import Acks
from gateway.lane import Lane
from gateway.limits import TokenBuckets
from gateway.payloads import decode
from gateway.routes import PUBLISH, Route
from handlers.deed import Deed, fingerprint
from handlers.errors import Refusal
from handlers.events.request import CheckedEvent

_EMPTY = msgspec.Raw(b"{}")


class Dispatch:
    """Finds an event's route, decodes its payload, and submits actions within their user's rate."""

    def __init__(self, *, routes: dict[str, Route], lane: Lane, actions: TokenBuckets[int]) -> None:
        self._routes = routes
        self._decoders = {event: msgspec.json.Decoder(route.request) for event, route in routes.items()}
        self._lane = lane
        self._actions = actions
        self.draining = False
        self.on_socket = Acks(routes)  # answers, for each door; its connections count theirs in place
        self.on_http = Acks([PUBLISH, *(event for event, route in routes.items() if route.read is None)])

    def decode(self, event: str, args: list[msgspec.Raw], *, lenient: bool) -> tuple[Route, Any, msgspec.Raw]:
        """(route, request, payload as sent). Refuses `unknown_event` and `invalid_payload`.

        `lenient`, for clients of a newer protocol, ignores fields that this node does not know.
        """
        route = self._routes.get(event)
        if route is None or route.for_backends:
            raise Refusal("unknown_event", "There is no such event.")
        if len(args) > 1:
            raise Refusal("invalid_payload", "An event takes one payload.")
        payload = args[0] if args else _EMPTY
        body = _known(route, payload) if lenient else payload
        return route, decode(self._decoders[event], body), payload

    def submit(
        self,
        user_id: int,
        route: Route,
        request: Any,
        payload: msgspec.Raw,
        *,
        now: float,
        received_at: float,
        order_key: object | None,
        answer: Callable[[bytes], None],
    ) -> None:
        """Put an action into the lane; `answer` gets the whole acknowledgement, once, in time from its
        receipt (on the loop's clock, as `now`).

        Refuses `rate_limited`, `overloaded` and `draining`.
        """
        self.charge(user_id, now)
        self._lane.submit(
            Deed(
                user_id=user_id,
                event=route.event,
                request=request,
                fingerprint=fingerprint(route.event, payload),
                received_at=received_at,
                order_key=order_key,
                answer=answer,
            )
        )

    async def carry_out(self, user_id: int, event: str, payload: bytes) -> bytes:
        """An action of a user whose door awaits: the whole acknowledgement, within five seconds.

        Refuses what `decode` and `submit` refuse, and `unknown_event` for what is no action.
        """
        with self._counted(event):
            route, request, raw = self.decode(event, [msgspec.Raw(payload)], lenient=False)
            if route.read is not None:
                raise Refusal("unknown_event", "This event is no action.")
            return await self._answered(
                event,
                lambda answer, now: self.submit(
                    user_id, route, request, raw, now=now, received_at=now, order_key=None, answer=answer
                ),
            )

    async def carry_out_for(self, subject: str, event: str, payload: bytes) -> bytes:
        """The same for a backend's action, about the user whom its request names. Backends have no rate.

        Refuses `invalid_payload`, `overloaded` and `draining`.
        """
        with self._counted(event):
            self._refuse_when_draining()
            request: Any = decode(self._decoders[event], payload)
            return await self._answered(
                event,
                lambda answer, now: self._lane.submit(
                    Deed(
                        user_id=request.user_id,
                        event=event,
                        request=request,
                        fingerprint=fingerprint(event, payload),
                        received_at=now,
                        order_key=None,
                        answer=answer,
                        subject=subject,
                    )
                ),
            )

    async def publish(self, event: CheckedEvent) -> bytes:
        """An event of a backend: the whole acknowledgement, within five seconds. Refuses `overloaded`, `draining`."""
        with self._counted(PUBLISH):
            self._refuse_when_draining()
            return await self._answered(
                PUBLISH,
                lambda answer, now: self._lane.submit(
                    Deed(
                        user_id=0,
                        event=PUBLISH,
                        request=event,
                        fingerprint=event.fingerprint,
                        received_at=now,
                        order_key=None,
                        answer=answer,
                        subject=event.source,
                        weight=max(1, len(event.recipients)),
                    )
                ),
            )

    async def _answered(self, event: str, submit: Callable[[Callable[[bytes], None], float], None]) -> bytes:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes] = loop.create_future()
        submit(lambda ack: None if answered.done() else answered.set_result(ack), loop.time())
        ack = await answered
        self.on_http.count(event, ack)
        return ack

    @contextmanager
    def _counted(self, event: str) -> Iterator[None]:
        try:
            yield
        except Refusal as refusal:
            self.on_http.refuse(event, refusal.code)
            raise

    def charge(self, user_id: int, now: float) -> None:
        """Count one request of the user against their rate; refuses `rate_limited` and `draining`."""
        self._refuse_when_draining()
        wait_s = self._actions.take(user_id, now)
        if wait_s:
            raise Refusal("rate_limited", "Too many actions.", retry_after_ms=int(wait_s * 1000) + 1)

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise Refusal("draining", "This node is going away.", retry_after_ms=1000)


def _known(route: Route, payload: msgspec.Raw) -> bytes:
    """The payload without the fields that this node does not know."""
    try:
        fields = msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        return bytes(payload)
    if not isinstance(fields, dict):
        return bytes(payload)
    known = route.request.__struct_encode_fields__
    return msgspec.json.encode({name: value for name, value in fields.items() if name in known})
