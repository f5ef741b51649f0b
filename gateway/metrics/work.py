"""The numbers of what is done meanwhile: in the lane, by the clock, to whom nobody is connected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from prometheus_client.core import Metric

from gateway.metrics.families import counter, gauge, histogram
from handlers.push.provider import Result

if TYPE_CHECKING:
    from gateway.lane import Lane
    from gateway.vitals import Vitals
    from handlers.engagement.settler import Settler
    from handlers.inbox.retention import Retention
    from handlers.messaging.settler import GroupSettler
    from handlers.push.job import PushJob


def of_lane(lane: Lane) -> Iterator[Metric]:
    """Actions on their way through the database."""
    counts = lane.counts
    yield gauge("lane_depth", "Actions waiting or running.", lane.depth)
    yield gauge("lane_available", "1 while the lane has its database, else 0.", int(lane.available))
    yield histogram("action_duration_seconds", "From an action's receipt to its answer.", counts.waits)
    yield histogram("lane_batch_actions", "Actions in a transaction.", counts.batch_size)
    yield histogram("lane_batch_duration_seconds", "Time that a transaction took.", counts.batch_time)
    yield counter("lane_phase_seconds", "Time spent in each phase of transactions.", counts.phases, "phase")
    yield counter(
        "lane_repeats",
        "Transactions that ran again: a lock not given, an error that passes, a batch halved to find a fault.",
        {"lock_timeout": counts.lock_timeouts, "retryable": counts.retries, "halved": counts.halved},
        "reason",
    )
    yield counter("lane_losses", "Times that the lane lost its database.", counts.lost)
    yield counter("replays", "Actions answered with their kept outcome.", counts.replays)
    yield counter("actions_expired", "Actions that waited too long and were answered unavailable.", counts.expired)
    yield counter("actions_late", "Actions carried out whose answer came after its time.", counts.late)
    yield counter(
        "records_given_up",
        "Records of Kafka's that somebody else takes in: nothing of them was stored.",
        counts.given_up,
    )
    yield counter("actions_failed", "Actions answered internal: a fault of ours.", counts.failed)


def of_pool(pool: Any) -> Iterator[Metric]:
    """asyncpg's pool. Who waits for a connection stands in its queue, which is private: no public word says it."""
    idle = pool.get_idle_size()
    states = {"idle": idle, "busy": pool.get_size() - idle}
    yield gauge("pool_connections", "Database connections of the pool by state.", states, "state")
    yield gauge("pool_connections_max", "As many may be open.", pool.get_max_size())
    waiting = getattr(getattr(pool, "_queue", None), "_getters", ())
    yield gauge("pool_waiting", "Requests that wait for a connection.", len(waiting))


def of_vitals(vitals: Vitals, settler: Settler) -> Iterator[Metric]:
    """What is looked at now and then: the loop, what waits to be settled, the ledger."""
    yield histogram("event_loop_lag_seconds", "How late the event loop was, twice a second.", vitals.lag)
    yield counter("settler_runs", "Times that the settler looked for what is due.", settler.runs)
    yield counter("settlements", "Sums that the settler posted: one per creator, video and kind.", settler.settlements)
    yield gauge("accruals_waiting", "Accruals that wait for the settler (10,000: or more).", vitals.accruals)
    yield gauge("accruals_oldest_seconds", "How long the oldest of them has waited.", vitals.oldest_accrual_s)
    yield gauge(
        "ledger_imbalance",
        "Minor units between balances and entries, as far as looked at; 0 is good.",
        vitals.imbalance,
    )
    yield gauge("audit_findings", "Accounts whose books do not hold, by check; 0 is good.", vitals.findings, "check")
    yield counter("audit_accounts", "Accounts looked at by the rolling audit.", vitals.audited)
    yield counter("audit_rounds", "Times that the rolling audit has seen every account.", vitals.rounds)


def of_groups(settler: GroupSettler) -> Iterator[Metric]:
    """What is told to large groups a while after it was said."""
    yield counter("group_settler_runs", "Times that it was looked for what groups have not heard.", settler.runs)
    yield counter("group_events", "Previews and reads that were gathered, as events told.", settler.told)


def of_retention(retention: Retention) -> Iterator[Metric]:
    """Inboxes that are kept short, by whichever node gets to it."""
    yield counter("inbox_trim_runs", "Passes over the inboxes that this node began.", retention.passes)
    yield counter("inbox_trims", "Times that a user's inbox was shortened.", retention.trims)


def of_push(job: PushJob) -> Iterator[Metric]:
    """Pushes to users with no connection."""
    results = dict.fromkeys(get_args(Result), 0) | job.results
    yield counter("pushes", "Pushes by what the provider made of them.", results, "result")
    looks = dict.fromkeys(("pushed", "quiet", "connected"), 0) | job.looks
    yield counter("push_looks", "Times that a user was looked at, by what came of it.", looks, "result")
    yield gauge("push_in_flight", "Users who are being told.", job.in_flight)
