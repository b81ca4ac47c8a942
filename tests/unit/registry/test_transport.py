"""What a registry may be made from."""

import pytest

from relaygr.registry import Registry


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"endpoints": ()}, "endpoint"),
        ({"endpoints": ("h:1",), "cert": "c", "key": "k"}, "need ca"),
        ({"endpoints": ("h:1",), "ca": "a", "cert": "c"}, "belong together"),
        ({"endpoints": ("h:1",), "user": "u"}, "belong together"),
    ],
)
def test_half_a_credential_is_refused(options, problem):
    with pytest.raises(ValueError, match=problem):
        Registry(**options)


def test_a_registry_needs_neither_loop_nor_etcd_to_be_made():
    assert Registry(("127.0.0.1:1", "http://127.0.0.1:2"))
