"""Tickets that ended, until their trigger asks."""

from relaygr.domain.ended import TAKEN_MAX, EndedTickets


def told(*puts, **bounds):
    ended = EndedTickets(**bounds)
    for trigger_id, ticket_id in puts:
        ended.put(trigger_id, ticket_id)
    return ended


def test_a_trigger_is_told_of_its_own_tickets_in_the_order_of_their_ends():
    ended = told(("a", "1"), ("b", "2"), ("a", "3"))
    assert ended.take("a") == ["1", "3"]
    assert ended.take("b") == ["2"]


def test_a_ticket_is_handed_out_once():
    ended = told(("a", "1"))
    assert ended.take("a") == ["1"]
    assert ended.take("a") == []
    ended.put("a", "2")
    assert ended.take("a") == ["2"]


def test_a_trigger_that_is_unknown_is_told_nothing():
    assert told(("a", "1")).take("b") == []


def test_a_ticket_of_no_trigger_is_not_kept():
    ended = told(("a", "1"), ("", "2"), triggers_max=1)
    assert ended.take("") == []
    assert ended.take("a") == ["1"], "it took nobody's place either"


def test_so_many_are_handed_out_at_once_and_the_rest_with_the_next():
    tickets = [str(number) for number in range(TAKEN_MAX + 2)]
    ended = told(*(("a", ticket) for ticket in tickets))
    assert ended.take("a") == tickets[:TAKEN_MAX]
    assert ended.take("a") == tickets[TAKEN_MAX:]


def test_of_one_trigger_the_oldest_tickets_go_first():
    ended = told(("a", "1"), ("a", "2"), ("b", "3"), ("a", "4"), tickets_max=2)
    assert ended.take("a") == ["2", "4"]
    assert ended.take("b") == ["3"], "others lose nothing by it"


def test_the_trigger_told_of_longest_ago_goes_first():
    ended = told(("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), triggers_max=2)
    assert ended.take("b") == []
    assert (ended.take("a"), ended.take("c")) == (["1", "3"], ["4"])


def test_a_trigger_that_is_known_takes_nobodys_place():
    ended = told(("a", "1"), ("b", "2"), ("b", "3"), triggers_max=2)
    assert (ended.take("a"), ended.take("b")) == (["1"], ["2", "3"])
