// The stripe loop in AVX-512: a stripe is a register. Not unrolled: with a whole block in one turn the
// compiler puts sixteen loads before their stores, which came out slower than AVX2.
#include <immintrin.h>

#include "copy.h"

namespace rgr {
namespace {

template <bool kCopies, bool kStreams>
struct Loop {
    __m512i sums;

    inline void take(uint8_t* target, const uint8_t* source, size_t stripe) {
        if (kStreams) _mm_prefetch(reinterpret_cast<const char*>(source + kPrefetchBytes), _MM_HINT_NTA);
        const __m512i data = _mm512_loadu_si512(source);
        if (kCopies && kStreams) _mm512_stream_si512(reinterpret_cast<__m512i*>(target), data);
        if (kCopies && !kStreams) _mm512_storeu_si512(target, data);
        const __m512i keyed = _mm512_xor_si512(data, _mm512_loadu_si512(kSecret + 8 * stripe));
        const __m512i product = _mm512_mul_epu32(keyed, _mm512_srli_epi64(keyed, 32));
        const __m512i swapped = _mm512_shuffle_epi32(data, _MM_PERM_BADC);
        sums = _mm512_add_epi64(product, _mm512_add_epi64(sums, swapped));
    }

    inline void scramble() {
        const __m512i secret = _mm512_loadu_si512(kSecret + kSecretBytes - kStripeBytes);
        const __m512i mixed =
            _mm512_ternarylogic_epi64(secret, sums, _mm512_srli_epi64(sums, 47), 0x96);  // xor of three
        sums = _mm512_mullo_epi64(mixed, _mm512_set1_epi64(kPrime32));
    }

    void run(uint64_t* kept, uint32_t* at, uint8_t* target, const uint8_t* source, size_t count) {
        sums = _mm512_loadu_si512(kept);
        size_t stripe = *at;
#pragma GCC unroll 1
        for (size_t done = 0; done < count * kStripeBytes; done += kStripeBytes) {
            take(target + (kCopies ? done : 0), source + done, stripe);
            if (++stripe == kBlockStripes) scramble(), stripe = 0;
        }
        *at = static_cast<uint32_t>(stripe);
        _mm512_storeu_si512(kept, sums);
    }
};

}  // namespace

void take_stripes_avx512(uint64_t* sums, uint32_t* at, uint8_t* target, const uint8_t* source, size_t count) {
    if (!target) return Loop<false, false>().run(sums, at, target, source, count);
    if (is_line(target)) return Loop<true, true>().run(sums, at, target, source, count);
    return Loop<true, false>().run(sums, at, target, source, count);
}

}  // namespace rgr
