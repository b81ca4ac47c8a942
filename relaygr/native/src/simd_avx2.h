// The Simd trait on AVX2 with FMA: sixteen floats are two registers. See kernel.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "engine.h"

namespace {

using bf16 = uint16_t;

struct Simd {
    struct F {
        __m256 a, b;
    };
    static constexpr int kRows = 6, kBlocks = 1;

    static inline __attribute__((always_inline)) F load(const float* at) {
        return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)};
    }
    static inline __attribute__((always_inline)) void store(float* at, F value) {
        _mm256_storeu_ps(at, value.a);
        _mm256_storeu_ps(at + 8, value.b);
    }
    static inline __attribute__((always_inline)) F set(float value) {
        return {_mm256_set1_ps(value), _mm256_set1_ps(value)};
    }
    static F zero() { return set(0.0f); }
    static inline __attribute__((always_inline)) F add(F x, F y) {
        return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
    }
    static inline __attribute__((always_inline)) F mul(F x, F y) {
        return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
    }
    static inline __attribute__((always_inline)) F fma(F x, F y, F z) {
        return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
    }
    static float sum8(__m256 x) {
        const __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
    }
    static float sum(F x) { return sum8(_mm256_add_ps(x.a, x.b)); }

    static __m256 keep8(__m256 value, int lanes) {
        const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), index);
        return _mm256_and_ps(value, _mm256_castsi256_ps(mask));
    }
    static F keep(F value, int lanes) { return {keep8(value.a, lanes), keep8(value.b, lanes - 8)}; }

    // As on AVX-512, with 2^r built from its bits; r is held to what a float's exponent can say.
    template <class T>
    static __m256 silu8(__m256 x, __m256 scale) {
        const auto set8 = [](float value) { return _mm256_set1_ps(value); };
        __m256 t = _mm256_mul_ps(x, _mm256_mul_ps(scale, set8(-1.44269504088896341f)));
        t = _mm256_min_ps(_mm256_max_ps(t, set8(-126.0f)), set8(126.0f));
        const __m256 r = _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const __m256 f = _mm256_sub_ps(t, r);
        __m256 p = _mm256_fmadd_ps(f, set8(1.5252733804059841e-5f), set8(1.5403530393381609e-4f));
        p = _mm256_fmadd_ps(p, f, set8(1.3333558146428443e-3f));
        p = _mm256_fmadd_ps(p, f, set8(9.6181291076284772e-3f));
        p = _mm256_fmadd_ps(p, f, set8(5.5504108664821580e-2f));
        p = _mm256_fmadd_ps(p, f, set8(2.4022650695910071e-1f));
        p = _mm256_fmadd_ps(p, f, set8(6.9314718055994531e-1f));
        p = _mm256_fmadd_ps(p, f, set8(1.0f));
        const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(r), _mm256_set1_epi32(127)), 23);
        const __m256 power = _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
        return _mm256_div_ps(x, _mm256_add_ps(power, set8(1.0f)));
    }
    template <class T>
    static F silu(F x, F scale) {
        return {silu8<T>(x.a, scale.a), silu8<T>(x.b, scale.b)};
    }

    static __m256 widen8(__m128i raw) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16)); }

    template <class T>
    static F from(const T* at) {
        if constexpr (sizeof(T) == 2) {
            const __m128i* raw = reinterpret_cast<const __m128i*>(at);
            return {widen8(_mm_loadu_si128(raw)), widen8(_mm_loadu_si128(raw + 1))};
        } else {
            return load(at);
        }
    }

    static __m128i narrow8(__m256 value) {
        const __m256i raw = _mm256_castps_si256(value);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(raw, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(raw, _mm256_set1_epi32(0x7fff)), odd);
        const __m256i high = _mm256_srli_epi32(rounded, 16);
        return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    }

    template <class T>
    static inline __attribute__((always_inline)) void to(T* at, F value) {
        if constexpr (sizeof(T) == 2) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(at), narrow8(value.a));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(at) + 1, narrow8(value.b));
        } else {
            store(at, value);
        }
    }

    template <class T, int B>
    static inline __attribute__((always_inline)) void to_row(T* at, const F (&values)[B]) {
        for (int j = 0; j < B; ++j) to<T>(at + j * 16, values[j]);
    }

    // A step of k for bfloat16 is a pair: low and high halves of each 32 bits.
    struct Raw {
        __m256i a, b;
    };
    template <class T>
    using Operand = std::conditional_t<sizeof(T) == 4, F, Raw>;

    template <class T>
    static inline __attribute__((always_inline)) Operand<T> operand(const T* at) {
        if constexpr (sizeof(T) == 4) {
            return load(at);
        } else {
            const __m256i* raw = reinterpret_cast<const __m256i*>(at);
            return {_mm256_loadu_si256(raw), _mm256_loadu_si256(raw + 1)};
        }
    }

    struct Both {
        __m256 low, high;
    };
    template <class T>
    static inline __attribute__((always_inline)) auto broadcast(const T* at) {
        if constexpr (sizeof(T) == 4) {
            return _mm256_set1_ps(*at);
        } else {
            int32_t pair;
            __builtin_memcpy(&pair, at, 4);
            return split(_mm256_set1_epi32(pair));
        }
    }

    static inline __attribute__((always_inline)) Both split(__m256i raw) {
        return {_mm256_castsi256_ps(_mm256_slli_epi32(raw, 16)),
                _mm256_castsi256_ps(_mm256_and_si256(raw, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
    }

    static inline __attribute__((always_inline)) F step(F acc, __m256 row, F b) {
        return {_mm256_fmadd_ps(row, b.a, acc.a), _mm256_fmadd_ps(row, b.b, acc.b)};
    }
    static inline __attribute__((always_inline)) __m256 step8(__m256 acc, Both row, __m256i raw) {
        const Both b = split(raw);
        return _mm256_fmadd_ps(row.high, b.high, _mm256_fmadd_ps(row.low, b.low, acc));
    }
    static inline __attribute__((always_inline)) F step(F acc, Both row, Raw b) {
        return {step8(acc.a, row, b.a), step8(acc.b, row, b.b)};
    }

    template <class T>
    static float quantise(const T* from_row, int count, int8_t* small) {
        float bound = 0.0f;
        alignas(32) float wide[16];
        for (int d = 0; d < count; d += 16) {
            store(wide, from<T>(from_row + d));
            for (float value : wide) bound = __builtin_fmaxf(bound, __builtin_fabsf(value));
        }
        const F factor = set(bound > 0.0f ? 127.0f / bound : 0.0f);
        for (int d = 0; d < count; d += 16) {
            const F scaled = mul(from<T>(from_row + d), factor);
            const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(scaled.a), _mm256_cvtps_epi32(scaled.b));
            const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(small + d),
                             _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
        }
        return bound / 127.0f;
    }

    template <class T>
    static void widen(const int8_t* at, int count, T* to_row) {
        for (int d = 0; d < count; d += 16) {
            const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + d));
            to<T>(to_row + d, F{_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(raw)),
                                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(raw, 8)))});
        }
    }
};

}  // namespace
