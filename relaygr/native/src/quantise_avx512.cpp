// Codes in AVX-512: sixteen elements at a time.
#include <immintrin.h>

#include "copy.h"
#include "quantise.h"

namespace rgr {
namespace {

template <bool kStreams>
inline void store(uint8_t* target, __m512i data) {
    if (kStreams) return _mm512_stream_si512(reinterpret_cast<__m512i*>(target), data);
    _mm512_storeu_si512(target, data);
}

inline void store_codes(int8_t* codes, __m512 values, __m512 factors) {
    const __m512i wide = _mm512_cvtps_epi32(_mm512_mul_ps(values, factors));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(wide));
}

inline __m512 codes_of(const int8_t* codes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))));
}

struct HalfCodec {
    static inline uint16_t bound(const uint8_t* source) {
        const __m512i magnitude = _mm512_set1_epi16(Half::kMagnitude);
        const __m512i most = _mm512_max_epu16(_mm512_and_si512(_mm512_loadu_si512(source), magnitude),
                                              _mm512_and_si512(_mm512_loadu_si512(source + 64), magnitude));
        const __m256i sixteen = _mm256_max_epu16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
        const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(sixteen), _mm256_extracti128_si256(sixteen, 1));
        // There is a least of eight, but no largest.
        const __m128i least = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi16(-1)));
        return static_cast<uint16_t>(~_mm_extract_epi16(least, 0));
    }

    static inline void quantise(const uint8_t* source, float factor, int8_t* codes) {
        const __m512 factors = _mm512_set1_ps(factor);
        for (size_t at = 0; at < kGroup; at += 16) {
            const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + 2 * at));
            const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
            store_codes(codes + at, _mm512_castsi512_ps(wide), factors);
        }
    }

    static inline __m256i narrowed(__m512 values) {
        const __m512i bits = _mm512_castps_si512(values);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
    }

    // The step is so exact that 127 of it round to the bound.
    template <bool kStreams>
    static inline void expand(const int8_t* codes, float, float step, uint8_t* target) {
        const __m512 steps = _mm512_set1_ps(step);
        for (size_t at = 0; at < kGroup; at += 32) {
            const __m256i low = narrowed(_mm512_mul_ps(codes_of(codes + at), steps));
            const __m256i high = narrowed(_mm512_mul_ps(codes_of(codes + at + 16), steps));
            store<kStreams>(target + 2 * at, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
        }
    }
};

struct SingleCodec {
    static inline uint32_t bound(const uint8_t* source) {
        __m512i most = _mm512_setzero_si512();
        for (size_t at = 0; at < 4 * kGroup; at += 64) {
            const __m512i bits = _mm512_loadu_si512(source + at);
            most = _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(Single::kMagnitude)));
        }
        return _mm512_reduce_max_epu32(most);
    }

    static inline void quantise(const uint8_t* source, float factor, int8_t* codes) {
        const __m512 factors = _mm512_set1_ps(factor);
        for (size_t at = 0; at < kGroup; at += 16)
            store_codes(codes + at, _mm512_castsi512_ps(_mm512_loadu_si512(source + 4 * at)), factors);
    }

    template <bool kStreams>
    static inline void expand(const int8_t* codes, float bound, float step, uint8_t* target) {
        const __m512 steps = _mm512_set1_ps(step), bounds = _mm512_set1_ps(bound);
        for (size_t at = 0; at < kGroup; at += 16) {
            const __m512 code = codes_of(codes + at);
            const __mmask16 is_bound = _mm512_cmp_ps_mask(_mm512_abs_ps(code), _mm512_set1_ps(kCodeMax), _CMP_EQ_OQ);
            const __m512 signed_bounds = _mm512_or_ps(bounds, _mm512_and_ps(code, _mm512_set1_ps(-0.0f)));
            const __m512 values = _mm512_mask_blend_ps(is_bound, _mm512_mul_ps(code, steps), signed_bounds);
            store<kStreams>(target + 4 * at, _mm512_castps_si512(values));
        }
    }
};

}  // namespace

size_t quantise_half_avx512(const uint8_t* source, size_t groups, uint8_t* bounds, int8_t* codes) {
    return quantise_groups<Half, HalfCodec>(source, groups, bounds, codes);
}

size_t quantise_single_avx512(const uint8_t* source, size_t groups, uint8_t* bounds, int8_t* codes) {
    return quantise_groups<Single, SingleCodec>(source, groups, bounds, codes);
}

void expand_half_avx512(const uint8_t* bounds, const int8_t* codes, size_t groups, uint8_t* target) {
    if (is_line(target)) return expand_groups<Half, HalfCodec, true>(bounds, codes, groups, target);
    expand_groups<Half, HalfCodec, false>(bounds, codes, groups, target);
}

void expand_single_avx512(const uint8_t* bounds, const int8_t* codes, size_t groups, uint8_t* target) {
    if (is_line(target)) return expand_groups<Single, SingleCodec, true>(bounds, codes, groups, target);
    expand_groups<Single, SingleCodec, false>(bounds, codes, groups, target);
}

}  // namespace rgr
