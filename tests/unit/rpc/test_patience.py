"""A call that takes long is ended when its instance is silent, and nothing else is."""

import asyncio

import pytest

from relaygr.rpc.patience import Patience


async def over(call, is_silent):
    """What a call under patience comes to."""
    patience = Patience(0.0, is_silent, "subject")
    try:
        return await call
    except asyncio.CancelledError:
        if patience.has_ended_it:
            return "given up"
        raise
    finally:
        patience.close()


async def silent(subject):
    assert subject == "subject"
    return True


async def test_a_call_to_a_silent_instance_is_given_up_and_the_task_goes_on():
    never = asyncio.get_running_loop().create_future()
    assert await over(never, silent) == "given up"
    assert never.cancelled()
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


async def test_a_call_to_a_busy_instance_is_waited_for():
    loop = asyncio.get_running_loop()
    answer, asked = loop.create_future(), asyncio.Event()

    async def busy(subject):
        asked.set()
        return False

    task = asyncio.create_task(over(answer, busy))
    await asked.wait()
    answer.set_result("answer")
    assert await task == "answer"


async def test_a_caller_that_goes_is_not_taken_for_a_silent_instance():
    never = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    async def silent_later(subject):
        asked.set()
        # The caller goes between the question and the answer.
        task.cancel()
        return True

    task = asyncio.create_task(over(never, silent_later))
    await asked.wait()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_caller_that_goes_after_the_call_was_given_up_ends_the_request():
    never = asyncio.get_running_loop().create_future()

    async def silent_and_gone(subject):
        asyncio.get_running_loop().call_soon(task.cancel)
        return True

    task = asyncio.create_task(over(never, silent_and_gone))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_was_asked_ends_with_the_call():
    answer, asked = asyncio.get_running_loop().create_future(), asyncio.Event()
    ended = []

    async def slow(subject):
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    task = asyncio.create_task(over(answer, slow))
    await asked.wait()
    answer.set_result(1)
    assert await task == 1
    await asyncio.sleep(0)
    assert ended == [True]
