"""Messages and what is told of them, as storage keeps them and as their readers get them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from handlers.inbox.envelope import timestamp_of
from handlers.messaging.rules import TYPES
from handlers.messaging.wire import (
    ChatMessage,
    Conversation,
    ConversationChangedEvent,
    LiveMessage,
    MessagePreviewEvent,
    MessageReadEvent,
)
from handlers.wire import encode
from storage.conversations import ListedConversation
from storage.heads import LockedConversation
from storage.inbox import StoredEvent
from storage.messages import ListedMessage

PREVIEW = ("message_preview", "chat:message:sent")
READ = ("message_read", "chat:message:read")
CHANGED = ("conversation_changed", "chat:conversation:changed")


def preview_of(conversation_id: str, message: ListedMessage, text: str, unread: int) -> MessagePreviewEvent:
    """What a recipient's list shows of a message."""
    return MessagePreviewEvent(
        conversation_id=conversation_id,
        number=message.number,
        last_message=text,
        last_message_id=str(message.id),
        sender_id=message.sender_id,
        sender_username=message.username,
        sender_profile_pic=message.picture_url,
        message_type=TYPES[message.message_type],
        timestamp=timestamp_of(message.created_at),
        unread_count=unread,
    )


def read_of(conversation_id: str, message_id: str, reader_id: int, now: datetime) -> MessageReadEvent:
    """How far a reader is; without what is unread, which is theirs alone to know."""
    return MessageReadEvent(conversation_id, message_id, reader_id, timestamp_of(now))


def changed_of(
    conversation: LockedConversation, participant_ids: Iterable[int], changed_by: int, now: datetime
) -> ConversationChangedEvent:
    """Who takes part from now on."""
    last_at = conversation.last_message_at
    return ConversationChangedEvent(
        conversation_id=conversation.id,
        participant_ids=sorted(participant_ids),
        title=conversation.title,
        last_message=conversation.last_message_text,
        last_message_id=None if conversation.last_message_id is None else str(conversation.last_message_id),
        last_message_at=None if last_at is None else timestamp_of(last_at),
        last_number=conversation.last_number,
        changed_by=changed_by,
        timestamp=timestamp_of(now),
    )


def event_of(
    user_id: int,
    seq: int,
    event_id: UUID,
    names: tuple[str, str],
    data: MessagePreviewEvent | MessageReadEvent | ConversationChangedEvent,
    now: datetime,
) -> StoredEvent:
    """The same as a row of its recipient's inbox."""
    return StoredEvent(user_id, seq, event_id, *names, encode(data).decode(), now)


def live_envelope(conversation_id: str, message: ListedMessage) -> bytes:
    """`message_received`, for whoever looks at the conversation just now."""
    data = row_of(conversation_id, message)
    return encode(
        LiveMessage(data.message_id, None, "message_received", "chat:message:received", [], data, data.timestamp)
    )


def row_of(conversation_id: str, message: ListedMessage) -> ChatMessage:
    """A whole message."""
    return ChatMessage(
        conversation_id=conversation_id,
        message_id=str(message.id),
        number=message.number,
        sender_id=message.sender_id,
        sender_username=message.username,
        sender_profile_pic=message.picture_url,
        content=message.content,
        message_type=TYPES[message.message_type],
        media_url=message.media_url,
        timestamp=timestamp_of(message.created_at),
    )


def conversation_of(row: ListedConversation) -> Conversation:
    """A row of somebody's list."""
    return Conversation(
        conversation_id=str(row.id),
        participant_ids=row.participant_ids,
        title=row.title,
        last_message=row.last_message,
        last_message_id=None if row.last_message_id is None else str(row.last_message_id),
        last_message_at=None if row.last_message_at is None else timestamp_of(row.last_message_at),
        last_number=row.last_number,
        unread_count=row.unread,
    )
