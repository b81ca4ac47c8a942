"""Names in etcd."""

from relaygr.registry import keys


def test_an_id_cannot_leave_its_prefix():
    key = keys.instance_key("../slots/model a")
    assert key.startswith(keys.INSTANCES_PREFIX)
    assert "/" not in key[len(keys.INSTANCES_PREFIX) :]
    assert keys.id_of(key, keys.INSTANCES_PREFIX) == "../slots/model a"


def test_no_prefix_contains_another():
    prefixes = [
        keys.INSTANCES_PREFIX,
        keys.SLOTS_PREFIX,
        keys.PINS_PREFIX,
        keys.ROUTERS_PREFIX,
        keys.TRIGGERS_PREFIX,
        keys.ELECTION_PREFIX,
    ]
    for one in prefixes:
        assert one.startswith(keys.PREFIX)
        assert [other for other in prefixes if other.startswith(one)] == [one]
