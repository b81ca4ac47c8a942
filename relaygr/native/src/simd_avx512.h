// The Simd trait on AVX-512, with or without the bfloat16 dot product. See kernel.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "engine.h"

namespace {

using bf16 = uint16_t;

struct Simd {
    using F = __m512;
    static constexpr int kRows = 6, kBlocks = 4;

    static F load(const float* at) { return _mm512_loadu_ps(at); }
    static void store(float* at, F value) { _mm512_storeu_ps(at, value); }
    static F set(float value) { return _mm512_set1_ps(value); }
    static F zero() { return _mm512_setzero_ps(); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static float sum(F a) { return _mm512_reduce_add_ps(a); }

    static F keep(F value, int lanes) {
        const __mmask16 mask = lanes <= 0 ? 0 : lanes >= 16 ? 0xffff : static_cast<__mmask16>((1u << lanes) - 1);
        return _mm512_maskz_mov_ps(mask, value);
    }

    // x / (1 + 2^(-scale * x * log2 e)). For bfloat16 a polynomial of degree 3 (relative error 8e-5)
    // and an approximate reciprocal (6e-5): a tenth of what rounding to bfloat16 costs.
    template <class T>
    static F silu(F x, F scale) {
        const F t = _mm512_mul_ps(x, _mm512_mul_ps(scale, set(-1.44269504088896341f)));
        if constexpr (sizeof(T) == 2) {
            const F f = _mm512_reduce_ps(t, 0x01);  // t - floor(t)
            F p = fma(f, set(0.07802428f), set(0.22606727f));
            p = fma(p, f, set(0.69583363f));
            p = fma(p, f, set(0.99992519f));
            const F power = _mm512_scalef_ps(p, t);
            return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(power, set(1.0f))));
        } else {
            const F r = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            const F f = _mm512_sub_ps(t, r);
            F p = fma(f, set(1.5252733804059841e-5f), set(1.5403530393381609e-4f));
            p = fma(p, f, set(1.3333558146428443e-3f));
            p = fma(p, f, set(9.6181291076284772e-3f));
            p = fma(p, f, set(5.5504108664821580e-2f));
            p = fma(p, f, set(2.4022650695910071e-1f));
            p = fma(p, f, set(6.9314718055994531e-1f));
            p = fma(p, f, set(1.0f));
            // 2^127 is as good as infinity here, and keeps 0 * infinity out.
            const F power = _mm512_scalef_ps(p, _mm512_min_ps(r, set(127.0f)));
            return _mm512_div_ps(x, _mm512_add_ps(power, set(1.0f)));
        }
    }

    static F widen16(__m256i raw) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16)); }

    template <class T>
    static F from(const T* at) {
        if constexpr (sizeof(T) == 2)
            return widen16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
        else
            return load(at);
    }

    static __m256i narrow16(F value) {
#ifdef __AVX512BF16__
        return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value));
#else
        const __m512i raw = _mm512_castps_si512(value);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(raw, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(raw, _mm512_set1_epi32(0x7fff)), odd);
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
    }

    template <class T>
    static void to(T* at, F value) {
        if constexpr (sizeof(T) == 2)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), narrow16(value));
        else
            store(at, value);
    }

    template <class T, int B>
    static inline __attribute__((always_inline)) void to_row(T* at, const F (&values)[B]) {
#ifdef __AVX512BF16__
        if constexpr (sizeof(T) == 2 && B % 2 == 0) {
#pragma GCC unroll 8
            for (int j = 0; j < B; j += 2)
                _mm512_storeu_si512(at + j * 16,
                                    reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(values[j + 1], values[j])));
            return;
        }
#endif
#pragma GCC unroll 8
        for (int j = 0; j < B; ++j) to<T>(at + j * 16, values[j]);
    }

    // Operands of one step of k: a vector of 16 outputs, and a row's element(s) for all of them.
    struct Wide {
        F low, high;
    };
    template <class T>
    using Operand = std::conditional_t<sizeof(T) == 4, F,
#ifdef __AVX512BF16__
                                       __m512bh
#else
                                       Wide
#endif
                                       >;

    template <class T>
    static inline __attribute__((always_inline)) Operand<T> operand(const T* at) {
        if constexpr (sizeof(T) == 4) {
            return load(at);
        } else {
            const __m512i raw = _mm512_loadu_si512(at);
#ifdef __AVX512BF16__
            return reinterpret_cast<__m512bh>(raw);
#else
            return split(raw);
#endif
        }
    }

    template <class T>
    static inline __attribute__((always_inline)) Operand<T> broadcast(const T* at) {
        if constexpr (sizeof(T) == 4) {
            return set(*at);
        } else {
            int32_t pair;
            __builtin_memcpy(&pair, at, 4);
            const __m512i raw = _mm512_set1_epi32(pair);
#ifdef __AVX512BF16__
            return reinterpret_cast<__m512bh>(raw);
#else
            return split(raw);
#endif
        }
    }

    static inline __attribute__((always_inline)) F step(F acc, F a, F b) { return fma(a, b, acc); }
#ifdef __AVX512BF16__
    static inline __attribute__((always_inline)) F step(F acc, __m512bh a, __m512bh b) {
        return _mm512_dpbf16_ps(acc, a, b);
    }
#else
    static inline __attribute__((always_inline)) Wide split(__m512i raw) {
        return {_mm512_castsi512_ps(_mm512_slli_epi32(raw, 16)),
                _mm512_castsi512_ps(_mm512_and_si512(raw, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
    }
    static inline __attribute__((always_inline)) F step(F acc, Wide a, Wide b) {
        return fma(a.high, b.high, fma(a.low, b.low, acc));
    }
#endif

    // int8 with one scale: value = scale * small.
    template <class T>
    static float quantise(const T* from_row, int count, int8_t* small) {
        F largest = zero();
        for (int d = 0; d < count; d += 16) largest = _mm512_max_ps(largest, _mm512_abs_ps(from<T>(from_row + d)));
        const float bound = _mm512_reduce_max_ps(largest);
        const F factor = set(bound > 0.0f ? 127.0f / bound : 0.0f);
        for (int d = 0; d < count; d += 16) {
            const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(from<T>(from_row + d), factor));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(small + d), _mm512_cvtsepi32_epi8(rounded));
        }
        return bound / 127.0f;
    }

    // Whole numbers up to 127 are exact in bfloat16.
    template <class T>
    static void widen(const int8_t* at, int count, T* to_row) {
        for (int d = 0; d < count; d += 16) {
            const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + d));
            to<T>(to_row + d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(raw)));
        }
    }
};

}  // namespace
