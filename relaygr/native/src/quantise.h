// int8 codes for groups of 64 elements of bfloat16 or float32, and the way back.
//
// A group keeps its largest magnitude, in its own dtype, and a code of one byte per element:
// code = round(element * (127 / bound)), element = code * (bound / 127), and +-127 is the bound itself.
// So the largest magnitude survives exactly, and what was expanded once gives the same bytes again.
//
// A group whose bound is below 2^-100 is zero. With that, no subnormal number is computed or
// left out by a mode of the processor, and every level leaves the same bits.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace rgr {

constexpr size_t kGroup = 64;
constexpr float kCodeMax = 127.0f, kCodeStep = 1.0f / 127.0f;

// bfloat16 by its bits.
struct Half {
    using Bits = uint16_t;
    static constexpr Bits kMagnitude = 0x7FFF, kInfinity = 0x7F80, kLeast = 27 << 7;
    static float wide(Bits bits) {
        const uint32_t widened = uint32_t{bits} << 16;
        float out;
        __builtin_memcpy(&out, &widened, sizeof out);
        return out;
    }
};

struct Single {
    using Bits = uint32_t;
    static constexpr Bits kMagnitude = 0x7FFFFFFFu, kInfinity = 0x7F800000u, kLeast = 27u << 23;
    static float wide(Bits bits) {
        float out;
        __builtin_memcpy(&out, &bits, sizeof out);
        return out;
    }
};

// Both by groups. Quantising returns how many were done: fewer when the next holds an infinity or no number.
// `bounds` and `target` have the dtype of the elements. Expanding stores past the caches where the target
// lies on a cache line: stores that are not ordered until the caller's fence.
using Quantise = size_t(const uint8_t* source, size_t groups, uint8_t* bounds, int8_t* codes);
using Expand = void(const uint8_t* bounds, const int8_t* codes, size_t groups, uint8_t* target);

Quantise quantise_half, quantise_half_avx2, quantise_half_avx512;
Quantise quantise_single, quantise_single_avx2, quantise_single_avx512;
Expand expand_half, expand_half_avx2, expand_half_avx512;
Expand expand_single, expand_single_avx2, expand_single_avx512;

// The walk over groups, the same at every level: `Codec` has what differs.
template <class Element, class Codec>
inline size_t quantise_groups(const uint8_t* source, size_t groups, uint8_t* bounds, int8_t* codes) {
    using Bits = typename Element::Bits;
    for (size_t group = 0; group < groups; ++group, source += kGroup * sizeof(Bits), codes += kGroup) {
        Bits bound = Codec::bound(source);
        if (bound >= Element::kInfinity) return group;
        if (bound < Element::kLeast) bound = 0;
        __builtin_memcpy(bounds + group * sizeof(Bits), &bound, sizeof bound);
        Codec::quantise(source, bound ? kCodeMax / Element::wide(bound) : 0.0f, codes);
    }
    return groups;
}

template <class Element, class Codec, bool kStreams>
inline void expand_groups(const uint8_t* bounds, const int8_t* codes, size_t groups, uint8_t* target) {
    using Bits = typename Element::Bits;
    for (size_t group = 0; group < groups; ++group, target += kGroup * sizeof(Bits), codes += kGroup) {
        Bits bits;
        __builtin_memcpy(&bits, bounds + group * sizeof(Bits), sizeof bits);
        const float bound = Element::wide(bits);
        Codec::template expand<kStreams>(codes, bound, bound * kCodeStep, target);
    }
}

}  // namespace rgr
