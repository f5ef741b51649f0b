"""Composition root: pools -> handlers -> routes -> doors. The only file that knows everyone."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from fanout.broker import Broker
from fanout.delivery import Delivery
from fanout.hub import Hub
from fanout.pages import READERS
from fanout.presence import Held, Presence
from fanout.publisher import Publisher
from gateway import failpoints
from gateway.auth import Authenticator
from gateway.clock import looks
from gateway.clock.heads import HeadClock
from gateway.clock.inbox import InboxClock
from gateway.clock.push import PushClock
from gateway.clock.settling import CreatorClock, GroupClock
from gateway.console.demo import Demo
from gateway.counts import HttpCounts
from gateway.dispatch import Dispatch
from gateway.egress.counts import EgressCounts
from gateway.egress.wiring import start_egress
from gateway.failpoints import Failpoints
from gateway.history import History
from gateway.http.client import client_routes
from gateway.http.door import MAX_BODY_BYTES, Door
from gateway.http.events import Underway
from gateway.http.health import health_routes
from gateway.http.listener import listen
from gateway.http.metrics import counting, metrics_routes
from gateway.http.problems import answer_problems
from gateway.http.site import Handlers, site_routes
from gateway.intake.wiring import start_intake
from gateway.jwks import Jwks
from gateway.lane import Lane
from gateway.limits import TokenBuckets
from gateway.metrics import doors, fan_out, work
from gateway.metrics.registry import registry
from gateway.names import new_name
from gateway.proxies import Proxies
from gateway.push.wiring import job_of, provider_of
from gateway.routes import (
    AWARD,
    ENGAGEMENT,
    FOR_BACKENDS,
    MESSAGING,
    PROFILE,
    PUBLISH,
    SPENDING,
    UPLOADS,
    Visits,
    routes,
)
from gateway.settings import Settings
from gateway.socket.app import ClientApp
from gateway.socket.arrivals import Arrivals, Departures
from gateway.socket.chats import Chats
from gateway.socket.connection import event_frame
from gateway.socket.door import Refused, SocketDoor
from gateway.socket.evictions import Evictions
from gateway.socket.topics import Seats, Topics
from gateway.socket.wheel import Wheel
from gateway.supervisor import Supervisor
from gateway.vitals import Vitals
from gateway.workers.port import say_ready
from gateway.workers.scrape import of_all, of_one
from gateway.workers.team import Team, broker_for, presence_for
from handlers.access.handler import AccessHandler
from handlers.access.identities import Identities
from handlers.catalogue.current import CurrentAwards
from handlers.catalogue.handler import CatalogueHandler
from handlers.directory.bulk import BulkHandler
from handlers.directory.handler import DirectoryHandler
from handlers.engagement.comments import CommentPages
from handlers.engagement.handler import EngagementHandler
from handlers.engagement.settler import Settler
from handlers.engagement.totals import LiveTotals
from handlers.events.applier import Applier
from handlers.events.handler import EventsHandler
from handlers.inbox.envelope import render
from handlers.inbox.handler import InboxHandler
from handlers.inbox.notifications import NotificationsHandler
from handlers.inbox.pages import InboxPages
from handlers.inbox.retention import Retention
from handlers.keys import Outcomes
from handlers.messaging.conversations import ConversationsHandler
from handlers.messaging.handler import MessagingHandler
from handlers.messaging.settler import GroupSettler
from handlers.messaging.typing import Typing
from handlers.profile.handler import ProfileHandler
from handlers.push.handler import DevicesHandler
from handlers.push.job import PushJob
from handlers.uploads.handler import UploadHandler
from handlers.wallet.handler import WalletHandler
from handlers.wallet.spending import SpendingHandler
from storage import requests
from storage.db import BY_INDEX, connect_lane, create_pool
from storage.migrate import pending
from storage.pool import session

if TYPE_CHECKING:
    from gateway.intake.door import IntakeDoor

log = structlog.get_logger()

DRAIN_POLL_S: Final = 0.05
FAREWELL_S: Final = 1.0  # for close frames and their echoes


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
        self._settler = Settler()
        self._group_settler = GroupSettler()
        self._wheel = Wheel(asyncio.get_running_loop())
        self._history = History(on_change=self._end_all)
        self._awards = CurrentAwards()
        self._underway = Underway()
        self._compare = asyncio.Event()  # set where heads are to be compared now
        self._apply = asyncio.Event()  # set where a broadcast waits for its recipients
        self._tell_groups = asyncio.Event()  # set where a large group has news
        self._pool: asyncpg.Pool
        self._identities: Identities
        self._evictions: Evictions
        self._delivery: Delivery
        self._totals: LiveTotals
        self._typing: Typing
        self._presence: Presence
        self._broker: Broker
        self._publisher: Publisher
        self._lane: Lane
        self._vitals: Vitals
        self._retention: Retention
        self._dispatch: Dispatch
        self._failpoints = Failpoints(failpoints.parse(settings.failpoints))
        self._intake: IntakeDoor | None = None
        self._egress: EgressCounts | None = None
        self._push: PushJob | None = None
        self._push_clock: PushClock | None = None

    async def start(self, stack: AsyncExitStack, *, demo: bool) -> None:
        """Open the pool, join the other nodes, start the services and listen."""
        settings = self._settings
        self._pool = await create_pool(self._dsn, size=settings.database.pool_size, on_connect=self._history.look)
        stack.push_async_callback(_close, self._pool)
        self._identities = Identities(pool=self._pool, create_unknown=settings.users.create_unknown)
        async with session(self._pool) as conn:
            await self._awards.look(conn)
            await requests.maintain_partitions(conn)

        inbox = InboxHandler(pool=self._pool, connections_of=self._connections_of)
        self._delivery = Delivery(
            hub=self._hub,
            read_pages=InboxPages(pool=await self._open_pages_pool(stack)).read,
            frame_of=partial(event_frame, "notification"),
            spawn=self._supervisor.spawn,
            page=settings.inbox.page,
        )
        self._totals = LiveTotals(pool=self._pool, topics=self._hub.topics, publish=self._delivery.publish_topic)
        await self._join_others(stack)
        self._typing = Typing(pool=self._pool, tell=self._publisher.users, timers=asyncio.get_running_loop())
        self._start_lane()
        self._intake = start_intake(settings, self._supervisor, pool=self._pool, lane=self._lane)
        self._egress = start_egress(
            settings,
            self._supervisor,
            node=self._name,
            pool=self._pool,
            connect=self._connect_lane,
            epoch=lambda: self._history.epoch,
            failpoints=self._failpoints,
        )
        self._start_clock()
        self._start_inbox_clock()
        self._start_push(stack)
        authenticator = await self._start_authenticator()
        handlers = self._handlers(inbox, await self._start_access())
        client_app = self._client_app(authenticator)
        seats = Seats(delivery=self._delivery, most=settings.socket.max_topics)
        topics = Topics(seats=seats, totals=self._totals)
        chats = Chats(seats=seats, conversations=handlers.conversations, typing=self._typing)
        self._dispatch = Dispatch(
            routes=routes(
                wallet=handlers.wallet,
                inbox=inbox,
                visits=Visits(
                    subscribe=topics.subscribe,
                    unsubscribe=topics.unsubscribe,
                    open_chat=chats.open,
                    close_chat=chats.close,
                    start_typing=chats.start_typing,
                    stop_typing=chats.stop_typing,
                    refresh=client_app.refresh,
                ),
            ),
            lane=self._lane,
            actions=TokenBuckets(settings.limits.actions_per_second),
        )
        self._finish_client_app(client_app, handlers)
        socket_door = self._socket_door(client_app)
        app = self._site(socket_door, Door(verifier=authenticator, admit=handlers.access.admit), handlers)
        if demo:
            await self._add_demo(app, handlers)
        stack.push_async_callback(self._supervisor.stop)  # after the doors, before what the services stand on
        stack.push_async_callback(self._broker.stop)  # it has tasks there: before they end it says what is gathered
        port = await listen(app, socket_door, self._wheel, settings, stack, is_shared=self._team is not None)
        if self._team is None:
            say_ready(settings.server.host, port)
        log.info("listening", host=settings.server.host, port=port, node=self._name, epoch=self._history.epoch)

    async def _open_pages_pool(self, stack: AsyncExitStack) -> asyncpg.Pool:
        """Sessions for pages alone: a storm of resumes takes none from whoever connects, and none of them waits for
        somebody's slow request."""
        pool = await create_pool(self._dsn, size=READERS, on_connect=self._history.look, settings=BY_INDEX)
        stack.push_async_callback(_close, pool)
        return pool

    # -- parts -----------------------------------------------------------------------------------

    async def _join_others(self, stack: AsyncExitStack) -> None:
        """Presence and broker: in memory where nobody else can have this database, else through Kafka and Redis or the
        database itself; and over the line between the workers of one parent."""
        common: dict[str, Any] = {
            "dsn": None if self._settings.is_embedded else self._dsn,
            "node": self._name,
            "team": self._team,
            "spawn": self._supervisor.spawn,
        }
        self._presence = presence_for(self._settings, pool=self._pool, **common)
        self._publisher = Publisher(
            hub=self._hub,
            delivery=self._delivery,
            presence=self._presence,
            render=render,
            compare_soon=self._compare.set,
            more_to_come=self._underway.is_any,
        )
        self._broker = broker_for(
            self._settings, presence=self._presence, listeners=self._publisher.listeners(), **common
        )
        self._publisher.join(self._broker)
        for part in (self._presence, self._broker):
            await part.start()
            stack.push_async_callback(part.stop)

    def _start_lane(self) -> None:
        engagement = EngagementHandler(awards=lambda: self._awards.in_force)
        profile = ProfileHandler(counts_follows=self._settings.users.follows_count)
        messaging = MessagingHandler(
            publisher=self._publisher,
            wake_settler=self._tell_groups.set,
            on_sent=self._typing.end,
            gather_above=self._settings.messages.gather_above,
        )
        spending = SpendingHandler(max_amount=self._settings.wallet.max_amount)
        self._lane = Lane(
            handlers={
                **dict.fromkeys(ENGAGEMENT, engagement),
                **dict.fromkeys(UPLOADS, UploadHandler(awards=lambda: self._awards.in_force)),
                **dict.fromkeys(PROFILE, profile),
                **dict.fromkeys((*SPENDING, *FOR_BACKENDS, AWARD), spending),
                **dict.fromkeys(MESSAGING, messaging),
                PUBLISH: EventsHandler(publisher=self._publisher, wake_applier=self._apply.set),
            },
            connect=self._connect_lane,
            orders=self._delivery,
            deliver=self._publisher.events,
            catch_up=self._compare.set,
            limits=self._settings.lane,
        )
        self._lane.slow_s = self._settings.log.slow_s
        if self._settings.failpoints:
            log.warning("failpoints_armed", points=self._settings.failpoints)
            self._lane.failpoints = self._failpoints
        self._supervisor.start("lane", self._lane.run())

    def _start_clock(self) -> None:
        creators = CreatorClock(connect=self._connect_lane, settler=self._settler, deliver=self._publisher.events)
        heads = HeadClock(
            pool=self._pool,
            delivery=self._delivery,
            hub=self._hub,
            presence=self._presence,
            compare_now=self._compare,
        )
        self._vitals = Vitals(pool=self._pool)
        self._supervisor.start("loop lag", self._vitals.watch_loop())
        self._supervisor.start("vitals", self._vitals.look())
        self._supervisor.start("settler", creators.settle())
        self._supervisor.start("partitions", looks.keep_partitions(self._pool))
        self._supervisor.start("awards", looks.follow_awards(self._pool, self._awards))
        self._supervisor.start("history", looks.follow_history(self._pool, self._history))
        self._supervisor.start("totals", looks.tell_totals(self._totals))
        self._supervisor.start("heads", heads.compare_heads(self._settings.inbox.compare_every_s))

    async def _start_authenticator(self) -> Authenticator:
        """Who reads tokens, with the keys of the JWKS endpoint where there is one."""
        auth, jwks = self._settings.auth, None
        if auth.jwks_url:
            jwks = Jwks(auth.jwks_url, refresh_s=auth.jwks_refresh_s, spawn=self._supervisor.spawn)
            await jwks.start()
            self._supervisor.start("jwks", jwks.run())
        return Authenticator(auth, jwks=jwks)

    async def _start_access(self) -> AccessHandler:
        """Who may still come in with a good token."""
        self._evictions = Evictions(pool=self._pool, hub=self._hub, delivery=self._delivery)
        await self._evictions.start()
        self._supervisor.start("evictions", self._evictions.run())
        return AccessHandler(pool=self._pool, identities=self._identities, on_revoked=self._evictions.look_soon)

    def _start_inbox_clock(self) -> None:
        kept = self._settings.inbox
        self._retention = Retention(
            keep_events=kept.retention_events, keep_days=kept.retention_days, every_s=kept.trim_every_s
        )
        clock = InboxClock(
            pool=self._pool,
            applier=Applier(chunk_recipients=self._settings.events.chunk_recipients),
            retention=self._retention,
            deliver=self._publisher.events,
            apply_now=self._apply,
        )
        groups = GroupClock(
            connect=self._connect_lane,
            settler=self._group_settler,
            deliver=self._publisher.events,
            tell_now=self._tell_groups,
        )
        self._supervisor.start("groups", groups.tell_groups())
        self._supervisor.start("broadcasts", clock.apply_broadcasts())
        self._supervisor.start("retention", clock.trim_inboxes(kept.trim_every_s))

    def _start_push(self, stack: AsyncExitStack) -> None:
        """Who is not connected is told by somebody else, where there is anybody."""
        provider = provider_of(self._settings, self._supervisor)
        if provider is None:
            return
        stack.push_async_callback(provider.close)
        self._push = job_of(self._settings, provider, self._supervisor, self._devices_of)
        self._push_clock = PushClock(connect=self._connect_lane, job=self._push)
        self._supervisor.start("push", self._push_clock.push())

    def _handlers(self, inbox: InboxHandler, access: AccessHandler) -> Handlers:
        """Everybody who answers outside the lane."""
        settings, pool = self._settings, self._pool
        return Handlers(
            access=access,
            directory=DirectoryHandler(
                pool=pool, create_unknown=settings.users.create_unknown, follows_count=settings.users.follows_count
            ),
            bulk=BulkHandler(pool=pool, follows_count=settings.users.follows_count),
            comments=CommentPages(pool=pool),
            wallet=WalletHandler(pool=pool),
            catalogue=CatalogueHandler(pool=pool, max_amount=settings.wallet.max_amount, current=self._awards),
            inbox=inbox,
            notifications=NotificationsHandler(pool=pool),
            outcomes=Outcomes(pool=pool),
            conversations=ConversationsHandler(
                pool=pool,
                deliver=self._publisher.events,
                most_participants=settings.messages.max_participants,
            ),
            devices=DevicesHandler(
                pool=pool,
                most_devices=settings.push.devices_per_user,
                most_token_chars=settings.push.max_token_chars,
            ),
        )

    def _socket_door(self, client_app: ClientApp) -> SocketDoor:
        """Door 1."""
        return SocketDoor(
            settings=self._settings.socket,
            app=client_app,
            wheel=self._wheel,
            admit=self._admit,
            address_of=Proxies(self._settings.server.trusted_proxies).client,
        )

    def _site(self, socket_door: SocketDoor, door: Door, handlers: Handlers) -> web.Application:
        """Door 2, and what of door 1 is HTTP."""
        http_counts = HttpCounts()
        app = web.Application(
            middlewares=[counting(http_counts, slow_s=self._settings.log.slow_s), answer_problems],
            client_max_size=MAX_BODY_BYTES,
        )
        socket_door.add_routes(app.router)
        app.add_routes(
            site_routes(door, handlers, self._dispatch, event_limits=self._settings.events, underway=self._underway)
        )
        app.add_routes(client_routes())
        registry = self._metrics(socket_door, http_counts)
        app.add_routes(metrics_routes(of_one(registry) if self._team is None else of_all(registry, self._team)))
        app.add_routes(health_routes(check=self._problems, is_draining=lambda: self._dispatch.draining))
        return app

    def _metrics(self, socket_door: SocketDoor, http_counts: HttpCounts) -> CollectorRegistry:
        intake = [] if self._intake is None else [partial(doors.of_intake, self._intake.counts)]
        egress = [] if self._egress is None else [partial(doors.of_egress, self._egress)]
        push = [] if self._push is None else [partial(work.of_push, self._push)]
        return registry(
            [
                *intake,
                *egress,
                *push,
                partial(doors.of_socket, socket_door, self._hub),
                partial(doors.of_acks, {"socket": self._dispatch.on_socket, "http": self._dispatch.on_http}),
                partial(doors.of_http, http_counts),
                partial(work.of_lane, self._lane),
                partial(fan_out.of_fanout, self._delivery, self._publisher),
                partial(fan_out.of_cluster, self._broker, self._presence),
                partial(work.of_pool, self._pool),
                partial(work.of_retention, self._retention),
                partial(work.of_vitals, self._vitals, self._settler),
                partial(work.of_groups, self._group_settler),
            ]
        )

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

    def _finish_client_app(self, app: ClientApp, handlers: Handlers) -> None:
        arrivals = Arrivals(
            pool=self._pool,
            presence=self._presence,
            identities=self._identities,
            create_unknown=self._settings.users.create_unknown,
            has_company=self._publisher.has_company,
            seat=app.seat_identity,
            welcome=app.welcome,
            turn_away=app.turn_away,
        )
        departures = Departures(presence=self._presence)
        self._supervisor.start("arrivals", arrivals.run())
        self._supervisor.start("departures", departures.run())
        app.complete(
            dispatch=self._dispatch,
            delivery=self._delivery,
            arrivals=arrivals,
            access=handlers.access,
            evictions=self._evictions,
            announce=self._publisher.replaced,
            left=departures.add,
            typing=self._typing,
        )

    async def _connect_lane(self) -> asyncpg.Connection:
        conn = await connect_lane(self._dsn)
        try:
            await self._history.look(conn)
        except BaseException:
            conn.terminate()
            raise
        return conn

    async def _add_demo(self, app: web.Application, handlers: Handlers) -> None:
        auth = self._settings.auth
        claims = {name: value for name, value in (("iss", auth.issuer), ("aud", auth.audience)) if value}
        stage = Demo(
            directory=handlers.directory,
            conversations=handlers.conversations,
            carry_out=self._dispatch.carry_out,
            secret=auth.secret,
            claims=claims,
        )
        await stage.seed()
        app.add_routes(stage.routes())

    async def _connections_of(self, user_id: int) -> list[Held]:
        return await self._presence.connections_of(user_id)

    async def _devices_of(self, user_id: int) -> list[str]:
        return [each.device_id for each in await self._connections_of(user_id)]

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
            self._delivery.cut(cursor, "unavailable")

    async def drain(self) -> None:
        """Let running actions finish, tell all clients when to come back, then close (spec 8.8)."""
        self._dispatch.draining = True
        log.info("draining", connections=len(self._hub))
        try:
            async with asyncio.timeout(self._settings.drain.timeout_s):
                if self._intake is not None:
                    await self._intake.leave()
                await self._lane.drained()
                if self._push_clock is not None:
                    await self._push_clock.leave()
        except TimeoutError:
            log.warning("drain_gave_up", waiting=self._lane.depth)
        await asyncio.sleep(DRAIN_POLL_S)  # acknowledgements leave at the end of the turn
        for cursor in list(self._hub):
            self._delivery.cut(cursor, "draining")
        deadline = asyncio.get_running_loop().time() + FAREWELL_S
        while len(self._hub) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(DRAIN_POLL_S)


async def _close(pool: Any) -> None:
    """Wait a moment for what is running; a database that does not answer must not hold the exit up."""
    try:
        async with asyncio.timeout(1.0):
            await pool.close()
    except TimeoutError:
        pool.terminate()
