"""Where arithmetic runs: in order, one at a time, away from the event loop."""

import asyncio
import threading

import pytest

from peer.training.compute import Compute, Inline


@pytest.fixture
def compute():
    made = Compute()
    yield made
    made.close()


@pytest.mark.asyncio
async def test_jobs_run_in_one_other_thread_in_their_order(compute):
    ran = []

    def job(number):
        ran.append((number, threading.get_ident()))
        return number

    assert await asyncio.gather(*(compute.run(lambda n=n: job(n)) for n in range(20))) == list(range(20))
    assert [number for number, _ in ran] == list(range(20))
    assert len({thread for _, thread in ran} - {threading.get_ident()}) == 1


@pytest.mark.asyncio
async def test_the_event_loop_goes_on_while_a_job_runs(compute):
    go_on = threading.Event()
    running = asyncio.ensure_future(compute.run(lambda: go_on.wait(timeout=60)))
    await asyncio.sleep(0)
    assert not running.done()
    go_on.set()
    assert await running is True


@pytest.mark.asyncio
async def test_a_brief_job_runs_at_once_where_it_is_alone(compute):
    async with asyncio.timeout(20):
        await compute.run(lambda: None)
        assert await compute.run(threading.get_ident, is_brief=True) == threading.get_ident()


@pytest.mark.asyncio
@pytest.mark.parametrize("given_up", [False, True], ids=["awaited", "given up"])
async def test_a_brief_job_waits_its_turn_behind_another_even_one_that_nobody_awaits(compute, given_up):
    ran = []
    go_on = threading.Event()
    begun = threading.Event()

    def long():
        begun.set()
        go_on.wait(timeout=60)
        ran.append("long")

    first = asyncio.ensure_future(compute.run(long))
    await asyncio.sleep(0)
    begun.wait(timeout=20)
    if given_up:
        first.cancel()
        await asyncio.sleep(0)
    second = asyncio.ensure_future(compute.run(lambda: ran.append("brief"), is_brief=True))
    await asyncio.sleep(0.05)
    assert ran == []
    go_on.set()
    await second
    assert ran == ["long", "brief"]


@pytest.mark.asyncio
@pytest.mark.parametrize("make", [Compute, lambda: Inline(lambda job: 0.0)])
async def test_a_jobs_exception_is_the_callers(make):
    arithmetic = make()
    with pytest.raises(ZeroDivisionError):
        await arithmetic.run(lambda: 1 // 0)
    assert await arithmetic.run(lambda: 1) == 1
    arithmetic.close()


@pytest.mark.asyncio
async def test_nothing_runs_after_closing():
    compute = Compute()
    await compute.run(lambda: None)
    compute.close()
    for is_brief in (False, True):
        with pytest.raises(RuntimeError):
            await compute.run(lambda: None, is_brief=is_brief)


class Hurried(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer."""

    moment = 0.0

    def time(self):
        return self.moment

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.moment = max(self.moment, self._scheduled[0].when())
        super()._run_once()


def test_inline_jobs_take_turns_and_their_price_in_the_loops_seconds():
    async def play():
        clock = asyncio.get_running_loop().time
        inline = Inline(lambda job: {"a": 3.0, "b": 2.0}[job()])
        assert await inline.run(lambda: "a") == "a"
        assert clock() == pytest.approx(3.0)
        ended = []
        async with asyncio.TaskGroup() as tasks:
            for name in "ab":
                tasks.create_task(inline.run(lambda name=name: name)).add_done_callback(
                    lambda done: ended.append((done.result(), clock()))
                )
        assert ended == [("a", pytest.approx(6.0)), ("b", pytest.approx(8.0))]

    with asyncio.Runner(loop_factory=Hurried) as runner:
        runner.run(play())
