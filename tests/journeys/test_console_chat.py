"""The demo's phones chat, in a real browser: lists, badges, ticks, typing, and an outbox that waits for the network."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.console import IN_BROWSER, expect_state

if TYPE_CHECKING:
    from playwright.async_api import Locator, Page, Route

pytestmark = IN_BROWSER

ADA, GRACE = 7, 8
MARKUP = '<img src="x" onerror="document.title = \'injected\'"><b>hi</b>'


class Phone:
    """One of the two, with its messages on."""

    def __init__(self, page: Page, role: str, other: str) -> None:
        self.at = page.locator(f'[data-phone="{role}"]')
        self.other = other
        self.composer = self.at.locator('[data-at="composer-text"]')

    def part(self, name: str) -> Locator:
        return self.at.locator(f'[data-at="{name}"], [data-do="{name}"]')

    def row(self, text: str | None = None) -> Locator:
        """The list's row of the direct conversation with the other phone, or the one that shows this text."""
        name = self.at.page.locator("strong", has_text=self.other)
        rows = self.at.locator(".conversation")
        return rows.filter(has=name) if text is None else rows.filter(has_text=text)

    def bubble(self, text: str, state: str | None = None) -> Locator:
        which = ".bubble" if state is None else f'.bubble[data-state="{state}"]'
        return self.at.locator(which, has_text=text)

    async def arrive(self) -> None:
        """Online, with the messages on."""
        await expect_state(self.at, "online")
        await self.at.locator('[data-tab="messages"]').click()
        await self.row().first.wait_for()

    async def open(self) -> None:
        await self.row().locator("button").click()

    async def close(self) -> None:
        await self.part("back").click()

    async def say(self, text: str) -> None:
        await self.composer.fill(text)
        await self.composer.press("Enter")

    async def network(self, state: str) -> None:
        await self.part("switch").click()
        await expect_state(self.at, state)

    async def texts(self) -> list[str]:
        """What the open conversation shows, the oldest first."""
        return await self.at.locator('.bubble [data-at="content"]').all_text_contents()


async def phones(page: Page, base_url: str) -> tuple[Phone, Phone]:
    await page.goto(f"{base_url}/")
    ada, grace = Phone(page, "viewer", "Grace"), Phone(page, "creator", "Ada")
    for phone in (ada, grace):
        await phone.arrive()
    return ada, grace


async def both_open(ada: Phone, grace: Phone) -> None:
    """Their direct conversation, which Ada begins."""
    await ada.open()
    await grace.row("Nothing said yet").wait_for()
    await grace.open()


async def hold_up(page: Page, url: str) -> asyncio.Event:
    """Answers to such requests arrive once the event is set."""
    may_go = asyncio.Event()

    async def hold(route: Route) -> None:
        answer = await route.fetch()
        await may_go.wait()
        await route.fulfill(response=answer)

    await page.route(url, hold)
    return may_go


async def ask(page: Page, base_url: str, user: int, method: str, path: str, body: object = None) -> Any:
    """HTTP as one of the two, past their phones."""
    stage = await (await page.request.get(f"{base_url}/demo.json")).json()
    token = next(phone["token"] for phone in stage["phones"] if phone["userId"] == user)
    answer = await page.request.fetch(
        f"{base_url}/v1/{path}",
        method=method,
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        data=None if body is None else json.dumps(body),
    )
    assert answer.ok, await answer.text()
    return await answer.json() if answer.status != 204 else None


async def say_over_http(page: Page, base_url: str, user: int, other: int, texts: list[str]) -> None:
    """All of it, into their direct conversation."""
    pair = (await ask(page, base_url, user, "POST", "conversations", {"participantIds": [other]}))["conversationId"]
    for number, text in enumerate(texts):
        body = {"messageType": "text", "content": text, "actionId": f"message-{number}"}
        await ask(page, base_url, user, "POST", f"conversations/{pair}/messages", body)


async def test_two_phones_chat(base_url: str, page: Page) -> None:
    """From the first hello on: previews and badges, typing, ticks, both ways, and no text is ever HTML."""
    ada, grace = await phones(page, base_url)
    before = int(await grace.part("unread").text_content() or "0")
    await ada.open()  # there is none yet: the tap makes it
    await grace.row("Nothing said yet").wait_for()
    assert await ada.part("send").is_disabled()
    await ada.composer.fill("  \n ")
    assert await ada.part("send").is_disabled()

    # the other's chat is closed: a preview, a badge on the row and on the tab, one tick
    await ada.say("Hello Grace")
    await ada.bubble("Hello Grace", "sent").wait_for()
    await ada.say(MARKUP)
    await grace.row('<img src="x"').wait_for()
    assert await grace.row().locator('[data-at="row-unread"]').text_content() == "2"
    assert await grace.part("unread").text_content() == str(before + 2)
    assert await ada.bubble("Hello Grace", "read").count() == 0

    # opened: read on both sides
    await grace.open()
    await ada.bubble("Hello Grace", "read").wait_for()
    await ada.bubble("<b>hi</b>", "read").wait_for()
    assert await grace.texts() == await ada.texts() == ["Hello Grace", MARKUP]
    assert await page.locator(".bubble img, .bubble b, .conversation img").count() == 0
    assert await page.title() == "Applause"
    assert await grace.part("unread").text_content() == str(before)

    # the other way: typing, shown and gone; the answer comes into the open chat, and is read there
    await grace.composer.press_sequentially("At the pier")
    await ada.part("typing-who").filter(has_text="Grace is typing").wait_for()
    await grace.composer.press("Shift+Enter")
    await grace.composer.press_sequentially("in May")
    await grace.composer.press("Enter")
    await ada.bubble("At the pier").wait_for()
    await ada.part("typing-who").filter(has_not_text="typing").wait_for(state="attached")
    await grace.bubble("At the pier", "read").wait_for()
    assert (await ada.texts())[-1] == "At the pier\nin May"
    assert await grace.composer.input_value() == ""

    # typing shows in the list too, and ends with an emptied composer
    await page.keyboard.press("Escape")
    await grace.row().wait_for()
    assert await grace.row().locator("button").evaluate("button => button === document.activeElement")
    await ada.composer.fill("Hm")
    await grace.row("Ada is typing").wait_for()
    await ada.composer.fill("")
    await grace.row("At the pier").wait_for()

    # 4,000 characters and no more, as the gateway counts them
    await ada.composer.fill("👍" * 4001)
    assert await ada.part("send").is_disabled()
    assert await ada.part("left").text_content() == "-1"
    await ada.composer.fill("👍" * 4000)
    await ada.part("send").click()
    await ada.bubble("👍👍", "sent").wait_for()


async def test_a_tap_is_not_lost_when_the_other_begins_the_chat(base_url: str, page: Page) -> None:
    _, grace = await phones(page, base_url)
    place = await grace.row("Say hello").locator("button").bounding_box()
    assert place is not None
    await page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    await page.mouse.down()
    await ask(page, base_url, ADA, "POST", "conversations", {"participantIds": [GRACE]})
    told = page.locator(".wire-column", has=page.locator("h3", has_text="Grace")).locator(".frame")
    await told.filter(has_text="conversation_changed").first.wait_for()
    await page.mouse.up()
    await grace.composer.wait_for()
    await grace.close()
    await grace.row("Nothing said yet").wait_for()


async def test_a_chat_that_opens_late_takes_no_key_from_another(base_url: str, page: Page) -> None:
    """The server takes its time; whoever writes elsewhere meanwhile goes on writing there."""
    ada, grace = await phones(page, base_url)
    is_written = await hold_up(page, "**/v1/conversations")
    await grace.open()
    await ada.row("Nothing said yet").wait_for()
    await ada.open()
    await ada.composer.press_sequentially("one")
    is_written.set()
    await grace.composer.wait_for()
    await page.keyboard.press("Enter")
    await grace.bubble("one").wait_for()


async def test_a_chat_that_opens_late_takes_the_place_of_no_other(base_url: str, page: Page) -> None:
    _, grace = await phones(page, base_url)
    is_opened = await hold_up(page, "**/v1/conversations")
    await grace.open()
    await grace.row("Nothing said yet").wait_for()
    await grace.row("Sunday bakers").locator("button").click()
    async with page.expect_response("**/v1/conversations") as arriving:
        is_opened.set()
    await (await arriving.value).finished()
    await grace.say("hello, all")
    await grace.bubble("hello, all", "sent").wait_for()
    assert await grace.part("chat-name").text_content() == "Sunday bakers"


async def test_what_is_written_offline_waits_and_is_sent_once(base_url: str, page: Page) -> None:
    ada, grace = await phones(page, base_url)
    await both_open(ada, grace)
    await ada.say("one")
    await grace.bubble("one").wait_for()
    await ada.network("stopped")
    written = ["two", "three", "four"]
    for text in written:
        await ada.say(text)
        await ada.bubble(text, "waiting").wait_for()
    await ada.part("banner").filter(has_text="3 messages wait").wait_for()
    received = ["while you", "were away"]
    for text in received:
        await grace.say(text)
        await grace.bubble(text, "sent").wait_for()
    assert await grace.texts() == ["one", *received]

    # the page may go meanwhile
    await page.reload()
    await expect_state(ada.at, "stopped")
    await grace.arrive()
    await ada.at.locator('[data-tab="messages"]').click()
    assert await ada.row("four").locator(".preview svg").is_visible()
    await ada.open()
    await ada.bubble("four", "waiting").wait_for()
    assert await ada.texts() == ["one", *written]

    # back: what was missed has its place before what waited
    await ada.network("online")
    for text in written:
        await ada.bubble(text, "sent").wait_for()
    await ada.bubble("were away").wait_for()
    assert await ada.texts() == ["one", *received, *written]
    await grace.row("four").wait_for()
    assert await grace.row().locator('[data-at="row-unread"]').text_content() == "3"
    await grace.open()
    await grace.bubble("four").wait_for()
    assert await grace.texts() == ["one", *received, *written]
    await grace.bubble("were away", "read").wait_for()
    assert await ada.at.locator('[data-at="outbox"] li').count() == 0


async def test_an_open_chat_fetches_what_it_missed(base_url: str, page: Page) -> None:
    """`message_received` is told once: after a pause with the chat open there is a hole, which closes by itself."""
    ada, grace = await phones(page, base_url)
    await both_open(ada, grace)
    await ada.say("one")
    await grace.bubble("one").wait_for()
    await grace.network("stopped")
    await ada.say("two")
    await ada.bubble("two", "sent").wait_for()
    await grace.network("online")
    await grace.bubble("two").wait_for()
    await ada.say("three")
    await grace.bubble("three").wait_for()
    assert await grace.texts() == ["one", "two", "three"]
    await ada.bubble("three", "read").wait_for()
    wire = page.locator(".wire-column", has=page.locator("h3", has_text="Grace"))
    live = wire.locator(".frame", has_text="message_received").filter(has_text="three")
    await live.wait_for()  # the new connection has the chat open, too

    # more than a page: what does not reach up to it is older, and can be asked for
    await grace.network("stopped")
    said = [f"message {number}" for number in range(4, 44)]
    await say_over_http(page, base_url, ADA, GRACE, said)
    await grace.network("online")
    await grace.bubble("message 43").wait_for()
    assert await grace.texts() == said[-30:]
    await grace.part("older").dispatch_event("click")  # a real one moves there, which may bring them before
    await grace.bubble("one").wait_for()
    assert await grace.texts() == ["one", "two", "three", *said]


async def test_a_reload_of_the_page_fetches_no_list_and_forgets_nothing(base_url: str, page: Page) -> None:
    ada, grace = await phones(page, base_url)
    await both_open(ada, grace)
    await ada.say("seen")
    await ada.bubble("seen", "read").wait_for()
    await grace.close()
    await ada.say("not yet seen")
    await grace.row("not yet seen").wait_for()

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/conversations" in request.url else None)
    await page.reload()
    for phone in (ada, grace):
        await phone.arrive()
    await grace.row("not yet seen").wait_for()
    assert await grace.row().locator('[data-at="row-unread"]').text_content() == "1"
    await ada.open()
    await ada.bubble("seen", "read").wait_for()
    await ada.bubble("not yet seen", "sent").wait_for()
    assert asked == []

    # a newer tab has nothing of it yet: it fetches, and knows the ticks from the inbox
    assert page.context.browser is not None
    other = await page.context.browser.new_page()
    newer, _ = await phones(other, base_url)
    await newer.open()
    await newer.bubble("seen", "read").wait_for()
    await newer.bubble("not yet seen", "sent").wait_for()
    await other.close()


@pytest.mark.parametrize("lost", ["the epoch", "what was kept"])
async def test_where_the_inbox_can_not_bridge_the_gap_the_list_is_fetched(base_url: str, page: Page, lost: str) -> None:
    ada, grace = await phones(page, base_url)
    await ada.open()
    await ada.say("hello")
    await ada.bubble("hello", "sent").wait_for()
    forget = """lost => {
      for (const key of Object.keys(sessionStorage)) {
        if (lost === "what was kept" && key.startsWith("chats:")) sessionStorage.removeItem(key);
        if (lost === "the epoch" && key.startsWith("chats:")) sessionStorage.setItem(key, "[]");
        if (lost === "the epoch" && key.endsWith(":place")) {
          sessionStorage.setItem(key, JSON.stringify({ ...JSON.parse(sessionStorage.getItem(key)), epoch: "another" }));
        }
      }
      location.reload();
    }"""
    async with page.expect_navigation():
        await page.evaluate(forget, lost)
    for phone in (ada, grace):
        await phone.arrive()
    await ada.row("hello").wait_for()
    await grace.row("hello").wait_for()
    await grace.open()
    await grace.bubble("hello").wait_for()


async def test_events_that_overtake_the_list_count(base_url: str, page: Page) -> None:
    """The list that arrives last holds less than what was told while it was on its way."""
    said = await hold_up(page, "**/v1/conversations?*")
    told: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: told.append(str(frame))))
    async with page.expect_response("**/v1/conversations?*"):
        await page.goto(f"{base_url}/")
        ada, grace = Phone(page, "viewer", "Grace"), Phone(page, "creator", "Ada")
        for phone in (ada, grace):
            await expect_state(phone.at, "online")
        await say_over_http(page, base_url, GRACE, ADA, ["one", "two"])
        while not any('"message_preview"' in frame and '"two"' in frame for frame in told):
            await page.wait_for_timeout(20)
        assert await ada.part("unread").is_hidden()
        said.set()
    for phone in (ada, grace):
        await phone.arrive()
    await ada.row("two").wait_for()
    assert await ada.row().locator('[data-at="row-unread"]').text_content() == "2"
    await grace.row("Ada").first.wait_for()


async def test_earlier_messages_come_by_the_page(base_url: str, page: Page) -> None:
    ada, _ = await phones(page, base_url)
    said = [f"message {number}" for number in range(1, 76)]
    await say_over_http(page, base_url, GRACE, ADA, said)
    await ada.row("message 75").wait_for()
    await ada.open()
    await ada.bubble("message 75").wait_for()
    assert await ada.texts() == said[-30:]
    talk = ada.part("talk")
    assert await talk.evaluate("talk => talk.scrollHeight - talk.scrollTop - talk.clientHeight") < 2
    await ada.part("older").click()
    await ada.bubble("message 16").wait_for()
    shown = await talk.evaluate(
        """talk => [...talk.querySelectorAll(".bubble")].filter(bubble => {
             const { top, bottom } = bubble.getBoundingClientRect(), view = talk.getBoundingClientRect();
             return top >= view.top && bottom <= view.bottom;
           }).map(bubble => bubble.textContent)"""
    )
    assert any("message 46" in text for text in shown), "what was before one's eyes stays there"

    await page.reload()  # 50 are kept; the way to those before them begins at the newest
    await ada.arrive()
    await ada.open()
    await ada.bubble("message 75").wait_for()
    assert await ada.texts() == said[-50:]
    bubbles = ada.at.locator(".bubble")
    while (count := await bubbles.count()) < len(said):
        await ada.part("older").dispatch_event("click")  # a real one moves there, which may bring the last ones before
        await bubbles.nth(count).wait_for()
    assert await ada.texts() == said


async def test_what_is_refused_can_be_tried_again(base_url: str, page: Page) -> None:
    ada, grace = await phones(page, base_url)
    await ada.open()
    await ada.say("hello")
    await ada.bubble("hello", "sent").wait_for()
    await ask(page, base_url, GRACE, "PUT", f"blocks/{ADA}")
    await ada.say("are you there?")
    await ada.bubble("are you there?", "failed").wait_for()
    await ask(page, base_url, GRACE, "DELETE", f"blocks/{ADA}")
    await ada.bubble("are you there?").locator('[data-do="again"]').click()
    await ada.bubble("are you there?", "sent").wait_for()
    assert await ada.texts() == ["hello", "are you there?"]
    await grace.row("are you there?").wait_for()


async def test_a_group_names_who_says_what(base_url: str, page: Page) -> None:
    """As seeded: Alan, who has no phone, made it."""
    ada, grace = await phones(page, base_url)
    for phone in (ada, grace):
        await phone.row("Sunday bakers").locator("button").click()
    await grace.say("Ada?")
    await ada.bubble("Ada?").wait_for()
    senders = await ada.at.locator('.bubble [data-at="sender"]').all_text_contents()
    assert senders == ["Alan", "Grace", ""]
    assert await ada.part("chat-status").text_content() == "You, Grace, Alan"
    await ada.close()
    await ada.part("unread").filter(has_text="1").wait_for()  # Alan's hello, to her alone
    assert await ada.row("Sunday bakers").locator('[data-at="row-unread"]').is_hidden()
    assert await grace.bubble("Ada?", "read").count() == 0, "Alan has not read it"
