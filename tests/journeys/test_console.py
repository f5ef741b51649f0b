"""The demo page in a real browser: Ada likes, Grace hears of it, misses something, and catches up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.console import IN_BROWSER, expect_state

if TYPE_CHECKING:
    from playwright.async_api import Locator, Page

pytestmark = IN_BROWSER


async def test_two_phones_like_hear_and_catch_up(base_url: str, page: Page) -> None:
    await the_story(page, base_url)


async def the_story(page: Page, base_url: str) -> None:
    """Everything that the page invites a visitor to try, in the page's own order."""
    await page.goto(f"{base_url}/")
    ada, grace = page.locator('[data-phone="viewer"]'), page.locator('[data-phone="creator"]')
    await expect_state(ada, "online")
    await expect_state(grace, "online")
    for phone in (ada, grace):
        await phone.locator('[data-at="spoken-balance"]', has_text="LYK").wait_for()
    first, second = await _videos(ada)

    # a like pays both, and Grace hears of it
    before = await _balances(ada, grace)
    await ada.locator(f'[data-video="{first}"] [data-do="like"]').click()
    await _expect_balance(ada, before[0] + 1)
    await _expect_balance(grace, before[1] + 1)
    await grace.locator('.event[data-icon="heart"]').first.wait_for()
    assert await ada.locator(f'[data-video="{first}"] [data-at="likes"]').text_content() != "0"

    # Grace is away; her inbox goes on, and she catches up
    await grace.locator('[data-do="switch"]').click()
    await expect_state(grace, "stopped")
    await ada.locator(f'[data-video="{second}"] [data-do="like"]').click()
    await _expect_balance(ada, before[0] + 2)
    assert await _balance(grace) == before[1] + 1
    await grace.locator('[data-do="switch"]').click()
    await grace.locator('[data-at="banner"]', has_text="Caught up").wait_for()
    assert await grace.locator(".event.replayed").count() >= 2
    await _expect_balance(grace, before[1] + 2)

    # liking again counts again and pays nobody; Ada is offline meanwhile, so her outbox does it
    await ada.locator('[data-do="switch"]').click()
    await expect_state(ada, "stopped")
    heart = ada.locator(f'[data-video="{first}"] [data-do="like"]')
    await heart.click()
    await heart.click()
    await ada.locator('[data-at="banner"]', has_text="2 taps wait").wait_for()
    await ada.locator('[data-do="switch"]').click()
    await ada.locator(f'[data-video="{first}"] [data-at="remark"]', has_text="Paid once before").wait_for()
    assert await _balances(ada, grace) == (before[0] + 2, before[1] + 2)

    # she writes, and it is read
    for phone in (ada, grace):
        await phone.locator('[data-tab="messages"]').click()
    await ada.locator(".conversation", has_text="Grace").last.locator("button").click()
    await ada.locator('[data-at="composer-text"]').fill("Lovely light!")
    await ada.locator('[data-do="send"]').click()
    await grace.locator(".conversation", has_text="Lovely light!").locator("button").click()
    await ada.locator('.bubble[data-state="read"]', has_text="Lovely light!").wait_for()

    assert await page.locator("#tour .done").count() == await page.locator("#tour li").count()
    await _expect_no_tokens(page)


async def test_what_was_tapped_offline_outlives_the_page_and_is_sent_once(base_url: str, page: Page) -> None:
    await page.goto(f"{base_url}/")
    ada, grace = page.locator('[data-phone="viewer"]'), page.locator('[data-phone="creator"]')
    await expect_state(ada, "online")
    for phone in (ada, grace):
        await phone.locator('[data-at="spoken-balance"]', has_text="LYK").wait_for()
    first, second = await _videos(ada)
    before = await _balances(ada, grace)
    await ada.locator('[data-do="switch"]').click()
    await expect_state(ada, "stopped")
    for video in (first, second):
        await ada.locator(f'[data-video="{video}"] [data-do="like"]').click()
    await ada.locator(f'[data-video="{first}"] [data-do="share"]').click()

    for _ in range(2):  # a reload changes nothing
        await expect_state(ada, "stopped")
        await ada.locator('[data-at="banner"]', has_text="3 taps wait").wait_for()
        shown = await ada.locator('[data-at="outbox"] [data-at="text"]').all_text_contents()
        assert [row.split(" · ")[0] for row in shown] == ["Like", "Like", "Share"]
        assert await ada.locator(f'[data-video="{second}"] [data-do="like"]').get_attribute("aria-pressed") == "true"
        await page.reload()

    await ada.locator('[data-do="switch"]').click()
    await _expect_balance(ada, before[0] + 1 + 1 + 2)
    await _expect_balance(grace, before[1] + 3)
    assert await ada.locator('[data-at="outbox"] li').count() == 0
    assert await ada.locator(f'[data-video="{first}"] [data-at="shares"]').text_content() == "1"
    await page.reload()
    await _expect_balance(ada, before[0] + 4)


async def test_comments_follows_and_gifts(base_url: str, page: Page) -> None:
    await page.goto(f"{base_url}/")
    ada, grace = page.locator('[data-phone="viewer"]'), page.locator('[data-phone="creator"]')
    for phone in (ada, grace):
        await phone.locator('[data-at="spoken-balance"]', has_text="LYK").wait_for()
    first, _ = await _videos(ada)
    before = await _balances(ada, grace)

    video = ada.locator(f'[data-video="{first}"]')
    await video.locator('[data-do="comment"]').click()
    await video.locator('[data-at="comment-text"]').fill("What <b>light</b>!")
    await video.locator('[data-do="comment-form"] button').click()
    await video.locator('[data-at="comment-list"]', has_text="What <b>light</b>!").wait_for()
    await grace.locator('.event[data-icon="comment"]', has_text="What <b>light</b>!").wait_for()
    await _expect_balance(ada, before[0] + 2)

    await ada.locator('[data-do="follow"]').click()
    await grace.locator('.event[data-icon="star"]').wait_for()
    assert await ada.locator('[data-do="follow"]').get_attribute("aria-pressed") == "true"

    await ada.locator('[data-at="amount"]').fill("1.5")
    await ada.locator('[data-do="gift"] button').click()
    await _expect_balance(ada, before[0] + 0.5)
    await _expect_balance(grace, before[1] + 1.5)
    await ada.locator('[data-at="amount"]').fill("1000")
    await ada.locator('[data-do="gift"] button').click()
    await ada.locator('[data-at="person-remark"]:not(:has-text("sent")):not(:empty)').wait_for()
    assert await _balances(ada, grace) == (before[0] + 0.5, before[1] + 1.5)


async def _videos(phone: Locator) -> tuple[str, str]:
    first, second, *_ = await phone.locator("[data-video]").evaluate_all("all => all.map(one => one.dataset.video)")
    return first, second


async def _balance(phone: Locator) -> float:
    """What is read out, in LYK: the visible number is still counting up."""
    spoken = await phone.locator('[data-at="spoken-balance"]').text_content() or ""
    return float(spoken.split()[1].replace(",", ""))


async def _balances(*phones: Locator) -> tuple[float, ...]:
    return tuple([await _balance(phone) for phone in phones])


async def _expect_balance(phone: Locator, balance: float) -> None:
    await phone.locator('[data-at="spoken-balance"]', has_text=f"Balance {balance:,.2f} LYK").wait_for()


async def _expect_no_tokens(page: Page) -> None:
    shown = await page.locator("#wire").text_content() or ""
    assert '"token":"•••"' in shown
    assert shown.count('"token":') == shown.count('"token":"•••"')
