"""Everybody who answers outside the lane."""

from __future__ import annotations

from gateway.fan_out import FanOut
from gateway.http.site import Handlers
from gateway.settings import Settings
from handlers.access.handler import AccessHandler
from handlers.catalogue.current import CurrentAwards
from handlers.catalogue.handler import CatalogueHandler
from handlers.directory.bulk import BulkHandler
from handlers.directory.handler import DirectoryHandler
from handlers.engagement.comments import CommentPages
from handlers.inbox.handler import InboxHandler
from handlers.inbox.notifications import NotificationsHandler
from handlers.keys import Outcomes
from handlers.messaging.conversations import ConversationsHandler
from handlers.push.handler import DevicesHandler
from handlers.wallet.handler import WalletHandler
from storage.pool import Pool


def handlers_of(
    settings: Settings, *, pool: Pool, fan_out: FanOut, access: AccessHandler, awards: CurrentAwards
) -> Handlers:
    """They share the pool, and know nothing of each other."""
    users, push = settings.users, settings.push
    return Handlers(
        access=access,
        directory=DirectoryHandler(pool=pool, create_unknown=users.create_unknown, follows_count=users.follows_count),
        bulk=BulkHandler(pool=pool, follows_count=users.follows_count),
        comments=CommentPages(pool=pool),
        wallet=WalletHandler(pool=pool),
        catalogue=CatalogueHandler(pool=pool, max_amount=settings.wallet.max_amount, current=awards),
        inbox=InboxHandler(pool=pool, connections_of=fan_out.presence.connections_of),
        notifications=NotificationsHandler(pool=pool),
        outcomes=Outcomes(pool=pool),
        conversations=ConversationsHandler(
            pool=pool,
            deliver=fan_out.publisher.events,
            most_participants=settings.messages.max_participants,
        ),
        devices=DevicesHandler(pool=pool, most_devices=push.devices_per_user, most_token_chars=push.max_token_chars),
    )
