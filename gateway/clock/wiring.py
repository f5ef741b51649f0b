"""The clocks as the settings have them."""

from __future__ import annotations

from functools import partial

from gateway.clock.alarms import Alarms
from gateway.clock.heads import HeadClock
from gateway.clock.inbox import InboxClock
from gateway.clock.session import Connect
from gateway.clock.settling import CreatorClock, GroupClock
from gateway.fan_out import FanOut
from gateway.metrics.registry import Show
from gateway.metrics.work import of_groups, of_retention, of_vitals
from gateway.settings import Settings
from gateway.supervisor import Supervisor
from gateway.vitals import Vitals
from handlers.engagement.settler import Settler
from handlers.events.applier import Applier
from handlers.inbox.retention import Retention
from handlers.messaging.settler import GroupSettler
from storage.pool import Pool


def start_settlers(
    supervisor: Supervisor, show: Show, *, pool: Pool, connect: Connect, fan_out: FanOut, alarms: Alarms
) -> None:
    """What was gathered for creators and for groups is told from here on, and what waits is looked at."""
    settler, group_settler, vitals = Settler(), GroupSettler(), Vitals(pool=pool)
    deliver = fan_out.publisher.events
    creators = CreatorClock(connect=connect, settler=settler, deliver=deliver)
    groups = GroupClock(connect=connect, settler=group_settler, deliver=deliver, tell_now=alarms.tell_groups)
    supervisor.start("loop lag", vitals.watch_loop())
    supervisor.start("vitals", vitals.look())
    supervisor.start("settler", creators.settle())
    supervisor.start("groups", groups.tell_groups())
    show(partial(of_vitals, vitals, settler))
    show(partial(of_groups, group_settler))


def start_inboxes(
    settings: Settings, supervisor: Supervisor, show: Show, *, pool: Pool, fan_out: FanOut, alarms: Alarms
) -> None:
    """Inboxes are compared with connections, filled and kept short from here on."""
    kept = settings.inbox
    heads = HeadClock(
        pool=pool,
        delivery=fan_out.delivery,
        hub=fan_out.hub,
        presence=fan_out.presence,
        compare_now=alarms.compare,
    )
    retention = Retention(keep_events=kept.retention_events, keep_days=kept.retention_days, every_s=kept.trim_every_s)
    inboxes = InboxClock(
        pool=pool,
        applier=Applier(chunk_recipients=settings.events.chunk_recipients),
        retention=retention,
        deliver=fan_out.publisher.events,
        apply_now=alarms.apply,
    )
    supervisor.start("heads", heads.compare_heads(kept.compare_every_s))
    supervisor.start("broadcasts", inboxes.apply_broadcasts())
    supervisor.start("retention", inboxes.trim_inboxes(kept.trim_every_s))
    show(partial(of_retention, retention))
