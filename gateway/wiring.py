"""Composition root: pools -> handlers -> routes -> doors. What can be put together by itself is, in the `wiring.py` of
its room; here is in which order, and what they have of each other."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog
from aiohttp import web

from fanout.delivery import Delivery
from fanout.hub import Hub
from fanout.publisher import Publisher
from gateway import failpoints
from gateway.auth import Authenticator
from gateway.clock import looks
from gateway.clock.alarms import Alarms
from gateway.clock.push import PushClock
from gateway.clock.wiring import start_inboxes, start_settlers
from gateway.console.wiring import add_demo
from gateway.counts import HttpCounts
from gateway.dispatch import Dispatch
from gateway.domains import domains
from gateway.egress.wiring import start_egress
from gateway.failpoints import Failpoints
from gateway.fan_out import FanOut
from gateway.farewell import finish, send_away
from gateway.history import History
from gateway.http.client import client_routes
from gateway.http.door import MAX_BODY_BYTES, Door
from gateway.http.events import Underway
from gateway.http.health import health_routes
from gateway.http.listener import listen
from gateway.http.metrics import counting, metrics_routes
from gateway.http.problems import answer_problems
from gateway.http.site import Handlers, site_routes
from gateway.http.wiring import handlers_of
from gateway.intake.wiring import start_intake
from gateway.jwks import Jwks
from gateway.lane import Lane
from gateway.limits import TokenBuckets
from gateway.metrics.doors import of_acks, of_http, of_socket
from gateway.metrics.fan_out import of_cluster, of_fanout
from gateway.metrics.registry import Reading, registry
from gateway.metrics.work import of_lane, of_pool
from gateway.names import new_name
from gateway.proxies import Proxies
from gateway.push.wiring import start_push
from gateway.routes import routes
from gateway.sessions import Sessions
from gateway.settings import Settings
from gateway.socket.app import ClientApp
from gateway.socket.connection import event_frame
from gateway.socket.door import Refused, SocketDoor
from gateway.socket.evictions import Evictions
from gateway.socket.topics import Seats
from gateway.socket.wheel import Wheel
from gateway.socket.wiring import start_arrivals, visits_of
from gateway.supervisor import Supervisor
from gateway.workers.scrape import of_all, of_one
from gateway.workers.team import Team, broker_for, presence_for
from handlers.access.handler import AccessHandler
from handlers.access.identities import Identities
from handlers.catalogue.current import CurrentAwards
from handlers.engagement.totals import LiveTotals
from handlers.inbox.envelope import render
from handlers.inbox.pages import InboxPages
from handlers.messaging.typing import Typing
from storage import requests
from storage.migrate import pending
from storage.pool import session

if TYPE_CHECKING:
    from gateway.intake.door import IntakeDoor

log = structlog.get_logger()


class Node:
    """One running gateway: everything that serves, built in the order in which it depends on each other."""

    def __init__(self, settings: Settings, dsn: str, supervisor: Supervisor, team: Team | None = None) -> None:
        """`team`: it is one of several workers of a parent."""
        self._settings = settings
        self._dsn = dsn
        self._supervisor = supervisor
        self._team = team
        self._name = new_name() if team is None else f"{team.name}.{team.number}.{secrets.token_hex(4)}"
        self._hub = Hub()
        self._wheel = Wheel(asyncio.get_running_loop())
        self._history = History(on_change=self._end_all)
        self._sessions = Sessions(dsn, self._history)
        self._awards = CurrentAwards()
        self._underway = Underway()
        self._alarms = Alarms()
        self._failpoints = Failpoints(failpoints.parse(settings.failpoints))
        self._readings: list[Reading] = []  # each part's, for the metrics
        # What `start` opens, in this order.
        self._pool: asyncpg.Pool
        self._identities: Identities
        self._fan_out: FanOut
        self._lane: Lane
        self._intake: IntakeDoor | None
        self._push: PushClock | None
        self._dispatch: Dispatch
        self._socket_door: SocketDoor
        self._site: web.Application

    async def start(self, stack: AsyncExitStack, *, demo: bool) -> None:
        """Open the pool, join the other nodes, start the services: all but the doors."""
        settings = self._settings
        pool = self._pool = await self._sessions.pool(stack, settings.database.pool_size)
        self._readings.append(partial(of_pool, pool))
        async with session(pool) as conn:
            await self._awards.look(conn)
            await requests.maintain_partitions(conn)
        self._identities = Identities(pool=pool, create_unknown=settings.users.create_unknown)
        fan_out = self._fan_out = await self._join_others(stack)
        typing = Typing(pool=pool, tell=fan_out.publisher.users, timers=asyncio.get_running_loop())
        totals = LiveTotals(pool=pool, topics=self._hub.topics, publish=fan_out.delivery.publish_topic)
        self._lane = self._start_lane(typing)
        self._start_services(stack, totals)
        authenticator = await self._start_authenticator()
        evictions = await self._start_evictions()
        access = AccessHandler(pool=pool, identities=self._identities, on_revoked=evictions.look_soon)
        handlers = handlers_of(settings, pool=pool, fan_out=fan_out, access=access, awards=self._awards)
        client_app = self._client_app(authenticator)
        seats = Seats(delivery=fan_out.delivery, most=settings.socket.max_topics)
        visits = visits_of(client_app, seats=seats, totals=totals, conversations=handlers.conversations, typing=typing)
        self._dispatch = Dispatch(
            routes=routes(wallet=handlers.wallet, inbox=handlers.inbox, visits=visits),
            lane=self._lane,
            actions=TokenBuckets(settings.limits.actions_per_second),
        )
        self._finish_client_app(client_app, access=access, evictions=evictions, typing=typing)
        self._socket_door = self._door_of(client_app)
        self._site = self._site_of(Door(verifier=authenticator, admit=access.admit), handlers)
        if demo:
            await add_demo(self._site, settings.auth, handlers, carry_out=self._dispatch.carry_out)
        stack.push_async_callback(self._supervisor.stop)  # after the doors, before what the services stand on
        stack.push_async_callback(fan_out.broker.stop)  # it has tasks there: before they end it says what is gathered

    async def listen(self, stack: AsyncExitStack) -> int:
        """Open the doors, until the stack is left; the port. Raises OSError where it can't be had."""
        port = await listen(
            self._site, self._socket_door, self._wheel, self._settings, stack, is_shared=self._team is not None
        )
        host = self._settings.server.host
        log.info("listening", host=host, port=port, node=self._name, epoch=self._history.epoch)
        return port

    # -- the parts -------------------------------------------------------------------------------

    async def _join_others(self, stack: AsyncExitStack) -> FanOut:
        """Presence and broker: in memory where nobody else can have this database, else through Kafka and Redis or the
        database itself; and over the line between the workers of one parent."""
        delivery = Delivery(
            hub=self._hub,
            read_pages=InboxPages(pool=await self._sessions.pages_pool(stack)).read,
            frame_of=partial(event_frame, "notification"),
            spawn=self._supervisor.spawn,
            page=self._settings.inbox.page,
        )
        common: dict[str, Any] = {
            "dsn": None if self._settings.is_embedded else self._dsn,
            "node": self._name,
            "team": self._team,
            "spawn": self._supervisor.spawn,
        }
        presence = presence_for(self._settings, pool=self._pool, **common)
        publisher = Publisher(
            hub=self._hub,
            delivery=delivery,
            presence=presence,
            render=render,
            compare_soon=self._alarms.compare.set,
            more_to_come=self._underway.is_any,
        )
        broker = broker_for(self._settings, presence=presence, listeners=publisher.listeners(), **common)
        publisher.join(broker)
        for part in (presence, broker):
            await part.start()
            stack.push_async_callback(part.stop)
        await presence.look()
        self._readings += [partial(of_fanout, delivery, publisher), partial(of_cluster, broker, presence)]
        return FanOut(self._hub, delivery, publisher, presence, broker)

    def _start_lane(self, typing: Typing) -> Lane:
        settings, publisher = self._settings, self._fan_out.publisher
        lane = Lane(
            handlers=domains(settings, awards=self._awards, publisher=publisher, typing=typing, alarms=self._alarms),
            connect=self._sessions.lane,
            orders=self._fan_out.delivery,
            deliver=publisher.events,
            catch_up=self._alarms.compare.set,
            limits=settings.lane,
        )
        lane.slow_s = settings.log.slow_s
        if settings.failpoints:
            log.warning("failpoints_armed", points=settings.failpoints)
            lane.failpoints = self._failpoints
        self._supervisor.start("lane", lane.run())
        self._readings.append(partial(of_lane, lane))
        return lane

    def _start_services(self, stack: AsyncExitStack, totals: LiveTotals) -> None:
        """What runs beside the lane: both ways of Kafka, what is due, and pushes to who is not here."""
        settings, supervisor, show = self._settings, self._supervisor, self._readings.append
        pool, connect, fan_out, alarms = self._pool, self._sessions.lane, self._fan_out, self._alarms
        self._intake = start_intake(settings, supervisor, show, pool=pool, lane=self._lane)
        start_egress(
            settings,
            supervisor,
            show,
            node=self._name,
            pool=pool,
            connect=connect,
            epoch=lambda: self._history.epoch,
            failpoints=self._failpoints,
        )
        start_settlers(supervisor, show, pool=pool, connect=connect, fan_out=fan_out, alarms=alarms)
        start_inboxes(settings, supervisor, show, pool=pool, fan_out=fan_out, alarms=alarms)
        supervisor.start("partitions", looks.keep_partitions(pool))
        supervisor.start("awards", looks.follow_awards(pool, self._awards))
        supervisor.start("history", looks.follow_history(pool, self._history))
        supervisor.start("totals", looks.tell_totals(totals))
        self._push = start_push(settings, supervisor, show, stack, presence=fan_out.presence, connect=connect)

    async def _start_authenticator(self) -> Authenticator:
        """Who reads tokens, with the keys of the JWKS endpoint where there is one."""
        auth, jwks = self._settings.auth, None
        if auth.jwks_url:
            jwks = Jwks(auth.jwks_url, refresh_s=auth.jwks_refresh_s, spawn=self._supervisor.spawn)
            await jwks.start()
            self._supervisor.start("jwks", jwks.run())
        return Authenticator(auth, jwks=jwks)

    async def _start_evictions(self) -> Evictions:
        """Who may no longer be here, good token or not."""
        evictions = Evictions(pool=self._pool, hub=self._hub, delivery=self._fan_out.delivery)
        await evictions.start()
        self._supervisor.start("evictions", evictions.run())
        return evictions

    # -- the doors -------------------------------------------------------------------------------

    def _client_app(self, authenticator: Authenticator) -> ClientApp:
        return ClientApp(
            settings=self._settings,
            node=self._name,
            epoch=lambda: self._history.epoch,
            authenticator=authenticator,
            identities=self._identities,
            hub=self._hub,
            wheel=self._wheel,
            event_frame=event_frame,
            spawn=self._supervisor.spawn,
        )

    def _finish_client_app(
        self, app: ClientApp, *, access: AccessHandler, evictions: Evictions, typing: Typing
    ) -> None:
        arrivals, departures = start_arrivals(
            app, self._settings, self._supervisor, pool=self._pool, fan_out=self._fan_out, identities=self._identities
        )
        app.complete(
            dispatch=self._dispatch,
            delivery=self._fan_out.delivery,
            arrivals=arrivals,
            access=access,
            evictions=evictions,
            announce=self._fan_out.publisher.replaced,
            left=departures.add,
            typing=typing,
        )

    def _door_of(self, client_app: ClientApp) -> SocketDoor:
        """Door 1."""
        return SocketDoor(
            settings=self._settings.socket,
            app=client_app,
            wheel=self._wheel,
            admit=self._admit,
            address_of=Proxies(self._settings.server.trusted_proxies).client,
        )

    def _site_of(self, door: Door, handlers: Handlers) -> web.Application:
        """Door 2, and what of door 1 is HTTP."""
        http_counts = HttpCounts()
        app = web.Application(
            middlewares=[counting(http_counts, slow_s=self._settings.log.slow_s), answer_problems],
            client_max_size=MAX_BODY_BYTES,
        )
        self._socket_door.add_routes(app.router)
        app.add_routes(
            site_routes(door, handlers, self._dispatch, event_limits=self._settings.events, underway=self._underway)
        )
        app.add_routes(client_routes())
        shown = registry(
            [
                *self._readings,
                partial(of_socket, self._socket_door, self._hub),
                partial(of_acks, {"socket": self._dispatch.on_socket, "http": self._dispatch.on_http}),
                partial(of_http, http_counts),
            ]
        )
        app.add_routes(metrics_routes(of_one(shown) if self._team is None else of_all(shown, self._team)))
        app.add_routes(health_routes(check=self._problems, is_draining=lambda: self._dispatch.draining))
        return app

    # -- coming and going ------------------------------------------------------------------------

    def _admit(self) -> Refused | None:
        if self._dispatch.draining:
            return Refused("draining", "this node is going away")
        if not self._lane.available:
            return Refused("unavailable", "the database does not answer", 2.0)
        return None

    async def _problems(self) -> list[str]:
        async with session(self._pool) as conn:
            return [f"migration {migration.name} is missing" for migration in await pending(conn)]

    def _end_all(self) -> None:
        """The database has another history: all come again and learn of it."""
        self._identities.forget()
        for cursor in list(self._hub):
            self._fan_out.delivery.cut(cursor, "unavailable")

    async def drain(self) -> None:
        """Let running actions finish, tell all clients when to come back, then close (spec 8.8)."""
        self._dispatch.draining = True
        log.info("draining", connections=len(self._hub))
        await finish(self._lane, intake=self._intake, push=self._push, patience_s=self._settings.drain.timeout_s)
        await send_away(self._hub, self._fan_out.delivery)
