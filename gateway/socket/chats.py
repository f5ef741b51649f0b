"""Chat screens that are open on a connection, and typing in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handlers.messaging.conversations import ConversationsHandler
from handlers.messaging.handler import topic_of
from handlers.messaging.typing import Typing
from handlers.messaging.wire import ChatRequest, CloseAck, OpenAck, TypingAck, TypingRequest

if TYPE_CHECKING:
    from gateway.socket.session import Session
    from gateway.socket.topics import Seats


class Chats:
    """`chat:open`, `chat:close`, `typing:start`, `typing:stop`. An open chat is a topic of its own kind, which counts
    among the others."""

    def __init__(self, *, seats: Seats, conversations: ConversationsHandler, typing: Typing) -> None:
        self._seats = seats
        self._conversations = conversations
        self._typing = typing

    async def open(self, session: Session, request: ChatRequest) -> OpenAck:
        """From now on this connection gets the conversation's messages as they come, for as long as its user takes
        part."""
        cursor, topic = session.cursor, topic_of(request.conversation_id)
        assert cursor is not None
        was_open = cursor.topics is not None and topic in cursor.topics
        # First joined, then read: what is committed in between is told, and what was before is in the answer. Who may
        # hear is decided with each message, so that it does no harm to have joined what one has no part in.
        self._seats.join(cursor, topic, field="conversationId")
        try:
            return await self._conversations.fetch_standing(session.user_id, request.conversation_id)
        except BaseException:
            if not was_open:
                self._seats.leave(cursor, topic)
            raise

    def close(self, session: Session, request: ChatRequest) -> CloseAck:
        """Not any more: also of what was never opened."""
        assert session.cursor is not None
        self._seats.leave(session.cursor, topic_of(request.conversation_id))
        self._typing.end(session.user_id, request.conversation_id)
        return CloseAck(request.conversation_id)

    async def start_typing(self, session: Session, request: TypingRequest) -> TypingAck:
        """The others are shown that the user is typing, for a while."""
        return await self._typing.start(session, session.user_id, request.conversation_id)

    async def stop_typing(self, session: Session, request: TypingRequest) -> TypingAck:
        """And no more."""
        return await self._typing.stop(session.user_id, request.conversation_id)
