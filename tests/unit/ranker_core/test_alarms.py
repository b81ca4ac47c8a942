from services.ranker.core.alarms import Alarms


def due(alarms: Alarms, now_ns: int) -> list:
    names = []
    while (name := alarms.pop_due(now_ns)) is not None:
        names.append(name)
    return names


def test_alarms_come_out_by_time_and_then_by_order_of_setting():
    alarms = Alarms()
    for name, when_ns in (("late", 30), ("b", 10), ("a", 10), ("middle", 20)):
        alarms.set(name, when_ns)
    assert alarms.next_ns() == 10
    assert due(alarms, 20) == ["b", "a", "middle"]
    assert due(alarms, 29) == []
    assert due(alarms, 30) == ["late"]
    assert alarms.next_ns() is None


def test_moved_alarm_goes_off_once_at_its_new_time():
    alarms = Alarms()
    alarms.set("x", 10)
    alarms.set("x", 30)
    assert due(alarms, 20) == []
    alarms.set("x", 5)
    assert due(alarms, 40) == ["x"]
    assert len(alarms) == 0


def test_cleared_alarm_never_goes_off():
    alarms = Alarms()
    alarms.set("x", 10)
    alarms.clear("x")
    alarms.clear("never set")
    assert alarms.next_ns() is None
    assert due(alarms, 100) == []


def test_heap_stays_within_a_constant_of_the_alarms_set():
    alarms = Alarms()
    for i in range(10_000):
        alarms.set("x", i)
        alarms.set("y", 10_000 + i)
    assert len(alarms) == 2
    assert len(alarms._heap) <= 2 * 2 + 65
    assert due(alarms, 1 << 60) == ["x", "y"]
