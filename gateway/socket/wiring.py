"""What of door 1 stands between a connection and the product."""

from __future__ import annotations

from gateway.fan_out import FanOut
from gateway.routes import Visits
from gateway.settings import Settings
from gateway.socket.app import ClientApp
from gateway.socket.arrivals import Arrivals, Departures
from gateway.socket.chats import Chats
from gateway.socket.topics import Seats, Topics
from gateway.supervisor import Supervisor
from handlers.access.identities import Identities
from handlers.engagement.totals import LiveTotals
from handlers.messaging.conversations import ConversationsHandler
from handlers.messaging.typing import Typing
from storage.pool import Pool


def visits_of(
    app: ClientApp, *, seats: Seats, totals: LiveTotals, conversations: ConversationsHandler, typing: Typing
) -> Visits:
    """What a client asks of its own connection, and who answers that."""
    topics = Topics(seats=seats, totals=totals)
    chats = Chats(seats=seats, conversations=conversations, typing=typing)
    return Visits(
        subscribe=topics.subscribe,
        unsubscribe=topics.unsubscribe,
        open_chat=chats.open,
        close_chat=chats.close,
        start_typing=chats.start_typing,
        stop_typing=chats.stop_typing,
        refresh=app.refresh,
    )


def start_arrivals(
    app: ClientApp, settings: Settings, supervisor: Supervisor, *, pool: Pool, fan_out: FanOut, identities: Identities
) -> tuple[Arrivals, Departures]:
    """Those who look up who comes, and tell presence of who has gone. They run from here on."""
    arrivals = Arrivals(
        pool=pool,
        presence=fan_out.presence,
        identities=identities,
        create_unknown=settings.users.create_unknown,
        has_company=fan_out.publisher.has_company,
        seat=app.seat_identity,
        welcome=app.welcome,
        turn_away=app.turn_away,
    )
    departures = Departures(presence=fan_out.presence)
    supervisor.start("arrivals", arrivals.run())
    supervisor.start("departures", departures.run())
    return arrivals, departures
