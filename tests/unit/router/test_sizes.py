"""Whatever the number of users, what a router keeps of them has a bound."""

import pytest

from relaygr.domain.ended import EndedTickets
from relaygr.domain.identity import UserKey
from services.router.core.binding import Binding, Subject
from services.router.core.events import Listed, PinRead, UserPlaced
from tests.unit.router.fleet import record

USERS = 5_000
CAPS = {"pins_max": 64, "calls_max": 32, "members_max": 4, "tables_max": 2}


def crowd(core, users, step_ns):
    """Users who come once: placed, expected, pinned, and a call each that never ends."""
    for number in range(users):
        now_ns = 1 + number * step_ns
        user = UserKey("default", str(number))
        subject = Subject(user, user.hashed(b"k" * 16))
        placed = core.resolve(subject, will_admit=True, window_ns=10**9, now_ns=now_ns)
        instance_id, epoch = placed.record.instance_id, placed.record.epoch
        core.handle(UserPlaced(subject.user_hash, instance_id, epoch, 10**6, 10**6, 10**9), now_ns)
        core.handle(PinRead(subject.user_hash, instance_id, epoch, now_ns + 10**9), now_ns)
        core.load.begin(instance_id, 10**6, now_ns, is_rank=True)


@pytest.mark.parametrize("step_ns", [1, 10**6], ids=["at once", "one a millisecond"])
def test_no_table_of_the_core_grows_beyond_its_bound(step_ns):
    core = Binding(**CAPS)
    core.handle(Listed(tuple(record(name) for name in "abcdefgh")), 0)
    crowd(core, USERS, step_ns)
    sizes = core.sizes()
    assert not [name for name, (size, most) in sizes.items() if size > most]
    # The bounds are these, and were reached: a table that nothing fills shows nothing.
    assert {name: sizes[name] for name in ("pins", "recent", "load.calls", "load.due", "members")} == {
        "pins": (64, 64),
        "recent": (64, 64),
        "load.calls": (32, 32),
        "load.due": (32, 32),
        "members": (4, 4),
    }
    core.check()


def test_a_second_crowd_makes_nothing_larger():
    core = Binding(**CAPS)
    core.handle(Listed(tuple(record(name) for name in "ab")), 0)
    crowd(core, USERS // 2, 10**3)
    first = {name: most for name, (_, most) in core.sizes().items()}
    crowd(core, USERS, 10**3)
    assert all(size <= first[name] for name, (size, _) in core.sizes().items())


def test_ended_tickets_are_bounded_by_trigger_and_in_all():
    ended = EndedTickets(triggers_max=3, tickets_max=5)
    for number in range(USERS):
        ended.put(f"trigger-{number % 7}", f"t-{number}")
    assert ended.sizes() == {"ended.triggers": (3, 3), "ended.tickets": (3, 15)}
    for number in range(USERS):
        ended.put("one", f"t-{number}")
    assert ended.sizes()["ended.tickets"][0] <= 15
