// Codes in AVX2: eight elements at a time.
#include <immintrin.h>

#include "copy.h"
#include "quantise.h"

namespace rgr {
namespace {

inline __m256i load(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

template <bool kStreams>
inline void store(uint8_t* target, __m256i data) {
    __m256i* const there = reinterpret_cast<__m256i*>(target);
    if (kStreams) return _mm256_stream_si256(there, data);
    _mm256_storeu_si256(there, data);
}

// Thirty-two codes of four vectors; each is within a byte, so packing saturates nothing.
inline void store_codes(int8_t* codes, const __m256i* wide) {
    const __m256i packed =
        _mm256_packs_epi16(_mm256_packs_epi32(wide[0], wide[1]), _mm256_packs_epi32(wide[2], wide[3]));
    const __m256i in_order = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), in_order);
}

inline __m256 codes_of(const int8_t* codes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes))));
}

struct HalfCodec {
    static inline __m256 wide(const uint8_t* source) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }

    static inline uint16_t bound(const uint8_t* source) {
        const __m256i magnitude = _mm256_set1_epi16(Half::kMagnitude);
        __m256i most = _mm256_setzero_si256();
        for (size_t at = 0; at < 2 * kGroup; at += 32)
            most = _mm256_max_epu16(most, _mm256_and_si256(load(source + at), magnitude));
        const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
        // There is a least of eight, but no largest.
        const __m128i least = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi16(-1)));
        return static_cast<uint16_t>(~_mm_extract_epi16(least, 0));
    }

    static inline void quantise(const uint8_t* source, float factor, int8_t* codes) {
        const __m256 factors = _mm256_set1_ps(factor);
        for (size_t at = 0; at < kGroup; at += 32) {
            __m256i codes4[4];
            for (size_t i = 0; i < 4; ++i)
                codes4[i] = _mm256_cvtps_epi32(_mm256_mul_ps(wide(source + 2 * (at + 8 * i)), factors));
            store_codes(codes + at, codes4);
        }
    }

    static inline __m256i narrowed(__m256 values) {
        const __m256i bits = _mm256_castps_si256(values);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
        return _mm256_srli_epi32(rounded, 16);
    }

    // The step is so exact that 127 of it round to the bound.
    template <bool kStreams>
    static inline void expand(const int8_t* codes, float, float step, uint8_t* target) {
        const __m256 steps = _mm256_set1_ps(step);
        for (size_t at = 0; at < kGroup; at += 16) {
            const __m256i low = narrowed(_mm256_mul_ps(codes_of(codes + at), steps));
            const __m256i high = narrowed(_mm256_mul_ps(codes_of(codes + at + 8), steps));
            store<kStreams>(target + 2 * at, _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8));
        }
    }
};

struct SingleCodec {
    static inline uint32_t bound(const uint8_t* source) {
        const __m256i magnitude = _mm256_set1_epi32(Single::kMagnitude);
        __m256i most = _mm256_setzero_si256();
        for (size_t at = 0; at < 4 * kGroup; at += 32)
            most = _mm256_max_epu32(most, _mm256_and_si256(load(source + at), magnitude));
        __m128i four = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
        four = _mm_max_epu32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
        four = _mm_max_epu32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(2, 3, 0, 1)));
        return static_cast<uint32_t>(_mm_cvtsi128_si32(four));
    }

    static inline void quantise(const uint8_t* source, float factor, int8_t* codes) {
        const __m256 factors = _mm256_set1_ps(factor);
        for (size_t at = 0; at < kGroup; at += 32) {
            __m256i codes4[4];
            for (size_t i = 0; i < 4; ++i)
                codes4[i] =
                    _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_castsi256_ps(load(source + 4 * (at + 8 * i))), factors));
            store_codes(codes + at, codes4);
        }
    }

    template <bool kStreams>
    static inline void expand(const int8_t* codes, float bound, float step, uint8_t* target) {
        const __m256 steps = _mm256_set1_ps(step), bounds = _mm256_set1_ps(bound), sign = _mm256_set1_ps(-0.0f);
        for (size_t at = 0; at < kGroup; at += 8) {
            const __m256 code = codes_of(codes + at);
            const __m256 is_bound = _mm256_cmp_ps(_mm256_andnot_ps(sign, code), _mm256_set1_ps(kCodeMax), _CMP_EQ_OQ);
            const __m256 signed_bounds = _mm256_or_ps(bounds, _mm256_and_ps(sign, code));
            const __m256 values = _mm256_blendv_ps(_mm256_mul_ps(code, steps), signed_bounds, is_bound);
            store<kStreams>(target + 4 * at, _mm256_castps_si256(values));
        }
    }
};

}  // namespace

size_t quantise_half_avx2(const uint8_t* source, size_t groups, uint8_t* bounds, int8_t* codes) {
    return quantise_groups<Half, HalfCodec>(source, groups, bounds, codes);
}

size_t quantise_single_avx2(const uint8_t* source, size_t groups, uint8_t* bounds, int8_t* codes) {
    return quantise_groups<Single, SingleCodec>(source, groups, bounds, codes);
}

void expand_half_avx2(const uint8_t* bounds, const int8_t* codes, size_t groups, uint8_t* target) {
    if (is_line(target)) return expand_groups<Half, HalfCodec, true>(bounds, codes, groups, target);
    expand_groups<Half, HalfCodec, false>(bounds, codes, groups, target);
}

void expand_single_avx2(const uint8_t* bounds, const int8_t* codes, size_t groups, uint8_t* target) {
    if (is_line(target)) return expand_groups<Single, SingleCodec, true>(bounds, codes, groups, target);
    expand_groups<Single, SingleCodec, false>(bounds, codes, groups, target);
}

}  // namespace rgr
