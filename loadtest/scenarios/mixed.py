"""What an app's users do all day: a few videos are popular and most are not, people like, view, share and comment,
send again what they sent before, lose their connection and come back, and some read slowly.

Open loop at a given rate. Every phone's events are checked as they come, every repeated action must be a replay, and
in the end totals, balances and inboxes must fit what was acknowledged and told.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from handlers.directory.wire import PutUserRequest, PutVideoRequest
from loadtest.crew import Checked, Part, Share, Target, new_run, pace
from loadtest.figures import Figure
from loadtest.measure import CHECKING, Conduct, Window, measured
from loadtest.promises import Reservoir, check_replays, check_totals, check_witnesses, sum_of_totals
from loadtest.scenarios.likes import FOLLOWERS, FOLLOWS, seed
from loadtest.scenarios.people import Action, Habits, Person
from loadtest.servers import Server
from loadtest.witness import CHAIN, NO_GAP, Answer, Witness

WARM_UP_S: Final = 1.0
VIDEOS: Final = 1_000
ZIPF: Final = 1.1  # the n-th most popular video gets 1 / n ** ZIPF of the first one's
CREATOR_EVERY, FLAPS_EVERY, SLOW_EVERY = 10, 7, 20  # of people: every so manieth one
REPEATS: Final = 0.05  # of all actions: one that was answered already, with the same actionId
ONLINE_TRIES: Final = 5

# of the rest, in per cent
_EVENTS: Final = {"video:view": 60, "video:like": 25, "video:share": 6, "video:comment": 6, "video:unlike": 3}
_NAMES: Final = list(_EVENTS)
_CHANCES: Final = list(itertools.accumulate(_EVENTS.values()))


class MixedJob(msgspec.Struct, frozen=True, tag="mixed", kw_only=True):
    """`rate`: actions a second of all parts. `run` and `patience_s` are filled in by `run_mixed`."""

    people: int
    first_user: int
    rate: float
    run: str = ""
    videos: int = VIDEOS
    patience_s: float = 0.0

    def part(self, target: Target, share: Share) -> Part:
        """One process's people."""
        return MixedPart(self, target, share)


class MixedPart(Part):
    """Some of the people."""

    def __init__(self, job: MixedJob, target: Target, share: Share) -> None:
        super().__init__()
        self._job, self._target, self._share = job, target, share
        self._order, self._chain = Checked(4, NO_GAP), Checked(3, CHAIN)
        self._kept = Reservoir()
        self._stopped = False
        self._number = 0
        self._popularity = list(itertools.accumulate(1 / n**ZIPF for n in range(1, job.videos + 1)))
        self._people: list[Person] = []
        self._lives: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        self._people = [self._person(number) for number in self._share.of_people(self._job.people)]
        self._lives = [asyncio.create_task(person.live()) for person in self._people]
        while not all(person.is_online or person.habits.flaps for person in self._people):
            await asyncio.sleep(0.02)

    async def begin(self) -> None:
        rate = self._job.rate / self._share.of
        self._actors = [person for person in self._people if not person.habits.is_slow]
        self.pacing = asyncio.create_task(pace(rate, self._act, lambda: self._stopped))

    async def stop(self) -> None:
        self._stopped = True
        if self.pacing is not None:
            await self.pacing
        for person in self._people:
            person.settle()

    async def end(self) -> None:
        now = time.perf_counter()
        for action in (action for person in self._people for action in person.waiting):
            self.count.fault(f"never answered: {action.event} {action.payload.decode()}")
            if action.due:
                self.count.waits.record(now - action.due)
        witnesses = {person.user: person.witness for person in self._people}
        self.count.checked = [self._order, self._chain]
        self.count.checked += await check_replays(self._target, self._kept.all)
        self.count.checked += await check_witnesses(self._target, witnesses, self._job.patience_s)
        self.count.note("reloads", sum(witness.reloads for witness in witnesses.values()))
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)

    def _person(self, number: int) -> Person:
        habits = habits_of(number)
        user = self._job.first_user + number
        witness = Witness(user, self._order, self._chain, is_creator=habits.is_creator)
        person = Person(user, self._target, self.count, witness, habits)
        person.kept, person.on_answer = self._kept, self._tally
        return person

    def _act(self, due: float) -> bool:
        """Somebody who is online, if one is found soon, does something."""
        for _ in range(ONLINE_TRIES):
            person = random.choice(self._actors)
            if person.is_online:
                break
        if person.answers and random.random() < REPEATS:
            first = random.choice(person.answers)
            self.count.note("retries")
            person.act(Action(first.event, first.payload, due, repeats=first))
            return True
        event = random.choices(_NAMES, cum_weights=_CHANCES)[0]
        video = random.choices(range(self._job.videos), cum_weights=self._popularity)[0]
        self._number += 1
        payload = {
            "videoId": video_id(self._job.first_user, video),
            "actionId": f"{self._job.run}-{self._share.number}-{self._number}",
        }
        if event == "video:comment":
            payload["text"] = f"Comment {self._number}, with applause 👏"
        person.act(Action(event, msgspec.json.encode(payload), due))
        return True

    def _tally(self, person: Person, action: Action, answer: Answer) -> None:
        """What this adds to the totals."""
        if answer.ok and action.repeats is None:
            name = action.event.removeprefix("video:")
            self.count.note(f"{name}s")
            already = answer.data is not None and answer.data.already
            if name == "unlike":
                self.count.note("totals", 0 if already else -1)
            else:
                self.count.note("totals", 0 if already and name == "like" else 1)


def habits_of(number: int) -> Habits:
    """What kind of phone the `number`-th person has: half of the creators read slowly."""
    return Habits(
        flaps=number % FLAPS_EVERY == FLAPS_EVERY - 1 and number % CREATOR_EVERY != 0,
        is_slow=number % SLOW_EVERY == 0,
        is_creator=number % CREATOR_EVERY == 0,
    )


def video_id(first_user: int, number: int) -> str:
    """The `number`-th most popular one."""
    return f"mixed-{first_user}-{number}"


def videos_of(job: MixedJob) -> Iterator[tuple[str, int]]:
    """All videos, each with its owner."""
    creators = [job.first_user + number for number in range(job.people) if habits_of(number).is_creator]
    for number in range(job.videos):
        yield video_id(job.first_user, number), creators[number % len(creators)]


async def run_mixed(server: Server, job: MixedJob, *, seconds: float, conduct: Conduct = CHECKING) -> Figure:
    """Actions per second, and their latency, at a rate that the server should bear."""
    owners = dict(videos_of(job))
    users = {
        job.first_user + number: PutUserRequest(
            username=f"person_{number}",
            following_count=FOLLOWS,
            followers_count=FOLLOWERS if habits_of(number).is_creator else 0,
        )
        for number in range(job.people)
    }
    videos = {video: PutVideoRequest(owner_id=owner, title="A video") for video, owner in owners.items()}
    await seed(server, users, videos)
    before = await sum_of_totals(server, owners)
    job = msgspec.structs.replace(job, run=new_run(), patience_s=conduct.patience_s)
    window = Window(f"mixed, {job.rate:,.0f}/s", "actions/s", seconds, WARM_UP_S)
    figure, count = await measured(server, job, window, conduct)
    count.checked.append(
        await check_totals(server, list(owners), before + count.more.get("totals", 0), conduct.patience_s)
    )
    conduct.found(count.checked)
    told = ", ".join(f"{number:,} {name}" for name, number in sorted(count.more.items()) if name != "totals")
    note = "; ".join(filter(None, (figure.note, f"{job.people:,} people", told)))
    return msgspec.structs.replace(figure, note=note)
