from hypothesis import given
from hypothesis import strategies as st

from relaygr.domain.chain import PAGE_TOKENS
from services.ranker.core.matching import agrees, usable_tokens
from tests.unit.ranker_core.histories import chain, token_values

lengths = st.sampled_from((1, 2, 51, 127, 128, 129, 150, 151, 200, 256, 257, 258, 300, 400, 513))
variants = st.sampled_from((0, 1, 2, 3))


def common(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(lengths, variants, lengths, variants, st.integers(0, 513))
def test_usable_tokens_are_a_common_prefix_and_as_long_as_promised(held, held_variant, asked, asked_variant, complete):
    complete = min(complete, held)
    one, other = token_values("ann", held, held_variant)[:complete], token_values("ann", asked, asked_variant)
    shared = common(one, other)
    usable = usable_tokens(chain("ann", held, held_variant), complete, chain("ann", asked, asked_variant))
    if shared == min(complete, asked):
        assert usable == shared
    else:
        assert usable == shared // PAGE_TOKENS * PAGE_TOKENS
    assert agrees(chain("ann", held, held_variant), complete, chain("ann", asked, asked_variant)) == (
        shared == min(complete, asked)
    )


@given(lengths, lengths)
def test_nothing_of_another_user_is_usable(held, asked):
    assert usable_tokens(chain("ann", held), held, chain("bob", asked)) == 0
    assert not agrees(chain("ann", held), held, chain("bob", asked))


def test_nothing_complete_agrees_with_everything_and_serves_nobody():
    assert usable_tokens(chain("ann", 300), 0, chain("bob", 300)) == 0
    assert agrees(chain("ann", 300), 0, chain("bob", 300))
