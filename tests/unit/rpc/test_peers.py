"""Of several addresses one is called, and the next one once it is lost."""

from relaygr.rpc.peers import Peers


def test_the_first_address_is_called_until_it_is_lost():
    peers = Peers("a:1, b:2,c:3")
    assert peers.current == "a:1"
    peers.lost("a:1")
    assert peers.current == "b:2"


def test_calls_that_were_lost_together_move_on_once():
    peers = Peers("a:1,b:2,c:3")
    peers.lost("a:1")
    peers.lost("a:1")
    assert peers.current == "b:2"


def test_after_the_last_comes_the_first():
    peers = Peers("a:1,b:2")
    peers.lost("a:1")
    peers.lost("b:2")
    assert peers.current == "a:1"


def test_a_single_address_stays():
    peers = Peers("a:1")
    peers.lost("a:1")
    assert peers.current == "a:1"


def test_whom_to_ask_instead_of_one():
    peers = Peers("a:1,b:2")
    assert (peers.after("a:1"), peers.after("b:2"), Peers("a:1").after("a:1")) == ("b:2", "a:1", "a:1")
    assert peers.has_others and not Peers("a:1").has_others
