"""What messages and conversations look like on the wire (spec 2, 5 and 7)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from handlers.wire import ActionId, ItemId, Message, Request, Title, UserId

MessageType = Literal["text", "image", "video", "audio", "gif", "sticker"]

# In code points. NUL can't be stored.
Content = Annotated[str, msgspec.Meta(min_length=1, max_length=4000, pattern=r"^[^\x00]*\Z")]
MediaUrl = Annotated[
    str, msgspec.Meta(max_length=2048, pattern=r"^https://[^\s\x00-\x20/?#\\@]+(?:[/?#][^\s\x00-\x20]*)?\Z")
]
Participants = Annotated[list[UserId], msgspec.Meta(min_length=1)]


def _check_body(message_type: str, content: str | None, media_url: str | None) -> None:
    """What no single field can say. Raises ValueError in msgspec's words, which name the field."""
    if message_type == "text":
        if content is None:
            raise ValueError("A text needs `content` - at `$.content`")
        if content.isspace():
            raise ValueError("Expected more than white space - at `$.content`")
        if media_url is not None:
            raise ValueError("A text has no `mediaUrl` - at `$.mediaUrl`")
    elif media_url is None:
        raise ValueError("All but texts need `mediaUrl` - at `$.mediaUrl`")


class SendRequest(Request, frozen=True):
    """`message:send`. `content` is the text, else a caption."""

    conversation_id: ItemId
    message_type: MessageType
    action_id: ActionId
    content: Content | None = None
    media_url: MediaUrl | None = None

    def __post_init__(self) -> None:
        _check_body(self.message_type, self.content, self.media_url)


class PostMessageRequest(Request, frozen=True):
    """The same, where the path names the conversation."""

    message_type: MessageType
    action_id: ActionId
    content: Content | None = None
    media_url: MediaUrl | None = None

    def __post_init__(self) -> None:
        _check_body(self.message_type, self.content, self.media_url)


class ReadRequest(Request, frozen=True):
    """`message:read`: everything up to this message has been read."""

    conversation_id: ItemId
    message_id: ItemId

    @property
    def action_id(self) -> str:
        """None: to read again changes nothing."""
        return ""


class ChatRequest(Request, frozen=True):
    """`chat:open` and `chat:close`: the screen of this conversation, on this connection."""

    conversation_id: ItemId


class TypingRequest(Request, frozen=True):
    """`typing:start` and `typing:stop`."""

    conversation_id: ItemId


class CreateConversationRequest(Request, frozen=True):
    """`POST /v1/conversations`; who creates it takes part, named or not."""

    participant_ids: Participants
    title: Title | None = None


class SendAck(Message):
    message_id: str
    number: int
    timestamp: str


class ReadAck(Message):
    """Where the pointer stands now."""

    number: int
    unread_count: int


class OpenAck(Message):
    last_number: int
    unread_count: int


class CloseAck(Message):
    conversation_id: str


class TypingAck(Message):
    conversation_id: str


class TypingEvent(Message):
    conversation_id: str
    user_id: int
    username: str
    is_typing: bool


class ConversationAck(Message):
    conversation_id: str


class MessagePreviewEvent(Message):
    conversation_id: str
    number: int
    last_message: str
    last_message_id: str
    sender_id: int
    sender_username: str
    sender_profile_pic: str | None
    message_type: str
    timestamp: str
    unread_count: int


class MessageReadEvent(Message):
    """`unreadCount` is for the reader's own devices."""

    conversation_id: str
    message_id: str
    reader_id: int
    timestamp: str
    unread_count: int | UnsetType = UNSET


class ConversationChangedEvent(Message):
    """What all who take part, and who did, see of a conversation that came about or whose participants changed: its row
    in a list but for `unreadCount`, which is 0 for whom it is new, and stays as it was for the others."""

    conversation_id: str
    participant_ids: list[int]
    title: str | None
    last_message: str | None
    last_message_id: str | None
    last_message_at: str | None
    last_number: int
    changed_by: int
    timestamp: str


class ChatMessage(Message):
    """A whole message: the data of `message_received`, and a row of a conversation's pages."""

    conversation_id: str
    message_id: str
    number: int
    sender_id: int
    sender_username: str
    sender_profile_pic: str | None
    content: str | None
    message_type: str
    media_url: str | None
    timestamp: str


class LiveMessage(Message):
    """The envelope of `message_received`: the same bytes for all who hear it."""

    id: str
    seq: None
    type: str
    event_type: str
    recipient_ids: list[int]
    data: ChatMessage
    timestamp: str


class Messages(Message):
    """`GET /v1/conversations/{id}/messages`: newest first."""

    messages: list[ChatMessage]
    next_cursor: str | None


class Conversation(Message):
    """A row of `GET /v1/conversations`."""

    conversation_id: str
    participant_ids: list[int]
    title: str | None
    last_message: str | None
    last_message_id: str | None
    last_message_at: str | None
    last_number: int
    unread_count: int


class Conversations(Message):
    """`GET /v1/conversations`: newest first."""

    conversations: list[Conversation]
    next_cursor: str | None
