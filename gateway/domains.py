"""Which domain carries out which deeds in the lane."""

from __future__ import annotations

from fanout.publisher import Publisher
from gateway.clock.alarms import Alarms
from gateway.routes import AWARD, ENGAGEMENT, FOR_BACKENDS, MESSAGING, PROFILE, PUBLISH, SPENDING, UPLOADS
from gateway.settings import Settings
from handlers.catalogue.current import CurrentAwards
from handlers.deed import DeedHandler
from handlers.engagement.handler import EngagementHandler
from handlers.events.handler import EventsHandler
from handlers.messaging.handler import MessagingHandler
from handlers.messaging.typing import Typing
from handlers.profile.handler import ProfileHandler
from handlers.uploads.handler import UploadHandler
from handlers.wallet.spending import SpendingHandler


def domains(
    settings: Settings, *, awards: CurrentAwards, publisher: Publisher, typing: Typing, alarms: Alarms
) -> dict[str, DeedHandler]:
    """The handler of every event that is a deed."""
    engagement = EngagementHandler(awards=lambda: awards.in_force)
    uploads = UploadHandler(awards=lambda: awards.in_force)
    profile = ProfileHandler(counts_follows=settings.users.follows_count)
    spending = SpendingHandler(max_amount=settings.wallet.max_amount)
    messaging = MessagingHandler(
        publisher=publisher,
        wake_settler=alarms.tell_groups.set,
        on_sent=typing.end,
        gather_above=settings.messages.gather_above,
    )
    return {
        **dict.fromkeys(ENGAGEMENT, engagement),
        **dict.fromkeys(UPLOADS, uploads),
        **dict.fromkeys(PROFILE, profile),
        **dict.fromkeys((*SPENDING, *FOR_BACKENDS, AWARD), spending),
        **dict.fromkeys(MESSAGING, messaging),
        PUBLISH: EventsHandler(publisher=publisher, wake_applier=alarms.apply.set),
    }
