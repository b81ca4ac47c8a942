"""The native kernel: held to the oracle, equal to itself to the bit, on every instruction set this machine has."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.model.error import logit_error
from relaygr.model.interface import TORCH_DTYPES, PageView, new_arena
from relaygr.model.native_stack import Part
from relaygr.model.ops import native, reference
from relaygr.model.pages import CachedKV
from relaygr.model.run import run
from relaygr.native import LEVELS, load
from tests.model.models import small_model

pytestmark = pytest.mark.skipif(load() is None, reason="no native kernels on this machine")

WIDE = {"width": 64, "heads": 2, "qk_dim": 32, "v_dim": 64, "normaliser": 300}
PAGES = 6


@pytest.fixture(autouse=True)
def _slices_as_served(monkeypatch):
    monkeypatch.setattr("relaygr.model.native_stack.SLICE_NS", 1_000_000)


@pytest.fixture
def _shortest_slices(monkeypatch, _slices_as_served):
    monkeypatch.setattr("relaygr.model.native_stack.SLICE_NS", 1)


def isas(dtype):
    """Every instruction set up to this machine's; the schedule of AMX also where there is no AMX."""
    found = list(LEVELS[1 : load().level + 1])
    if dtype == "bfloat16" and load().level >= LEVELS.index("avx512-bf16"):
        found.append(native.EMULATED)
    return found


CASES = [(dtype, isa) for dtype in ("float32", "bfloat16") for isa in (isas(dtype) if load() else ())]


def rows(seed, count, width=64, dtype="float32"):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(TORCH_DTYPES[dtype])


def dirty_arena(model, pages=PAGES):
    """Pages full of what others left behind: not a number wherever the dtype has one."""
    arena = new_arena(model, pages)
    arena.view(torch.uint8).fill_(0xFF)
    return arena


def extend(model, x_TD, self_only, context=None, write=None):
    return run(model.extend(x_TD, self_only, context, write))


def relayed(model, x_TD, self_only, cuts, page_ids, delta):
    """Candidates' rows after a prefix that was produced in pieces that end at the cuts."""
    arena, done, prefix = dirty_arena(model), 0, len(x_TD) - self_only - delta
    for end in [*(cut for cut in cuts if 0 < cut < prefix), prefix]:
        if end == done:
            continue
        psi = PageView(arena, page_ids, done)
        extend(model, x_TD[done:end], 0, psi if done else None, psi)
        done = end
    return extend(model, x_TD[prefix:], self_only, PageView(arena, page_ids, prefix) if prefix else None)


@pytest.mark.parametrize(("dtype", "isa"), CASES)
@pytest.mark.parametrize("form", ["silu_uvqk", "silu_u"])
@pytest.mark.parametrize("kv_dtype", ["", "int8"])
def test_a_cached_score_equals_the_full_score_to_the_bit(dtype, isa, form, kv_dtype):
    model = small_model(form, dtype, kernel="native", isa=isa, kv_dtype=kv_dtype, **WIDE)
    x_TD = rows(1, 300 + 7 + 13, dtype=dtype)
    full_CD = extend(model, x_TD, 13)
    for cuts in ([], [1, 2, 3], [128, 256], [127, 129, 255], [31, 33, 64]):
        got_CD = relayed(model, x_TD, 13, cuts, (4, 0, 5, 2), delta=7)
        assert torch.equal(got_CD, full_CD), f"cut at {cuts}"


@given(
    seed=st.integers(0, 99),
    prefix=st.integers(0, 400),
    delta=st.integers(0, 40),
    candidates=st.integers(1, 60),
    cuts=st.lists(st.integers(1, 400), max_size=6).map(sorted),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    kv_dtype=st.sampled_from(["", "int8"]),
    threads=st.sampled_from([1, 2, 3]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_cut_thread_or_neighbour_changes_a_bit(seed, prefix, delta, candidates, cuts, dtype, kv_dtype, threads):
    model = small_model("silu_uvqk", dtype, kernel="native", kv_dtype=kv_dtype, **WIDE)
    x_TD = rows(seed, prefix + delta + candidates, dtype=dtype)
    full_CD = extend(model, x_TD, candidates)
    torch.set_num_threads(threads)
    try:
        got_CD = relayed(model, x_TD, candidates, cuts, (3, 1, 0, 5), delta)
        assert torch.equal(got_CD, full_CD)
        fewer_CD = extend(model, x_TD[: prefix + delta + 1], 1)
        assert torch.equal(fewer_CD, full_CD[:1]), "another candidate changed a score"
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("dtype", "isa"), CASES)
@pytest.mark.parametrize("form", ["silu_uvqk", "silu_u"])
def test_the_native_stack_is_as_exact_as_torch(dtype, isa, form):
    oracle = small_model(form, "float32", kernel="reference", **WIDE)
    model = small_model(form, dtype, kernel="native", isa=isa, **WIDE)
    torch_model = small_model(form, dtype, kernel="torch", **WIDE)
    x_TD = rows(2, 420, dtype=dtype)
    wanted_CD = extend(oracle, x_TD.float(), 20)
    error = logit_error(extend(model, x_TD, 20), wanted_CD)
    if dtype == "float32":
        assert error <= 1e-5
    else:
        assert error <= 1.2 * logit_error(extend(torch_model, x_TD, 20), wanted_CD)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kv_dtype", ["", "int8"])
def test_native_and_torch_understand_each_others_pages(dtype, kv_dtype):
    kernels = {
        name: small_model("silu_uvqk", dtype, kernel=name, kv_dtype=kv_dtype, **WIDE) for name in ("native", "torch")
    }
    assert kernels["native"].spec.identity == kernels["torch"].spec.identity
    x_TD = rows(3, 250, dtype=dtype)
    page_ids = (2, 0)
    wanted_CD = extend(small_model("silu_uvqk", kernel="reference", **WIDE), x_TD.float(), 49)
    errors = {}
    for made_by, maker in kernels.items():
        arena = dirty_arena(maker)
        extend(maker, x_TD[:201], 0, None, PageView(arena, page_ids, 0))
        for read_by, reader in kernels.items():
            got_CD = extend(reader, x_TD[201:], 49, PageView(arena, page_ids, 201))
            errors[made_by, read_by] = logit_error(got_CD, wanted_CD)
    is_rounded = dtype == "bfloat16" or bool(kv_dtype)
    bound = 1.5 * errors["torch", "torch"] if is_rounded else 1e-5
    assert all(error <= bound for error in errors.values()), errors


@pytest.mark.parametrize("kv_dtype", ["", "int8"])
def test_another_users_pages_move_the_rows(kv_dtype):
    model = small_model("silu_uvqk", "bfloat16", kernel="native", kv_dtype=kv_dtype, **WIDE)
    arena, ids = dirty_arena(model), {4: (0, 1), 5: (2, 3)}
    for seed, page_ids in ids.items():
        extend(model, rows(seed, 200, dtype="bfloat16"), 0, None, PageView(arena, page_ids, 0))
    x_CD = rows(6, 9, dtype="bfloat16")
    right, wrong = (extend(model, x_CD, 9, PageView(arena, page_ids, 200)) for page_ids in ids.values())
    assert logit_error(wrong, right) > 0.1


def test_several_users_side_by_side_score_as_each_alone():
    model = small_model("silu_uvqk", "bfloat16", kernel="native", **WIDE)
    arena = dirty_arena(model, 12)
    parts, alone = [], []
    for user, (prefix, delta, candidates) in enumerate([(200, 3, 20), (130, 0, 1), (0, 5, 7), (64, 30, 0)]):
        x_TD = rows(user, prefix + delta + candidates, dtype="bfloat16")
        page_ids = (3 * user, 3 * user + 1)
        if prefix:
            extend(model, x_TD[:prefix], 0, None, PageView(arena, page_ids, 0))
        context = PageView(arena, page_ids, prefix) if prefix else None
        alone.append(extend(model, x_TD[prefix:], candidates, context))
        parts.append(Part(x_TD[prefix:], candidates, context, None))
    together = run(model.extend_many(parts))
    assert [len(rows_CD) for rows_CD in together] == [20, 1, 7, 0]
    assert all(torch.equal(got, wanted) for got, wanted in zip(together, alone, strict=True))


def test_pages_before_and_after_those_written_stay_as_they_are():
    model = small_model("silu_uvqk", "bfloat16", kernel="native", **WIDE)
    arena = torch.zeros_like(new_arena(model, PAGES)) + 7
    extend(model, rows(1, 200, dtype="bfloat16"), 0, None, PageView(arena, (1, 4), 0))
    assert all(bool((arena[page] == 7).all()) for page in (0, 2, 3, 5))
    before = arena[1].clone()
    extend(model, rows(2, 10, dtype="bfloat16"), 0, PageView(arena, (1, 4), 200), PageView(arena, (1, 4), 0))
    assert torch.equal(arena[1], before), "an append touched a full page"


@pytest.mark.usefixtures("_shortest_slices")
def test_a_plan_goes_back_when_its_extend_is_dropped():
    model = small_model("silu_uvqk", "float32", kernel="native", **WIDE)
    extend(model, rows(1, 300), 0, None, PageView(dirty_arena(model), (0, 1, 2), 0))
    idle = len(model._stack._free_plans)
    steps = model.extend(rows(1, 4000), 4000, None, None)
    next(steps)
    steps.close()
    assert len(model._stack._free_plans) == idle == 1


@pytest.mark.usefixtures("_shortest_slices")
def test_interleaved_extends_do_not_disturb_each_other():
    model = small_model("silu_uvqk", "bfloat16", kernel="native", **WIDE)
    inputs = [rows(seed, 900, dtype="bfloat16") for seed in range(3)]
    alone = [extend(model, x_TD, 50) for x_TD in inputs]
    running = {index: model.extend(x_TD, 50, None, None) for index, x_TD in enumerate(inputs)}
    found = {}
    order = np.random.default_rng(1)
    while running:
        index = int(order.choice(list(running)))
        try:
            next(running[index])
        except StopIteration as stop:
            found[index] = stop.value
            del running[index]
    assert all(torch.equal(found[index], alone[index]) for index in range(3))


def test_the_native_kernel_has_threads_of_its_own_and_leaves_torch_one():
    model = small_model("silu_uvqk", "bfloat16", kernel="native", **WIDE)
    x_TD = rows(1, 900, dtype="bfloat16")
    alone_CD = extend(model, x_TD, 50)
    assert model.take_threads(2) == 1 and torch.get_num_threads() == 1
    assert torch.equal(extend(model, x_TD, 50), alone_CD)
    assert small_model(kernel="torch").take_threads(2) == 2


def test_changed_weights_are_packed_again():
    model = small_model("silu_uvqk", "float32", kernel="native", **WIDE)
    x_TD = rows(1, 40)
    before = extend(model, x_TD, 5)
    with torch.no_grad():
        model.layers[1].project_out.weight.mul_(2.0)
    assert not torch.equal(extend(model, x_TD, 5), before)


def test_native_is_refused_where_it_cannot_serve():
    with pytest.raises(ValueError, match="multiples of 16"):
        small_model("silu_uvqk", "float32", kernel="native")
    with pytest.raises(ValueError, match="hidden width 24"):
        small_model("silu_uvqk", "float32", kernel="native", **{**WIDE, "width": 24})
    assert small_model("silu_uvqk", "float32", kernel="auto").kernel == "torch"


def test_the_kernel_in_use_has_a_name():
    assert small_model("silu_uvqk", "float32", kernel="auto", **WIDE).kernel.startswith("native/avx")
    assert small_model("silu_uvqk", "bfloat16", kernel="auto", isa="avx2", **WIDE).kernel == "native/avx2"


@pytest.mark.parametrize(("dtype", "isa"), CASES)
@given(
    seed=st.integers(0, 1000),
    heads=st.integers(1, 3),
    cached_parts=st.lists(st.integers(1, 150), max_size=3),
    causal=st.one_of(st.integers(0, 9), st.integers(120, 300)),
    self_only=st.one_of(st.integers(0, 5), st.integers(100, 150)),
    skip=st.integers(0, 400),
    qk_dim=st.sampled_from([32, 64]),
    v_dim=st.sampled_from([32, 96]),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_native_attention_equals_reference(
    dtype, isa, seed, heads, cached_parts, causal, self_only, skip, qk_dim, v_dim
):
    generator = torch.Generator().manual_seed(seed)

    def normal(tokens, width):
        return torch.randn(heads, tokens, width, generator=generator).to(TORCH_DTYPES[dtype])

    cached = CachedKV(tuple(normal(n, qk_dim) for n in cached_parts), tuple(normal(n, v_dim) for n in cached_parts))
    tokens = causal + self_only
    q, k, v = normal(tokens, qk_dim)[:, min(skip, causal) :], normal(tokens, qk_dim), normal(tokens, v_dim)
    got = native.attend(q, k, v, cached, self_only, 0.5, 77, isa=isa)
    wide = CachedKV(tuple(x.double() for x in cached.k_HSK), tuple(x.double() for x in cached.v_HSV))
    wanted = reference.attend(q.double(), k.double(), v.double(), wide, self_only, 0.5, 77)
    assert got.shape == wanted.shape
    if dtype == "float32":
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)
    else:
        # Weights are rounded to bfloat16 before they meet the values.
        largest = float(wanted.abs().max()) if wanted.numel() else 0.0
        torch.testing.assert_close(got.double(), wanted, rtol=0.0, atol=2**-7 * largest)


def test_native_attention_refuses_what_it_has_no_kernel_for():
    rows_HTX = torch.zeros(1, 3, 8)
    with pytest.raises(ValueError, match=r"no native kernel|widths in 16s"):
        native.attend(rows_HTX, rows_HTX, rows_HTX, CachedKV(), 0, 1.0, 1)


def test_page_tokens_are_a_multiple_of_what_the_kernel_takes_at_once():
    assert PAGE_TOKENS % 128 == 0


def test_a_step_that_is_asked_to_yields_after_a_unit_and_scores_stay(monkeypatch):
    monkeypatch.setattr("relaygr.model.native_stack.SLICE_NS", 10**12)
    model = small_model("silu_uvqk", "float32", kernel="native", **WIDE)
    x_TD = rows(7, 340)

    def steps_of(work):
        count = 0
        while True:
            try:
                next(work)
                count += 1
            except StopIteration as stop:
                return count, stop.value

    calmly, wanted_CD = steps_of(model.extend(x_TD, 20, None, None))
    model.ask_to_yield(True)
    try:
        hastily, found_CD = steps_of(model.extend(x_TD, 20, None, None))
    finally:
        model.ask_to_yield(False)
    assert calmly == 0 and hastily > 10 and torch.equal(wanted_CD, found_CD)
