// The stripe loop in AVX2: a stripe is two registers.
#include <immintrin.h>

#include "copy.h"

namespace rgr {
namespace {

inline __m256i load(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

template <bool kCopies, bool kStreams>
struct Loop {
    __m256i sums[2];

    inline void take(uint8_t* target, const uint8_t* source, size_t stripe) {
        if (kStreams) _mm_prefetch(reinterpret_cast<const char*>(source + kPrefetchBytes), _MM_HINT_NTA);
        for (size_t half = 0; half < 2; ++half) {
            const __m256i data = load(source + 32 * half);
            __m256i* const there = reinterpret_cast<__m256i*>(target + (kCopies ? 32 * half : 0));
            if (kCopies && kStreams) _mm256_stream_si256(there, data);
            if (kCopies && !kStreams) _mm256_storeu_si256(there, data);
            const __m256i keyed = _mm256_xor_si256(data, load(kSecret + 8 * stripe + 32 * half));
            const __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
            const __m256i swapped = _mm256_shuffle_epi32(data, _MM_SHUFFLE(1, 0, 3, 2));
            sums[half] = _mm256_add_epi64(product, _mm256_add_epi64(sums[half], swapped));
        }
    }

    inline void scramble() {
        const __m256i prime = _mm256_set1_epi32(static_cast<int>(kPrime32));
        for (size_t half = 0; half < 2; ++half) {
            const __m256i secret = load(kSecret + kSecretBytes - kStripeBytes + 32 * half);
            const __m256i shifted = _mm256_xor_si256(sums[half], _mm256_srli_epi64(sums[half], 47));
            const __m256i mixed = _mm256_xor_si256(shifted, secret);
            const __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), prime);
            sums[half] = _mm256_add_epi64(_mm256_mul_epu32(mixed, prime), _mm256_slli_epi64(high, 32));
        }
    }

    void run(uint64_t* kept, uint32_t* at, uint8_t* target, const uint8_t* source, size_t count) {
        for (size_t half = 0; half < 2; ++half) sums[half] = load(reinterpret_cast<uint8_t*>(kept + 4 * half));
        size_t stripe = *at;
        for (size_t done = 0; done < count * kStripeBytes; done += kStripeBytes) {
            take(target + (kCopies ? done : 0), source + done, stripe);
            if (++stripe == kBlockStripes) scramble(), stripe = 0;
        }
        *at = static_cast<uint32_t>(stripe);
        for (size_t half = 0; half < 2; ++half)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(kept + 4 * half), sums[half]);
    }
};

}  // namespace

void take_stripes_avx2(uint64_t* sums, uint32_t* at, uint8_t* target, const uint8_t* source, size_t count) {
    if (!target) return Loop<false, false>().run(sums, at, target, source, count);
    if (is_line(target)) return Loop<true, true>().run(sums, at, target, source, count);
    return Loop<true, false>().run(sums, at, target, source, count);
}

}  // namespace rgr
