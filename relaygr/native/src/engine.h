// What the parts of the native engine share: the C interface and the per-ISA kernel tables.
//
// Shapes: D hidden width, H heads, K width of a query or key, V width of a value, E = H * V,
// P tokens of a page, R rows (tokens) of one extend.
//
// Packed operand ("panel"): [n / 16][k / pair][16][pair], where pair is 2 for bfloat16 and 1 for
// float32. Sixteen outputs lie side by side, so that one vector register holds a step of k for all
// of them; it is also what AMX calls a VNNI tile. Weights, keys (n = slot, k = qk) and values
// (n = value column, k = slot) are all kept so, and nothing is packed on the way to a score.
//
// A page holds, for each layer and head: K panel, V panel, and for int8 the float32 scales of its
// P keys and P values. V slots behind the last token, up to the next multiple of 32, are zero:
// whole steps of k may be read.
#pragma once
#include <cstddef>
#include <cstdint>

namespace rgr {

constexpr int kLanes = 16;       // outputs of a panel block
constexpr int kKeys = 128;       // keys of one pass of attention; divides P
constexpr int kGroupSlots = 32;  // value slots that are read together
constexpr int kRowsMax = 128;    // rows of a block, at most
constexpr int kRowsPad = 32;     // rows that may be read behind the last one
constexpr int kHeadMax = 1024;   // width of a head, at most
constexpr int kStages = 8;

enum Dtype : int32_t { kFloat32 = 0, kBfloat16 = 1 };
enum KvFormat : int32_t { kSame = 0, kInt8 = 1 };
enum Clock : int32_t { kNormIn, kGemmIn, kStore, kScores, kValues, kOwn, kGate, kGemmOut };

extern "C" {

struct RgrLayer {
    const void* w_in;  // panel, n = 2E + 2HK in the order u, v, q, k; k = D
    const float* b_in;
    const float* norm_in_weight;
    const float* norm_in_bias;
    const void* w_out;  // panel, n = D; k = E, or 3E for silu_u
    const float* b_out;
    const float* norm_av_weight;
    const float* norm_av_bias;
};

struct RgrModel {
    int32_t layers, width, heads, qk, v;
    int32_t gates_all;  // 1: silu_uvqk, 0: silu_u
    int32_t dtype, kv_format, page_tokens;
    float scale, inverse_normaliser, epsilon;
    const RgrLayer* layer;
};

// One user's part of an extend: rows [row, row + causal + self_only).
struct RgrSegment {
    int32_t row, causal, self_only;
    int32_t first;          // tokens of the context
    int32_t is_write;       // 1: pages hold first + causal tokens and take the causal rows' K/V
    int32_t page_count;     // entries of pages: all that are needed to read, or to write
    uint8_t* const* pages;  // first byte of each page
};
}

template <class T>
struct Pair {
    static constexpr int value = sizeof(T) == 2 ? 2 : 1;
};

// Bytes of the parts of a page, for one layer and head.
struct HeadLayout {
    int64_t k_bytes, v_bytes, scale_bytes;
    int64_t head_bytes() const { return k_bytes + v_bytes + 2 * scale_bytes; }
};

inline HeadLayout head_layout(const RgrModel& model) {
    const int64_t element = model.kv_format == kInt8 ? 1 : model.dtype == kBfloat16 ? 2 : 4;
    const int64_t slots = model.page_tokens;
    return {slots * model.qk * element, slots * model.v * element, model.kv_format == kInt8 ? slots * 4 : 0};
}

// A block of rows of one kind: all causal, or all candidates.
struct Block {
    int32_t segment, row, rows, is_self;
};

// Per-thread memory; sized for kRowsMax rows.
struct Scratch {
    void* a;       // [kRowsMax + pad, max(D, 3E)] of the dtype
    void* kv;      // [kRowsMax, HK + E] of the dtype
    void* p;       // [kRowsMax + pad, kKeys] of the dtype
    float* s;      // [kRowsMax + pad, max(kKeys, 32)]; AMX only
    float* o;      // [kRowsMax + pad, V]; AMX only
    void* keys;    // [kKeys * K] of the dtype; int8 only
    void* values;  // [kKeys * V] of the dtype; int8 only
    int64_t clock[kStages];
};

// Everything a unit of work reads and writes.
struct Work {
    const RgrModel* model;
    const RgrSegment* segments;
    const Block* blocks;
    uint8_t* const* const* pages;  // per segment, in token order: the present layer's part of each page
    int32_t layer;
    int32_t is_last;  // nobody reads what causal rows gather here
    float* x;         // [R, D]
    void* u;          // [R, E]
    void* q;          // [R, HK]
    void* k_self;     // [R, HK]; rows of candidates only
    void* v_self;     // [R, E]
    float* av;        // [R, E]
};

struct Kernels {
    const char* name;
    int32_t block_rows;
    void (*project)(const Work&, const Block&, Scratch&);
    void (*attend)(const Work&, const Block&, int32_t head, Scratch&);
    void (*combine)(const Work&, const Block&, Scratch&);
    void (*enter)();  // before a thread's first unit of a slice, and
    void (*leave)();  // after its last; null when there is nothing to set up
};

// What one ISA offers for a model; null where it cannot serve it.
using Choose = const Kernels* (*)(const RgrModel&);

inline bool fits_lanes(const RgrModel& m) {
    return m.width % kLanes == 0 && m.qk % kLanes == 0 && m.v % kLanes == 0 && m.page_tokens % kKeys == 0 &&
           m.qk <= kHeadMax && m.v <= kHeadMax;
}

inline bool fits_tiles(const RgrModel& m) {
    return fits_lanes(m) && m.dtype == kBfloat16 && m.width % 32 == 0 && m.qk % 32 == 0 && m.v % 32 == 0;
}

}  // namespace rgr

extern "C" {
const rgr::Kernels* rgr_choose_avx2(const rgr::RgrModel&) __attribute__((weak));
const rgr::Kernels* rgr_choose_avx512(const rgr::RgrModel&) __attribute__((weak));
const rgr::Kernels* rgr_choose_bf16(const rgr::RgrModel&) __attribute__((weak));
const rgr::Kernels* rgr_choose_amx(const rgr::RgrModel&) __attribute__((weak));
const rgr::Kernels* rgr_choose_amx_emulated(const rgr::RgrModel&) __attribute__((weak));
}
