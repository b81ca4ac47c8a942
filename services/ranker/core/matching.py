"""What of a held psi a history can use. All that stands between a rank and somebody else's K/V (I5).

Source: design, section 4 (identity and exactness), invariant I5.
"""

from __future__ import annotations

from relaygr.domain.chain import PAGE_TOKENS, Chain


def usable_tokens(held: Chain, complete_tokens: int, asked: Chain) -> int:
    """Leading tokens that `asked` has in common with the first `complete_tokens` of `held`.

    All of the shorter one when it is a true prefix, else whole pages: exact to the token
    would cost a digest per bisection step inside a page and win at most one page.
    """
    limit = min(complete_tokens, asked.token_count)
    if limit == 0:
        return 0
    if held.shares(asked, limit):
        return limit
    shared, unknown = 0, (limit - 1) // PAGE_TOKENS
    while shared < unknown:
        middle = (shared + unknown + 1) // 2
        if held.shares(asked, middle * PAGE_TOKENS):
            shared = middle
        else:
            unknown = middle - 1
    return shared * PAGE_TOKENS


def agrees(held: Chain, reach_tokens: int, asked: Chain) -> bool:
    """True when of `asked` and the first `reach_tokens` of `held` one is a prefix of the other."""
    limit = min(reach_tokens, asked.token_count)
    return limit == 0 or held.shares(asked, limit)
