// One pass that copies bytes and takes their XXH3 (128 bits, default secret, seed 0).
//
// XXH3 reads its input in stripes of 64 bytes. A stripe is loaded once; the same register is
// stored to the target and mixed into the digest, so what is digested is what was stored.
// The stripe loops are per instruction set; all else is in copy.cpp.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace rgr {

constexpr size_t kStripeBytes = 64;
constexpr size_t kBlockStripes = 16;  // then the sums are scrambled
constexpr size_t kSecretBytes = 192;
// How far ahead of the load to fetch: the hardware's own prefetch stops at each 4,096 bytes. Only where
// stores go past the caches; where they do not, fetching ahead cost 10 % and more on Zen 4.
constexpr size_t kPrefetchBytes = 1024;
constexpr uint32_t kPrime32 = 0x9E3779B1u;

extern const uint8_t kSecret[kSecretBytes];

// Takes `count` stripes of `source` into the eight sums, of which `at` stripes of the current
// block are taken already. Stores them to `target` when there is one; past the caches where
// it lies on a cache line: stores that are not ordered until the caller's fence.
using TakeStripes = void(uint64_t* sums, uint32_t* at, uint8_t* target, const uint8_t* source, size_t count);

TakeStripes take_stripes, take_stripes_avx2, take_stripes_avx512;

inline bool is_line(const uint8_t* at) { return (reinterpret_cast<uintptr_t>(at) & (kStripeBytes - 1)) == 0; }

}  // namespace rgr
