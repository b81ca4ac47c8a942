"""The judge of histories on histories made by hand: those that can be, and those that cannot."""

from dataclasses import replace

from tests.system.tier_history.checker import Horizon, check
from tests.system.tier_history.history import Boot, Forget, History, Injection, Load, Store, Version

SHORT, LONG, REWRITTEN = Version(100, "aa"), Version(200, "bb"), Version(100, "cc")
TOMBSTONE_NS = 50
BOOTS = [Boot(boot="b1", started_ns=1)]


def store(version, invoked_ns, ended_ns, *, is_stored=True, is_refused=False):
    return Store(
        user="u",
        version=version,
        bytes_hash=f"bytes of {version.chain}",
        invoked_ns=invoked_ns,
        ended_ns=ended_ns,
        is_stored=is_stored,
        is_refused=is_refused,
    )


def load(version, invoked_ns, found_ns, ended_ns, *, boot="b1", generation=7, **changes):
    good = Load(
        user="u",
        version=version,
        boot=boot,
        generation=generation,
        invoked_ns=invoked_ns,
        found_ns=found_ns,
        ended_ns=ended_ns,
        is_good=True,
        bytes_hash=f"bytes of {version.chain}",
    )
    return replace(good, **changes)


def injection(begun_ns, done_ns, *, kind="flip", has_changed=True, is_certain=True):
    return Injection(
        kind=kind,
        boot="b1",
        generation=7,
        begun_ns=begun_ns,
        done_ns=done_ns,
        has_changed=has_changed,
        is_certain=is_certain,
    )


def forget(invoked_ns, ended_ns, *, is_confirmed=True):
    return Forget(user="u", invoked_ns=invoked_ns, ended_ns=ended_ns, is_confirmed=is_confirmed)


def judge(*operations, boots=BOOTS):
    history = History(boots=list(boots))
    places = {Store: history.stores, Load: history.loads, Forget: history.forgets, Injection: history.injections}
    for one in operations:
        places[type(one)].append(one)
    return check(history, TOMBSTONE_NS)


def problems(*operations, boots=BOOTS):
    return {name for name, loads in judge(*operations, boots=boots).problems.items() if loads}


def test_a_horizon_is_the_largest_value_set_strictly_before():
    horizon = Horizon([(10, 5), (20, 3), (30, 8)])
    assert [horizon.before(at) for at in (5, 10, 11, 25, 30, 31)] == [0, 0, 5, 5, 5, 8]


def test_what_was_stored_before_may_be_loaded():
    assert not problems(store(SHORT, 10, 20), load(SHORT, 30, 31, 40))


def test_a_store_and_a_load_at_the_same_time_may_come_in_either_order():
    assert not problems(store(SHORT, 10, 90), load(SHORT, 30, 31, 40))


def test_what_nobody_stored_is_not_loaded():
    assert problems(load(SHORT, 30, 31, 40)) == {"never_stored", "wrong_bytes"}
    assert problems(store(LONG, 10, 20), load(SHORT, 30, 31, 40)) == {"never_stored", "wrong_bytes"}


def test_a_store_called_after_the_lookup_was_answered_is_too_late():
    assert problems(store(SHORT, 35, 36), load(SHORT, 30, 31, 40)) == {"never_stored"}


def test_a_refused_store_is_not_loaded():
    assert problems(store(SHORT, 10, 20, is_stored=False, is_refused=True), load(SHORT, 30, 31, 40)) == {"never_stored"}


def test_a_store_of_unknown_end_may_be_loaded_any_time_later():
    unanswered = store(SHORT, 10, None, is_stored=False)
    assert not problems(unanswered, store(LONG, 30, 40), forget(50, 60), load(SHORT, 500, 510, 520))


def test_a_longer_version_that_was_stored_since_hides_the_shorter_one():
    operations = store(SHORT, 10, 20), store(LONG, 30, 40)
    assert problems(*operations, load(SHORT, 50, 51, 60)) == {"replaced"}
    assert not problems(*operations, load(LONG, 50, 51, 60))
    assert not problems(*operations, load(SHORT, 39, 41, 60)), "its lookup was under way"


def test_a_rewritten_version_hides_one_of_the_same_length():
    assert problems(store(SHORT, 10, 20), store(REWRITTEN, 30, 40), load(SHORT, 50, 51, 60)) == {"replaced"}


def test_a_shorter_version_does_not_hide_a_longer_one():
    assert not problems(store(LONG, 10, 20), store(SHORT, 30, 40), load(LONG, 50, 51, 60))


def test_stores_at_the_same_time_hide_neither():
    operations = store(SHORT, 10, 40), store(LONG, 30, 50)
    assert not problems(*operations, load(SHORT, 60, 61, 70))
    assert not problems(*operations, load(LONG, 60, 61, 70))


def test_a_version_stored_again_is_there_again():
    assert not problems(store(SHORT, 10, 20), store(LONG, 30, 40), store(SHORT, 50, 60), load(SHORT, 70, 71, 80))


def test_a_forgotten_version_is_not_loaded():
    assert problems(store(SHORT, 10, 20), forget(30, 40), load(SHORT, 50, 51, 60)) == {"forgotten"}


def test_a_pin_does_not_outlive_a_forget():
    operations = store(SHORT, 10, 20), forget(30, 40)
    assert problems(*operations, load(SHORT, 25, 45, 60)) == {"forgotten"}, "pinned before, copied after"
    assert not problems(*operations, load(SHORT, 25, 35, 60)), "its copy may have ended before"


def test_a_store_under_way_does_not_outlive_a_forget_either():
    assert problems(store(SHORT, 10, 60), forget(30, 40), load(SHORT, 70, 71, 80)) == {"forgotten"}
    assert problems(store(SHORT, 45, 60), forget(30, 40), load(SHORT, 70, 71, 80)) == {"forgotten"}, "the tombstone"


def test_after_the_tombstone_a_user_is_stored_again():
    assert not problems(store(SHORT, 85, 90), forget(30, 40), load(SHORT, 95, 96, 99))


def test_a_tombstone_ends_with_its_expander():
    boots = [*BOOTS, Boot(boot="b2", started_ns=45)]
    assert not problems(store(SHORT, 50, 60), forget(30, 40), load(SHORT, 70, 71, 80, boot="b2"), boots=boots)


def test_a_forget_that_nobody_confirmed_says_nothing():
    assert not problems(store(SHORT, 10, 20), forget(30, 40, is_confirmed=False), load(SHORT, 50, 51, 60))


def test_an_expander_that_starts_has_nothing():
    boots = [*BOOTS, Boot(boot="b2", started_ns=25)]
    assert problems(store(SHORT, 10, 20), load(SHORT, 50, 51, 60, boot="b2"), boots=boots) == {"of_an_ended_boot"}


def test_other_bytes_than_the_versions_are_wrong():
    assert problems(store(SHORT, 10, 20), load(SHORT, 30, 31, 40, bytes_hash="others")) == {"wrong_bytes"}


def test_a_generation_has_one_content():
    operations = store(SHORT, 10, 20), store(LONG, 10, 20)
    found = problems(*operations, load(SHORT, 30, 31, 40), load(LONG, 30, 31, 40))
    assert found == {"two_contents_of_one_generation"}
    assert not problems(*operations, load(SHORT, 30, 31, 40), load(LONG, 30, 31, 40, generation=8))


REFUSED = {"is_good": False, "bytes_hash": "", "has_failed_digest": True}


def test_a_damage_that_a_load_refused_is_detected():
    verdict = judge(store(SHORT, 10, 20), injection(25, 26), load(SHORT, 30, 31, 40, **REFUSED))
    assert verdict.is_right
    assert (verdict.counts["offered"], verdict.counts["detected"], verdict.counts["undetected"]) == (1, 1, 0)


def test_a_damage_that_a_load_believed_is_undetected():
    verdict = judge(store(SHORT, 10, 20), injection(25, 26), load(SHORT, 30, 31, 40))
    assert not verdict.is_right
    assert (verdict.counts["offered"], verdict.counts["detected"], verdict.counts["undetected"]) == (1, 0, 1)


def test_a_damage_that_was_done_during_the_copy_may_be_missed():
    verdict = judge(store(SHORT, 10, 20), injection(32, 33), load(SHORT, 30, 31, 40))
    assert verdict.is_right and verdict.counts["offered"] == 0


def test_a_load_that_came_to_nothing_for_another_reason_detects_nothing():
    stopped = load(SHORT, 30, 31, 40, is_good=False, bytes_hash="")
    verdict = judge(store(SHORT, 10, 20), injection(25, 26), stopped)
    assert verdict.is_right and verdict.counts["offered"] == 0
    verdict = judge(store(SHORT, 10, 20), injection(25, 26, kind="stamp"), stopped)
    assert verdict.is_right and verdict.counts["detected"] == 1


def test_what_harms_nobody_may_be_believed():
    verdict = judge(store(SHORT, 10, 20), injection(25, 26, has_changed=False), load(SHORT, 30, 31, 40))
    assert verdict.is_right and verdict.counts["unharmed"] == 1 and verdict.counts["offered"] == 0


def test_a_digest_that_fails_without_damage_is_a_false_alarm():
    failed = load(SHORT, 30, 31, 40, **REFUSED)
    assert problems(store(SHORT, 10, 20), failed) == {"false_alarm"}
    assert problems(store(SHORT, 10, 20), failed, injection(45, 46)) == {"false_alarm"}, "the damage came later"
    assert problems(store(SHORT, 10, 20), failed, injection(25, 26, has_changed=False)) == {"false_alarm"}
    elsewhere = replace(injection(25, 26, is_certain=False), generation=8)
    assert not problems(store(SHORT, 10, 20), failed, elsewhere), "it may have hit this one"
