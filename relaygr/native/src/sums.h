// Token rows as sums of table rows: out[t] = ((a[i[t]] + b[j[t]]) + c[k[t]]) + d[l[t]], rounded after each
// addition, as torch adds tensors. So these are torch's rows to the bit, whichever of both made them.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace rgr {

constexpr int kSummandsMax = 4;

}  // namespace rgr

// NativeSums in relaygr/model/native_rows.py, field by field.
struct RgrSums {
    const void* table[rgr::kSummandsMax];
    const int64_t* row[rgr::kSummandsMax];  // of each token, in its table
    int64_t table_rows[rgr::kSummandsMax];
    int64_t tokens;
    int32_t summands, width, is_half;
};

namespace rgr {

using SumRows = void(const RgrSums& sums, void* out);
SumRows sum_rows, sum_rows_avx2, sum_rows_avx512;

// Compiled once for each instruction set; the compiler finds the vectors.
namespace {

struct HalfSum {
    using Bits = uint16_t;
    static float wide(Bits bits) { return __builtin_bit_cast(float, uint32_t{bits} << 16); }
    static uint32_t rounded(float value) {
        const uint32_t bits = __builtin_bit_cast(uint32_t, value);
        return bits + 0x7FFF + ((bits >> 16) & 1);
    }
    static float kept(float value) { return __builtin_bit_cast(float, rounded(value) & 0xFFFF0000u); }
    static Bits narrow(float value) { return static_cast<Bits>(rounded(value) >> 16); }
};

struct SingleSum {
    using Bits = float;
    static float wide(Bits value) { return value; }
    static float kept(float value) { return value; }
    static Bits narrow(float value) { return value; }
};

template <class Element, int kSummands>
void sum_tokens(const RgrSums& sums, typename Element::Bits* __restrict out) {
    using Bits = typename Element::Bits;
    const int64_t width = sums.width;
    for (int64_t token = 0; token < sums.tokens; ++token, out += width) {
        const Bits* from[kSummands];
        for (int s = 0; s < kSummands; ++s)
            from[s] = static_cast<const Bits*>(sums.table[s]) + sums.row[s][token] * width;
        const Bits *a = from[0], *b = from[1];
        for (int64_t i = 0; i < width; ++i) {
            float sum = Element::wide(a[i]) + Element::wide(b[i]);
            for (int s = 2; s < kSummands; ++s) sum = Element::kept(sum) + Element::wide(from[s][i]);
            out[i] = Element::narrow(sum);
        }
    }
}

template <class Element>
void sum_all(const RgrSums& sums, void* out) {
    auto* const target = static_cast<typename Element::Bits*>(out);
    switch (sums.summands) {
        case 2:
            return sum_tokens<Element, 2>(sums, target);
        case 3:
            return sum_tokens<Element, 3>(sums, target);
        default:
            return sum_tokens<Element, 4>(sums, target);
    }
}

inline void sum_by_dtype(const RgrSums& sums, void* out) {
    sums.is_half ? sum_all<HalfSum>(sums, out) : sum_all<SingleSum>(sums, out);
}

}  // namespace
}  // namespace rgr
