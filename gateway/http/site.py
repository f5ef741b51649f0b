"""All of `/v1`: which handler answers which group of routes."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web

from gateway.dispatch import Dispatch
from gateway.http.access import access_routes
from gateway.http.accounts import account_routes
from gateway.http.actions import action_routes
from gateway.http.bulk import bulk_routes
from gateway.http.catalogue import catalogue_routes
from gateway.http.conversations import conversation_routes
from gateway.http.devices import device_routes
from gateway.http.directory import directory_routes
from gateway.http.door import Door
from gateway.http.events import Underway, event_routes
from gateway.http.notifications import notification_routes
from gateway.http.videos import video_routes
from gateway.routes import PATHS_FOR_BACKENDS
from handlers.access.handler import AccessHandler
from handlers.catalogue.handler import CatalogueHandler
from handlers.directory.bulk import BulkHandler
from handlers.directory.handler import DirectoryHandler
from handlers.engagement.comments import CommentPages
from handlers.events.request import EventLimits
from handlers.inbox.handler import InboxHandler
from handlers.inbox.notifications import NotificationsHandler
from handlers.keys import Outcomes
from handlers.messaging.conversations import ConversationsHandler
from handlers.push.handler import DevicesHandler
from handlers.wallet.handler import WalletHandler


class Handlers(NamedTuple):
    """Everybody who answers outside the lane."""

    access: AccessHandler
    directory: DirectoryHandler
    bulk: BulkHandler
    comments: CommentPages
    wallet: WalletHandler
    catalogue: CatalogueHandler
    inbox: InboxHandler
    notifications: NotificationsHandler
    outcomes: Outcomes
    conversations: ConversationsHandler
    devices: DevicesHandler


def site_routes(
    door: Door, handlers: Handlers, actions: Dispatch, *, event_limits: EventLimits, underway: Underway
) -> list[web.RouteDef]:
    """Every route that asks for a token."""
    know_user = handlers.directory.know_user
    return [
        *access_routes(door, handlers.access),
        *directory_routes(door, handlers.directory),
        *bulk_routes(door, handlers.bulk),
        *video_routes(door, handlers.comments),
        *account_routes(door, wallet=handlers.wallet, inbox=handlers.inbox, know_user=know_user),
        *catalogue_routes(door, handlers.catalogue),
        *notification_routes(door, handlers.notifications, know_user=know_user),
        *event_routes(door, publish=actions.publish, limits=event_limits, underway=underway),
        *conversation_routes(door, handlers.conversations, actions=actions, know_user=know_user),
        *device_routes(door, handlers.devices, know_user=know_user),
        *action_routes(
            door,
            actions=actions,
            fetch_outcome=handlers.outcomes.fetch,
            know_user=know_user,
            for_backends=PATHS_FOR_BACKENDS,
        ),
    ]
