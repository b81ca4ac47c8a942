// Which level serves, and the codes for any x86-64.
#include "quantise.h"

#include <emmintrin.h>
#include <string.h>

#include "cpu.h"

namespace rgr {
namespace {

template <class Element>
struct Plain {
    using Bits = typename Element::Bits;

    static Bits at(const uint8_t* source, size_t index) {
        Bits bits;
        memcpy(&bits, source + index * sizeof(Bits), sizeof bits);
        return bits;
    }

    static Bits bound(const uint8_t* source) {
        Bits most = 0;
        for (size_t i = 0; i < kGroup; ++i) {
            const Bits magnitude = at(source, i) & Element::kMagnitude;
            if (magnitude > most) most = magnitude;
        }
        return most;
    }

    // _mm_cvtss_si32 rounds halves to even, as the vectors do.
    static void quantise(const uint8_t* source, float factor, int8_t* codes) {
        for (size_t i = 0; i < kGroup; ++i)
            codes[i] = static_cast<int8_t>(_mm_cvtss_si32(_mm_set_ss(Element::wide(at(source, i)) * factor)));
    }

    static uint16_t narrowed(float value, const Half*) {
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
    static float narrowed(float value, const Single*) { return value; }

    template <bool kStreams>
    static void expand(const int8_t* codes, float bound, float step, uint8_t* target) {
        for (size_t i = 0; i < kGroup; ++i) {
            const float value = codes[i] == 127    ? bound
                                : codes[i] == -127 ? -bound
                                                   : static_cast<float>(codes[i]) * step;
            const auto out = narrowed(value, static_cast<const Element*>(nullptr));
            memcpy(target + i * sizeof out, &out, sizeof out);
        }
    }
};

Quantise* quantise_of(int level, bool is_half) {
#ifdef RGR_HAVE_AVX512
    if (level >= kAvx512) return is_half ? quantise_half_avx512 : quantise_single_avx512;
#endif
#ifdef RGR_HAVE_AVX2
    if (level >= kAvx2) return is_half ? quantise_half_avx2 : quantise_single_avx2;
#endif
    return is_half ? quantise_half : quantise_single;
}

Expand* expand_of(int level, bool is_half) {
#ifdef RGR_HAVE_AVX512
    if (level >= kAvx512) return is_half ? expand_half_avx512 : expand_single_avx512;
#endif
#ifdef RGR_HAVE_AVX2
    if (level >= kAvx2) return is_half ? expand_half_avx2 : expand_single_avx2;
#endif
    return is_half ? expand_half : expand_single;
}

}  // namespace

size_t quantise_half(const uint8_t* source, size_t groups, uint8_t* bounds, int8_t* codes) {
    return quantise_groups<Half, Plain<Half>>(source, groups, bounds, codes);
}

size_t quantise_single(const uint8_t* source, size_t groups, uint8_t* bounds, int8_t* codes) {
    return quantise_groups<Single, Plain<Single>>(source, groups, bounds, codes);
}

void expand_half(const uint8_t* bounds, const int8_t* codes, size_t groups, uint8_t* target) {
    expand_groups<Half, Plain<Half>, false>(bounds, codes, groups, target);
}

void expand_single(const uint8_t* bounds, const int8_t* codes, size_t groups, uint8_t* target) {
    expand_groups<Single, Plain<Single>, false>(bounds, codes, groups, target);
}

}  // namespace rgr

// A page of `groups` groups to and from its stored form: the bounds of all groups, then the codes.
// Elements are of 2 bytes (bfloat16) or 4 (float32).
RGR_EXPORT uint64_t rgr_quantise(const uint8_t* page, uint64_t groups, uint32_t element_bytes, uint8_t* stored,
                                 int level) {
    int8_t* const codes = reinterpret_cast<int8_t*>(stored + groups * element_bytes);
    return rgr::quantise_of(level, element_bytes == 2)(page, groups, stored, codes);
}

RGR_EXPORT void rgr_expand(const uint8_t* stored, uint64_t groups, uint32_t element_bytes, uint8_t* page, int level) {
    const int8_t* const codes = reinterpret_cast<const int8_t*>(stored + groups * element_bytes);
    rgr::expand_of(level, element_bytes == 2)(stored, codes, groups, page);
    _mm_sfence();  // the stores past the caches, before anybody is told that they are done
}
