// The stripe loop in AVX-512: a stripe is a register, and the secret of a whole block stays in sixteen.
#include <immintrin.h>

#include "copy.h"

namespace rgr {
namespace {

inline __m512i secret_of(size_t stripe) { return _mm512_loadu_si512(kSecret + 8 * stripe); }

template <bool kCopies, bool kStreams>
struct Loop {
    __m512i sum;

    inline void take(uint8_t* target, const uint8_t* source, __m512i secret) {
        if (kStreams) _mm_prefetch(reinterpret_cast<const char*>(source + kPrefetchBytes), _MM_HINT_NTA);
        const __m512i data = _mm512_loadu_si512(source);
        if (kCopies && kStreams) _mm512_stream_si512(reinterpret_cast<__m512i*>(target), data);
        if (kCopies && !kStreams) _mm512_storeu_si512(target, data);
        const __m512i keyed = _mm512_xor_si512(data, secret);
        const __m512i product = _mm512_mul_epu32(keyed, _mm512_srli_epi64(keyed, 32));
        const __m512i swapped = _mm512_shuffle_epi32(data, _MM_PERM_BADC);
        sum = _mm512_add_epi64(product, _mm512_add_epi64(sum, swapped));
    }

    inline void scramble() {
        const __m512i secret = _mm512_loadu_si512(kSecret + kSecretBytes - kStripeBytes);
        const __m512i mixed = _mm512_ternarylogic_epi64(secret, sum, _mm512_srli_epi64(sum, 47), 0x96);  // xor of three
        sum = _mm512_mullo_epi64(mixed, _mm512_set1_epi64(kPrime32));
    }

    void run(uint64_t* sums, uint32_t* at, uint8_t* target, const uint8_t* source, size_t count) {
        sum = _mm512_loadu_si512(sums);
        size_t stripe = *at, done = 0;
        const auto one = [&] {
            take(target + (kCopies ? done : 0), source + done, secret_of(stripe++));
            done += kStripeBytes;
            --count;
        };
        while (count && stripe) {  // to the end of the block begun earlier
            one();
            if (stripe == kBlockStripes) scramble(), stripe = 0;
        }
        __m512i secret[kBlockStripes];
        for (size_t i = 0; i < kBlockStripes; ++i) secret[i] = secret_of(i);
        for (; count >= kBlockStripes; count -= kBlockStripes) {
#pragma GCC unroll 16
            for (size_t i = 0; i < kBlockStripes; ++i, done += kStripeBytes)
                take(target + (kCopies ? done : 0), source + done, secret[i]);
            scramble();
        }
        while (count) one();
        *at = static_cast<uint32_t>(stripe);
        _mm512_storeu_si512(sums, sum);
    }
};

}  // namespace

void take_stripes_avx512(uint64_t* sums, uint32_t* at, uint8_t* target, const uint8_t* source, size_t count) {
    if (!target) return Loop<false, false>().run(sums, at, target, source, count);
    if (is_line(target)) return Loop<true, true>().run(sums, at, target, source, count);
    return Loop<true, false>().run(sums, at, target, source, count);
}

}  // namespace rgr
