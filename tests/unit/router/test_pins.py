"""The table of pins: time to live and cap."""

from services.router.core.pins import Pin, Pins


def test_a_pin_ends_at_its_time():
    pins = Pins()
    pins.put("u", Pin("a", 1, 100))
    assert pins.get("u", 99) == Pin("a", 1, 100)
    assert pins.get("u", 100) is None
    assert pins.deadline_ns() == 100
    pins.expire(100)
    assert len(pins) == 0


def test_a_moved_pin_keeps_its_later_end():
    pins = Pins()
    pins.put("u", Pin("a", 1, 100))
    pins.put("u", Pin("b", 1, 200))
    pins.expire(150)
    assert pins.get("u", 150) == Pin("b", 1, 200)


def test_when_full_the_first_to_expire_makes_room():
    pins = Pins(pins_max=2)
    pins.put("late", Pin("a", 1, 300))
    pins.put("early", Pin("a", 1, 100))
    pins.put("new", Pin("a", 1, 200))
    assert [user for user in ("late", "early", "new") if pins.get(user, 0)] == ["late", "new"]
    pins.check()


def test_a_user_that_is_pinned_again_and_again_takes_one_place():
    pins = Pins(pins_max=2)
    for index in range(1000):
        pins.put("u", Pin("a", 1, 100 + index))
        pins.check()
    assert len(pins) == 1
    pins.drop("u")
    pins.drop("u")
    pins.expire(10_000)
    assert pins.deadline_ns() is None
