"""I42, I15: storages agree about limits and lanes where these are nearly all that there is: the machine of test_agreement.py, with more of
them and without what is far from them."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from flux.core.status import RunStatus
from flux.storage import Header

from .test_agreement import CODES, LANES, VERSIONS, Agreement

LIMITED = ["flow", "other"]


class Queues(Agreement):
    commit = create = post = purge = read = advance = unschedule = read_schedules = commit_again = renew = None  # type: ignore[assignment]

    number = 0

    @rule(data=st.data(), lane=LANES, count=st.integers(1, 3), priority=st.sampled_from([0, 0, 1, -2]), delay=st.sampled_from([0, 0, 0, 5]))
    def enqueue(self, data: st.DataObject, lane: str, count: int, priority: int, delay: int) -> None:
        version = data.draw(st.sampled_from([*[VERSIONS[0]] * 4, *VERSIONS]))
        for _ in range(count):
            self.number += 1
            self.make(self.new(f"r{self.number}", version, lane=lane, priority=priority, delay=delay * 1_000_000))

    @rule(data=st.data(), limit=st.integers(1, 4))
    def claim_within_limits(self, data: st.DataObject, limit: int) -> None:
        worker = self.a_worker(data)
        limits = [self.a_limit(data, workflow) for workflow in LIMITED]
        for one in limits:
            one.per_key = data.draw(st.integers(1, 2))
        codes = data.draw(st.sampled_from([CODES, CODES, CODES[:2], CODES[:4]]))
        claimed = self.ask(
            lambda: self.model.claim(worker, codes, limit, limits), lambda _, storage: storage.claim(worker, codes, limit, limits)
        )
        self.saw(*([] if claimed is None else claimed.runs))

    @precondition(lambda self: any(run.header.owner is not None for run in self.model.runs.values()))
    @rule(data=st.data(), how=st.sampled_from(["ends", "ends", "rests", "sleeps", "goes on"]))
    def give_up(self, data: st.DataObject, how: str) -> None:
        held: list[Header] = [run.header for _, run in sorted(self.model.runs.items()) if run.header.owner is not None]
        head = data.draw(st.sampled_from(held))
        status = {"ends": RunStatus.COMPLETED, "goes on": RunStatus.RUNNING}.get(how, RunStatus.SUSPENDED)
        wake = {"goes on": self.clock.now(), "sleeps": self.clock.now() + 5_000_000}.get(how)
        self.send(self.leave(head, status, wake, data.draw(st.sampled_from([(), (), (), ("s",)]))))


TestQueues = Queues.TestCase
TestQueues.settings = settings(stateful_step_count=40, max_examples=25)
TestQueues.__doc__ = "I42, I15: whoever is parked, and whoever is let in, is the same everywhere; nobody is left behind."
