import pytest

from services.ranker.core.tickets import DECLINE_OF, FALLBACK_OF, Closing, Ticket, TicketBook
from tests.unit.ranker_core.histories import chain


def ticket(ticket_id: str) -> Ticket:
    return Ticket(ticket_id, 1, chain("ann", 100), 1_000, 100)


def test_memory_of_closed_tickets_is_bounded_and_drops_the_oldest():
    book = TicketBook(tickets_max=2)
    for i in range(20):
        book.note(f"t{i}", Closing.DECLINED)
    assert list(book.closed) == [f"t{i}" for i in range(12, 20)]


def test_what_is_known_of_a_closed_ticket_stays():
    book = TicketBook(2)
    book.note("t1", Closing.CONSUMED)
    book.note("t1", Closing.DECLINED)
    assert book.closing_of("t1") == Closing.CONSUMED
    book.note("t2", Closing.DECLINED)
    book.note("t2", Closing.CONSUMED)
    assert book.closing_of("t2") == Closing.CONSUMED


def test_first_answer_is_counted_once_through_open_and_closed():
    book = TicketBook(2)
    assert not book.first_answer("t1"), "nothing is known of it"
    book.add(ticket("t1"))
    assert book.first_answer("t1")
    assert not book.first_answer("t1")
    book.close("t1", Closing.CONSUMED)
    assert not book.first_answer("t1")


def test_declined_ticket_that_opens_later_keeps_its_count():
    book = TicketBook(2)
    book.note("t1", Closing.DECLINED)
    assert book.first_answer("t1")
    book.add(ticket("t1"))
    assert not book.first_answer("t1")
    assert book.closing_of("t1") is None


def test_a_note_is_taken_back_only_while_it_says_so():
    book = TicketBook(2)
    book.note("t1", Closing.RANKED_FIRST)
    book.unnote("t1", Closing.RANKED_FIRST)
    assert book.closing_of("t1") is None
    book.note("t1", Closing.CONSUMED)
    book.unnote("t1", Closing.RANKED_FIRST)
    assert book.closing_of("t1") == Closing.CONSUMED


@pytest.mark.parametrize("closing", Closing)
def test_every_closing_has_an_answer_for_late_ranks_and_pre_infers(closing):
    assert closing in FALLBACK_OF
    assert closing in DECLINE_OF
