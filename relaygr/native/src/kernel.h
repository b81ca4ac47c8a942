// The arithmetic of one layer over a block of rows, for any ISA.
//
// Included once per ISA, after a trait `Simd` has been defined; everything is in an unnamed
// namespace, so that no ISA's code can be linked into another's. A row's result depends on that row
// and on the keys it sees, in the order of their positions, and on nothing else: not on the block it
// is computed in, nor on how many rows there are. Cached and full scores are therefore equal to the bit.
//
// Simd supplies: F (16 floats), kRows and kBlocks (register tile: rows x 16 outputs),
// load, store, set, zero, add, mul, fma, keep (first n lanes), silu<T> (without the outer scale),
// step<T> (one step of k), to<T> (store 16 as T), sum.
#include <cstring>

#include "engine.h"

namespace {

using namespace rgr;

inline int64_t ticks() { return static_cast<int64_t>(__builtin_ia32_rdtsc()); }

// Self supplies what an ISA does in its own way: product, scores and values; see Registers and kernel_amx.h.
template <class T, class Self>
struct Engine {
    using F = Simd::F;
    static constexpr int kPair = Pair<T>::value;

    // ---- norms ----------------------------------------------------------------------------------

    struct Moments {
        float mean, inverse_deviation;
    };

    // Of scale * x[0, width).
    static Moments moments(const float* x, int width, float scale, float epsilon) {
        F sum = Simd::zero();
        for (int d = 0; d < width; d += kLanes) sum = Simd::add(sum, Simd::load(x + d));
        const float mean = Simd::sum(sum) / width;
        F squares = Simd::zero();
        const F minus_mean = Simd::set(-mean);
        for (int d = 0; d < width; d += kLanes) {
            const F centred = Simd::add(Simd::load(x + d), minus_mean);
            squares = Simd::fma(centred, centred, squares);
        }
        const float variance = Simd::sum(squares) / width * scale * scale;
        return {mean, 1.0f / __builtin_sqrtf(variance + epsilon)};
    }

    // ---- before attention -----------------------------------------------------------------------

    static void project(const Work& work, const Block& block, Scratch& scratch) {
        const int64_t begun = ticks();
        normalise(work, block, static_cast<T*>(scratch.a));
        const int64_t normed = ticks();
        multiply_in(work, block, scratch);
        const int64_t multiplied = ticks();
        keep_rows(work, block, static_cast<const T*>(scratch.kv));
        scratch.clock[kNormIn] += normed - begun;
        scratch.clock[kGemmIn] += multiplied - normed;
        scratch.clock[kStore] += ticks() - multiplied;
    }

    // The layer's input, normalised: a[row, D].
    static void normalise(const Work& work, const Block& block, T* a) {
        const RgrModel& model = *work.model;
        const RgrLayer& layer = model.layer[work.layer];
        const int width = model.width;
        for (int i = 0; i < block.rows; ++i) {
            const float* x = work.x + int64_t(block.row + i) * width;
            const Moments m = moments(x, width, 1.0f, model.epsilon);
            const F minus_mean = Simd::set(-m.mean), factor = Simd::set(m.inverse_deviation);
            for (int d = 0; d < width; d += kLanes) {
                const F normal = Simd::mul(Simd::add(Simd::load(x + d), minus_mean), factor);
                const F shifted =
                    Simd::fma(normal, Simd::load(layer.norm_in_weight + d), Simd::load(layer.norm_in_bias + d));
                Simd::template to<T>(a + int64_t(i) * width + d, shifted);
            }
        }
    }

    // u and q to where attention reads them, k and v to scratch; causal rows of the last layer need only k and v.
    static void multiply_in(const Work& work, const Block& block, Scratch& scratch) {
        const RgrModel& model = *work.model;
        const RgrLayer& layer = model.layer[work.layer];
        const int width = model.width, wide_v = model.heads * model.v, wide_k = model.heads * model.qk;
        const T* const a = static_cast<const T*>(scratch.a);
        // Outputs lie as u, v, q, k.
        T* const kv = static_cast<T*>(scratch.kv);
        const int64_t kv_stride = wide_k + wide_v;
        const int v_from = wide_v / kLanes, q_from = 2 * wide_v / kLanes, k_from = q_from + wide_k / kLanes;
        const int end = k_from + wide_k / kLanes;
        T* const u = static_cast<T*>(work.u) + int64_t(block.row) * wide_v;
        T* const q = static_cast<T*>(work.q) + int64_t(block.row) * wide_k;
        struct Target {
            T* at;
            int64_t stride;
        };
        const auto target = [&](int out_block) -> Target {
            if (out_block < v_from) return {u + out_block * kLanes, wide_v};
            if (out_block < q_from) return {kv + wide_k + (out_block - v_from) * kLanes, kv_stride};
            if (out_block < k_from) return {q + (out_block - q_from) * kLanes, wide_k};
            return {kv + (out_block - k_from) * kLanes, kv_stride};
        };
        const auto begin = [&](int, int out_block) { return Simd::load(layer.b_in + out_block * kLanes); };
        const F one = Simd::set(1.0f);
        const auto done = [&](int row, int out_block, auto& acc) {
            constexpr int R = sizeof(acc) / sizeof(acc[0]), B = sizeof(acc[0]) / sizeof(F);
#pragma GCC unroll 8
            for (int j = 0; j < B; ++j) {
                const Target to = target(out_block + j);
                const bool is_gated = model.gates_all || out_block + j < v_from;
#pragma GCC unroll 8
                for (int i = 0; i < R; ++i) {
                    const F value = is_gated ? Simd::template silu<T>(acc[i][j], one) : acc[i][j];
                    Simd::template to<T>(to.at + (row + i) * to.stride, value);
                }
            }
        };
        const auto outputs = [&](int from, int to) {
            Self::product(scratch, a, width, block.rows, static_cast<const T*>(layer.w_in), width, from, to, begin,
                          done);
        };
        if (work.is_last && !block.is_self) {
            outputs(v_from, q_from);
            outputs(k_from, end);
        } else {
            outputs(0, end);
        }
    }

    // K/V rows of a block to where they are read: pages for causal rows, beside them for candidates.
    static void keep_rows(const Work& work, const Block& block, const T* kv) {
        const RgrModel& model = *work.model;
        const int wide_v = model.heads * model.v, wide_k = model.heads * model.qk;
        const int64_t stride = wide_k + wide_v;
        const RgrSegment& segment = work.segments[block.segment];
        if (block.is_self) {
            for (int i = 0; i < block.rows; ++i) {
                const int64_t row = block.row + i;
                std::memcpy(static_cast<T*>(work.k_self) + row * wide_k, kv + i * stride, wide_k * sizeof(T));
                std::memcpy(static_cast<T*>(work.v_self) + row * wide_v, kv + i * stride + wide_k, wide_v * sizeof(T));
            }
            return;
        }
        const HeadLayout layout = head_layout(model);
        const int position = segment.first + block.row - segment.row;
        const bool is_tail = block.row + block.rows == segment.row + segment.causal;
        for (int i = 0; i < block.rows; ++i) {
            const int slot = (position + i) % model.page_tokens;
            uint8_t* page = work.pages[block.segment][(position + i) / model.page_tokens];
            // Slots behind the last token, up to the end of its group.
            const int zeros = is_tail && i + 1 == block.rows ? kGroupSlots - 1 - slot % kGroupSlots : 0;
            for (int h = 0; h < model.heads; ++h, page += layout.head_bytes()) {
                const T* k = kv + i * stride + h * model.qk;
                const T* v = kv + i * stride + wide_k + h * model.v;
                if (model.kv_format == kInt8)
                    store_int8(model, layout, page, slot, zeros, k, v);
                else
                    store_same(model, layout, page, slot, zeros, k, v);
            }
        }
    }

    static void store_same(const RgrModel& model, const HeadLayout& layout, uint8_t* page, int slot, int zeros,
                           const T* k, const T* v) {
        T* keys = reinterpret_cast<T*>(page) + int64_t(slot / kLanes) * model.qk * kLanes + slot % kLanes * kPair;
        for (int d = 0; d < model.qk; d += kPair)
            for (int e = 0; e < kPair; ++e) keys[d * kLanes + e] = k[d + e];
        T* values = reinterpret_cast<T*>(page + layout.k_bytes);
        put_value(values, model, slot, v);
        for (int z = 1; z <= zeros; ++z) put_value(values, model, slot + z, static_cast<const T*>(nullptr));
    }

    template <class E>
    static void put_value(E* values, const RgrModel& model, int slot, const E* v) {
        for (int c = 0; c < model.v; c += kLanes) {
            E* at = values + int64_t(c) * model.page_tokens + (slot / kPair) * kLanes * kPair + slot % kPair;
            for (int lane = 0; lane < kLanes; ++lane) at[lane * kPair] = v ? v[c + lane] : E(0);
        }
    }

    // One scale per key and per value: a token's bytes never depend on the tokens around it, so an
    // append leaves what is there as it is, and every way to cut a prefix gives the same page.
    static void store_int8(const RgrModel& model, const HeadLayout& layout, uint8_t* page, int slot, int zeros,
                           const T* k, const T* v) {
        alignas(64) int8_t small[kHeadMax];
        float* k_scales = reinterpret_cast<float*>(page + layout.k_bytes + layout.v_bytes);
        float* v_scales = k_scales + model.page_tokens;
        k_scales[slot] = Simd::template quantise<T>(k, model.qk, small);
        int8_t* keys =
            reinterpret_cast<int8_t*>(page) + int64_t(slot / kLanes) * model.qk * kLanes + slot % kLanes * kPair;
        for (int d = 0; d < model.qk; d += kPair)
            for (int e = 0; e < kPair; ++e) keys[d * kLanes + e] = small[d + e];
        v_scales[slot] = Simd::template quantise<T>(v, model.v, small);
        int8_t* values = reinterpret_cast<int8_t*>(page + layout.k_bytes);
        put_value(values, model, slot, const_cast<const int8_t*>(small));
        for (int z = 1; z <= zeros; ++z) put_value(values, model, slot + z, static_cast<const int8_t*>(nullptr));
    }

    // ---- attention ------------------------------------------------------------------------------

    // Keys and values of one pass: up to kKeys slots of one page and head.
    struct Pass {
        const T* keys;            // panel blocks of 16 slots
        const T* values;          // panel blocks of 16 columns
        int64_t values_stride;    // elements from one block of columns to the next
        const float* key_scales;  // null unless int8
        const float* value_scales;
        int count;  // slots that any row of the block sees
    };

    static void attend(const Work& work, const Block& block, int32_t head, Scratch& scratch) {
        const RgrModel& model = *work.model;
        const RgrSegment& segment = work.segments[block.segment];
        const int wide_v = model.heads * model.v, wide_k = model.heads * model.qk;
        const T* q = static_cast<const T*>(work.q) + int64_t(block.row) * wide_k + head * model.qk;
        float* av = work.av + int64_t(block.row) * wide_v + head * model.v;
        for (int i = 0; i < block.rows; ++i)
            for (int c = 0; c < model.v; c += kLanes) Simd::store(av + int64_t(i) * wide_v + c, Simd::zero());
        // Keys that the first row sees; each further causal row sees one more.
        const int step = block.is_self ? 0 : 1;
        const int seen = segment.first + (block.is_self ? segment.causal : block.row - segment.row + 1);
        const int seen_max = seen + step * (block.rows - 1);
        const HeadLayout layout = head_layout(model);
        for (int key = 0; key < seen_max; key += kKeys) {
            const uint8_t* page = work.pages[block.segment][key / model.page_tokens] + head * layout.head_bytes();
            const int count = seen_max - key < kKeys ? seen_max - key : kKeys;
            const Pass pass = pass_of(model, layout, page, key % model.page_tokens, count, scratch);
            const int64_t begun = ticks();
            // A page is not where the last one was: the next is asked for while this one is worked on.
            const int next = key + kKeys;
            const uint8_t* ahead = next < seen_max ? work.pages[block.segment][next / model.page_tokens] : nullptr;
            if (ahead) fetch(ahead + head * layout.head_bytes(), layout.k_bytes, model, next);
            Self::scores(model, pass, q, wide_k, block.rows, seen - key, step, scratch);
            const int64_t scored = ticks();
            if (ahead) fetch(ahead + head * layout.head_bytes() + layout.k_bytes, layout.v_bytes, model, next);
            Self::values(model, pass, block.rows, seen - key, step, av, wide_v, scratch);
            scratch.clock[kScores] += scored - begun;
            scratch.clock[kValues] += ticks() - scored;
        }
        if (block.is_self) own(work, block, head, q, av, scratch);
    }

    // Asks for one pass of a page's keys or values; near enough where a page holds more than one pass.
    static void fetch(const uint8_t* panel, int64_t bytes, const RgrModel& model, int key) {
        const int64_t share = bytes / (model.page_tokens / kKeys);
        const uint8_t* at = panel + key % model.page_tokens / kKeys * share;
        for (int64_t done = 0; done < share; done += 64)
            _mm_prefetch(reinterpret_cast<const char*>(at + done), _MM_HINT_T1);
    }

    static Pass pass_of(const RgrModel& model, const HeadLayout& layout, const uint8_t* page, int slot, int count,
                        Scratch& scratch) {
        Pass pass;
        pass.count = count;
        if (model.kv_format == kInt8) {
            const float* scales = reinterpret_cast<const float*>(page + layout.k_bytes + layout.v_bytes);
            pass.key_scales = scales + slot;
            pass.value_scales = scales + model.page_tokens + slot;
            const int8_t* keys = reinterpret_cast<const int8_t*>(page) + int64_t(slot) * model.qk;
            T* wide_keys = static_cast<T*>(scratch.keys);
            const int blocks = (count + kLanes - 1) / kLanes;
            Simd::template widen<T>(keys, blocks * kLanes * model.qk, wide_keys);
            pass.keys = wide_keys;
            T* wide_values = static_cast<T*>(scratch.values);
            const int slots = (count + kGroupSlots - 1) / kGroupSlots * kGroupSlots;
            for (int c = 0; c < model.v; c += kLanes) {
                const int8_t* from = reinterpret_cast<const int8_t*>(page + layout.k_bytes) +
                                     int64_t(c) * model.page_tokens + int64_t(slot) * kLanes;
                Simd::template widen<T>(from, slots * kLanes, wide_values + c * kKeys);
            }
            pass.values = wide_values;
            pass.values_stride = int64_t(kKeys) * kLanes;
            return pass;
        }
        pass.key_scales = pass.value_scales = nullptr;
        pass.keys = reinterpret_cast<const T*>(page) + int64_t(slot) * model.qk;
        pass.values = reinterpret_cast<const T*>(page + layout.k_bytes) + int64_t(slot) * kLanes;
        pass.values_stride = int64_t(model.page_tokens) * kLanes;
        return pass;
    }

    // Keys of the pass that the last row of a register tile sees.
    static int tile_keys(const Pass& pass, int seen, int step, int last_row) {
        const int keys = seen + step * last_row;
        return keys < pass.count ? keys : pass.count;
    }

    // One row of products, for B blocks of keys from `first` on, to weights: SiLU(q . k) / scale, with the
    // scales of int8 keys and values, zero for keys that the row does not see.
    template <int B>
    static inline __attribute__((always_inline)) void weigh(const Pass& pass, F (&acc)[B], int first, int seen,
                                                            bool is_whole, F scale, T* p) {
#pragma GCC unroll 8
        for (int j = 0; j < B; ++j) {
            F value = acc[j];
            if (pass.key_scales) value = Simd::mul(value, Simd::load(pass.key_scales + (first + j) * kLanes));
            value = Simd::template silu<T>(value, scale);
            if (pass.value_scales) value = Simd::mul(value, Simd::load(pass.value_scales + (first + j) * kLanes));
            if (!is_whole) value = Simd::keep(value, seen - (first + j) * kLanes);
            acc[j] = value;
        }
        Simd::template to_row<T, B>(p + first * kLanes, acc);
    }

    // A candidate sees itself.
    static void own(const Work& work, const Block& block, int head, const T* q, float* av, Scratch& scratch) {
        const RgrModel& model = *work.model;
        const int64_t wide_v = model.heads * model.v, wide_k = model.heads * model.qk;
        const int64_t begun = ticks();
        const F scale = Simd::set(model.scale);
        for (int i = 0; i < block.rows; ++i) {
            const T* k = static_cast<const T*>(work.k_self) + (block.row + i) * wide_k + head * model.qk;
            const T* v = static_cast<const T*>(work.v_self) + (block.row + i) * wide_v + head * model.v;
            F dot = Simd::zero();
            for (int d = 0; d < model.qk; d += kLanes)
                dot = Simd::fma(Simd::template from<T>(q + i * wide_k + d), Simd::template from<T>(k + d), dot);
            const F weight = Simd::template silu<T>(Simd::set(Simd::sum(dot)), scale);
            for (int c = 0; c < model.v; c += kLanes) {
                float* at = av + i * wide_v + c;
                Simd::store(at, Simd::fma(weight, Simd::template from<T>(v + c), Simd::load(at)));
            }
        }
        scratch.clock[kOwn] += ticks() - begun;
    }

    // ---- after attention ------------------------------------------------------------------------

    static void combine(const Work& work, const Block& block, Scratch& scratch) {
        const int64_t begun = ticks();
        gate(work, block, static_cast<T*>(scratch.a));
        const int64_t ready = ticks();
        multiply_out(work, block, scratch);
        scratch.clock[kGate] += ready - begun;
        scratch.clock[kGemmOut] += ticks() - ready;
    }

    // What the block gathered, normalised and gated: a[row, E or 3E].
    static void gate(const Work& work, const Block& block, T* a) {
        const RgrModel& model = *work.model;
        const RgrLayer& layer = model.layer[work.layer];
        const int wide_v = model.heads * model.v;
        const int gated = model.gates_all ? wide_v : 3 * wide_v;
        // silu() leaves out its outer scale; it belongs to av, as 1/N does.
        const float factor = model.scale * model.inverse_normaliser;
        for (int i = 0; i < block.rows; ++i) {
            const int64_t row = block.row + i;
            const float* av = work.av + row * wide_v;
            const T* u = static_cast<const T*>(work.u) + row * wide_v;
            T* to = a + int64_t(i) * gated;
            const Moments m = moments(av, wide_v, factor, model.epsilon);
            const F minus_mean = Simd::set(-m.mean), deviation = Simd::set(m.inverse_deviation * factor);
            for (int c = 0; c < wide_v; c += kLanes) {
                const F opened = Simd::template from<T>(u + c), gathered = Simd::load(av + c);
                const F normal = Simd::mul(Simd::add(gathered, minus_mean), deviation);
                const F shifted =
                    Simd::fma(normal, Simd::load(layer.norm_av_weight + c), Simd::load(layer.norm_av_bias + c));
                T* product_at = to + c;
                if (!model.gates_all) {
                    Simd::template to<T>(to + c, opened);
                    Simd::template to<T>(to + wide_v + c, Simd::mul(gathered, Simd::set(factor)));
                    product_at = to + 2 * wide_v + c;
                }
                Simd::template to<T>(product_at, Simd::mul(shifted, opened));
            }
        }
    }

    // Added to the block's rows.
    static void multiply_out(const Work& work, const Block& block, Scratch& scratch) {
        const RgrModel& model = *work.model;
        const RgrLayer& layer = model.layer[work.layer];
        const int width = model.width;
        const int gated = model.heads * model.v * (model.gates_all ? 1 : 3);
        const T* const a = static_cast<const T*>(scratch.a);
        float* const x = work.x + int64_t(block.row) * width;
        const auto begin = [&](int, int b) { return Simd::load(layer.b_out + b * kLanes); };
        const auto done = [&](int row, int first, auto& acc) {
            constexpr int R = sizeof(acc) / sizeof(acc[0]), B = sizeof(acc[0]) / sizeof(F);
#pragma GCC unroll 8
            for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
                for (int j = 0; j < B; ++j) {
                    float* at = x + int64_t(row + i) * width + (first + j) * kLanes;
                    Simd::store(at, Simd::add(Simd::load(at), acc[i][j]));
                }
            }
        };
        Self::product(scratch, a, gated, block.rows, static_cast<const T*>(layer.w_out), gated, 0, width / kLanes,
                      begin, done);
    }
};

// Products in vector registers: tiles of kRows rows x kBlocks panel blocks.
template <class T>
struct Registers : Engine<T, Registers<T>> {
    using Base = Engine<T, Registers<T>>;
    using F = Simd::F;
    using Pass = typename Base::Pass;
    static constexpr int kPair = Pair<T>::value;

    // acc[r][b] += rows a[r] times panel blocks b, over `steps` steps of k.
    template <int R, int B>
    static inline __attribute__((always_inline)) void multiply(const T* a, int64_t a_stride, const T* panel,
                                                               int64_t block_stride, int steps, F (&acc)[R][B]) {
        for (int t = 0; t < steps; ++t) {
            typename Simd::template Operand<T> b[B];
#pragma GCC unroll 8
            for (int j = 0; j < B; ++j) b[j] = Simd::template operand<T>(panel + j * block_stride + t * kLanes * kPair);
#pragma GCC unroll 8
            for (int i = 0; i < R; ++i) {
                const auto row = Simd::template broadcast<T>(a + i * a_stride + t * kPair);
#pragma GCC unroll 8
                for (int j = 0; j < B; ++j) acc[i][j] = Simd::step(acc[i][j], row, b[j]);
            }
        }
    }

    // Calls done(first row, first block, acc) for register tiles that cover rows x blocks.
    template <int R, int B, class Begin, class Done>
    static inline void tile(const T* a, int64_t a_stride, const T* panel, int64_t block_stride, int steps, int row,
                            int block, Begin begin, Done done) {
        F acc[R][B];
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
            for (int j = 0; j < B; ++j) acc[i][j] = begin(row + i, block + j);
        }
        multiply<R, B>(a + row * a_stride, a_stride, panel + block * block_stride, block_stride, steps, acc);
        done(row, block, acc);
    }

    template <int B, class Begin, class Done>
    static void rows_of_tiles(const T* a, int64_t a_stride, int rows, const T* panel, int64_t block_stride, int steps,
                              int block, Begin begin, Done done) {
        constexpr int R = Simd::kRows;
        int row = 0;
        for (; row + R <= rows; row += R) tile<R, B>(a, a_stride, panel, block_stride, steps, row, block, begin, done);
        switch (rows - row) {
            case 5:
                if constexpr (R > 5) tile<5, B>(a, a_stride, panel, block_stride, steps, row, block, begin, done);
                break;
            case 4:
                if constexpr (R > 4) tile<4, B>(a, a_stride, panel, block_stride, steps, row, block, begin, done);
                break;
            case 3:
                if constexpr (R > 3) tile<3, B>(a, a_stride, panel, block_stride, steps, row, block, begin, done);
                break;
            case 2:
                if constexpr (R > 2) tile<2, B>(a, a_stride, panel, block_stride, steps, row, block, begin, done);
                break;
            case 1:
                if constexpr (R > 1) tile<1, B>(a, a_stride, panel, block_stride, steps, row, block, begin, done);
                break;
            default:
                break;
        }
    }

    // done(first row, first block, acc) for all of rows x panel blocks [first_block, end_block), k wide.
    template <class Begin, class Done>
    static void product(Scratch&, const T* a, int64_t a_stride, int rows, const T* panel, int k, int first_block,
                        int end_block, Begin begin, Done done) {
        constexpr int B = Simd::kBlocks;
        const int64_t block_stride = int64_t(k) * kLanes;
        const int steps = k / kPair;
        int block = first_block;
        for (; block + B <= end_block; block += B)
            rows_of_tiles<B>(a, a_stride, rows, panel, block_stride, steps, block, begin, done);
        switch (end_block - block) {
            case 3:
                if constexpr (B > 3)
                    rows_of_tiles<3>(a, a_stride, rows, panel, block_stride, steps, block, begin, done);
                break;
            case 2:
                if constexpr (B > 2)
                    rows_of_tiles<2>(a, a_stride, rows, panel, block_stride, steps, block, begin, done);
                break;
            case 1:
                if constexpr (B > 1)
                    rows_of_tiles<1>(a, a_stride, rows, panel, block_stride, steps, block, begin, done);
                break;
            default:
                break;
        }
    }

    // p[row][key] = SiLU(q . k) / scale for the keys that a row sees, zero for others of its last group.
    static void scores(const RgrModel& model, const Pass& pass, const T* q, int64_t q_stride, int rows, int seen,
                       int step, Scratch& scratch) {
        constexpr int B = Simd::kBlocks;
        T* p = static_cast<T*>(scratch.p);
        const int blocks = (pass.count + kLanes - 1) / kLanes;
        int block = 0;
        for (; block + B <= blocks; block += B) scores_of<B>(model, pass, q, q_stride, rows, seen, step, block, p);
        switch (blocks - block) {
            case 3:
                if constexpr (B > 3) scores_of<3>(model, pass, q, q_stride, rows, seen, step, block, p);
                break;
            case 2:
                if constexpr (B > 2) scores_of<2>(model, pass, q, q_stride, rows, seen, step, block, p);
                break;
            case 1:
                if constexpr (B > 1) scores_of<1>(model, pass, q, q_stride, rows, seen, step, block, p);
                break;
            default:
                break;
        }
    }

    template <int B>
    static void scores_of(const RgrModel& model, const Pass& pass, const T* q, int64_t q_stride, int rows, int seen,
                          int step, int block, T* p) {
        const F scale = Simd::set(model.scale);
        const int64_t block_stride = int64_t(model.qk) * kLanes;
        const auto begin = [](int, int) { return Simd::zero(); };
        const auto done = [&](int row, int first, auto& acc) {
            constexpr int R = sizeof(acc) / sizeof(acc[0]);
            const bool is_whole = seen + step * row >= (first + B) * kLanes;
#pragma GCC unroll 8
            for (int i = 0; i < R; ++i)
                Base::template weigh<B>(pass, acc[i], first, seen + step * (row + i), is_whole, scale,
                                        p + (row + i) * kKeys);
        };
        // Register tiles whose last row sees nothing of these blocks are left out; values() does not read them.
        const int blind = step ? block * kLanes - seen + 1 - (Simd::kRows - 1) : 0;
        const int from = blind > 0 ? (blind + Simd::kRows - 1) / Simd::kRows * Simd::kRows : 0;
        if (from >= rows) return;
        const auto put = [&](int row, int first, auto& acc) { done(row + from, first, acc); };
        rows_of_tiles<B>(q + from * q_stride, q_stride, rows - from, pass.keys, block_stride, model.qk / kPair, block,
                         begin, put);
    }

    // av[row] += p[row] . values
    static void values(const RgrModel& model, const Pass& pass, int rows, int seen, int step, float* av,
                       int64_t av_stride, Scratch& scratch) {
        constexpr int B = Simd::kBlocks;
        const T* p = static_cast<const T*>(scratch.p);
        const int blocks = model.v / kLanes;
        int block = 0;
        for (; block + B <= blocks; block += B) values_of<B>(pass, p, rows, seen, step, block, av, av_stride);
        switch (blocks - block) {
            case 3:
                if constexpr (B > 3) values_of<3>(pass, p, rows, seen, step, block, av, av_stride);
                break;
            case 2:
                if constexpr (B > 2) values_of<2>(pass, p, rows, seen, step, block, av, av_stride);
                break;
            case 1:
                if constexpr (B > 1) values_of<1>(pass, p, rows, seen, step, block, av, av_stride);
                break;
            default:
                break;
        }
    }

    template <int B>
    static void values_of(const Pass& pass, const T* p, int rows, int seen, int step, int block, float* av,
                          int64_t av_stride) {
        constexpr int R = Simd::kRows;
        const auto begin = [&](int row, int b) { return Simd::load(av + row * av_stride + b * kLanes); };
        const auto done = [&](int row, int first, auto& acc) {
            constexpr int N = sizeof(acc) / sizeof(acc[0]);
#pragma GCC unroll 8
            for (int i = 0; i < N; ++i) {
#pragma GCC unroll 8
                for (int j = 0; j < B; ++j) Simd::store(av + (row + i) * av_stride + (first + j) * kLanes, acc[i][j]);
            }
        };
        for (int row = 0; row < rows; row += R) {
            const int count = rows - row < R ? rows - row : R;
            const int keys = Base::tile_keys(pass, seen, step, row + count - 1);
            if (keys <= 0) continue;
            const auto at = [&](int r, int b) { return begin(row + r, b); };
            const auto put = [&](int r, int b, auto& acc) { done(row + r, b, acc); };
            rows_of_tiles<B>(p + row * kKeys, kKeys, count, pass.values, pass.values_stride, (keys + kPair - 1) / kPair,
                             block, at, put);
        }
    }
};

}  // namespace
