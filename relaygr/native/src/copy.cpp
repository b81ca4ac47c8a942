// The state of a running digest, the walk over pages and blocks, and the stripe loop for any x86-64.
#include "copy.h"

#include <emmintrin.h>
#include <string.h>

#include "cpu.h"

namespace rgr {

alignas(64) const uint8_t kSecret[kSecretBytes] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4,
    0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e,
    0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43,
    0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb,
    0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19,
    0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7,
    0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78,
    0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16,
    0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f,
    0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

namespace {

constexpr uint64_t kPrime64[5] = {0x9E3779B185EBCA87u, 0xC2B2AE3D27D4EB4Fu, 0x165667B19E3779F9u, 0x85EBCA77C2B2AE63u,
                                  0x27D4EB2F165667C5u};
constexpr uint64_t kSums[8] = {0xC2B2AE3Du, kPrime64[0], kPrime64[1], kPrime64[2],
                               kPrime64[3], 0x85EBCA77u, kPrime64[4], kPrime32};
constexpr size_t kShortBytes = 240;  // up to here XXH3 is another function, left to the library

// A running digest. At least one byte is always held back: which stripe is the last is known at the end.
struct Digest {
    uint64_t sums[8];
    uint64_t total;
    uint32_t at;                       // stripes taken of the current block
    uint32_t pending;                  // bytes held back: window[64, 64 + pending)
    uint8_t window[2 * kStripeBytes];  // the stripe taken last, then what is held back
    uint8_t head[kShortBytes];         // the first bytes, for inputs that end up short
};

uint64_t read64(const uint8_t* at) {
    uint64_t out;
    memcpy(&out, at, sizeof out);
    return out;
}

void take_one(uint64_t* sums, const uint8_t* data, const uint8_t* secret) {
    for (size_t i = 0; i < 8; ++i) {
        const uint64_t word = read64(data + 8 * i), keyed = word ^ read64(secret + 8 * i);
        sums[i ^ 1] += word;
        sums[i] += (keyed & 0xFFFFFFFFu) * (keyed >> 32);
    }
}

uint64_t folded(uint64_t a, uint64_t b) {
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t merged(const uint64_t* sums, const uint8_t* secret, uint64_t out) {
    for (size_t i = 0; i < 8; i += 2)
        out += folded(sums[i] ^ read64(secret + 8 * i), sums[i + 1] ^ read64(secret + 8 * i + 8));
    out = (out ^ (out >> 37)) * 0x165667919E3779F9u;
    return out ^ (out >> 32);
}

TakeStripes* loop_of(int level) {
#ifdef RGR_HAVE_AVX512
    if (level >= kAvx512) return take_stripes_avx512;
#endif
#ifdef RGR_HAVE_AVX2
    if (level >= kAvx2) return take_stripes_avx2;
#endif
    return take_stripes;
}

// A few bytes: read once, kept at `kept`, and from there to the target.
void keep(uint8_t* kept, uint8_t* target, const uint8_t* source, size_t count) {
    memcpy(kept, source, count);
    if (target) memcpy(target, kept, count);
}

void take_window(Digest* digest, TakeStripes* take) {
    take(digest->sums, &digest->at, nullptr, digest->window + kStripeBytes, 1);
    memcpy(digest->window, digest->window + kStripeBytes, kStripeBytes);
    digest->pending = 0;
}

void update(Digest* digest, uint8_t* target, const uint8_t* source, size_t count, TakeStripes* take) {
    const auto moved = [&](size_t bytes) {
        source += bytes;
        count -= bytes;
        if (target) target += bytes;
    };
    const size_t before = digest->total;
    uint8_t* const held = digest->window + kStripeBytes;
    const uint8_t* const begun = target ? target : source;
    const size_t head = before < kShortBytes ? (count < kShortBytes - before ? count : kShortBytes - before) : 0;
    digest->total += count;
    const size_t filling = count < kStripeBytes - digest->pending ? count : kStripeBytes - digest->pending;
    if (filling < kStripeBytes) {
        keep(held + digest->pending, target, source, filling);
        digest->pending += static_cast<uint32_t>(filling);
        moved(filling);
    }
    if (count) {
        if (digest->pending) take_window(digest, take);
        size_t stripes = (count - 1) / kStripeBytes;
        const bool is_even = count % kStripeBytes == 0;  // then the stripe before what is held is never asked for
        if (stripes && !is_even) --stripes;
        if (stripes) take(digest->sums, &digest->at, target, source, stripes);
        moved(stripes * kStripeBytes);
        if (count > kStripeBytes) {
            keep(held, target, source, kStripeBytes);
            moved(kStripeBytes);
            take_window(digest, take);
        }
        keep(held, target, source, count);
        digest->pending = static_cast<uint32_t>(count);
    }
    if (head) memcpy(digest->head + before, begun, head);
}

}  // namespace

void take_stripes(uint64_t* sums, uint32_t* at, uint8_t* target, const uint8_t* source, size_t count) {
    for (; count; --count, source += kStripeBytes) {
        uint8_t data[kStripeBytes];
        keep(data, target, source, kStripeBytes);
        if (target) target += kStripeBytes;
        take_one(sums, data, kSecret + 8 * *at);
        if (++*at < kBlockStripes) continue;
        *at = 0;
        for (size_t i = 0; i < 8; ++i) {
            const uint64_t secret = read64(kSecret + kSecretBytes - kStripeBytes + 8 * i);
            sums[i] = (sums[i] ^ (sums[i] >> 47) ^ secret) * kPrime32;
        }
    }
}

}  // namespace rgr

// A run of bytes that is cut into pages on one side and into blocks of a segment on the other.
// The order of fields is that of relaygr/segment/native.py.
struct RgrTransfer {
    uint8_t* data;                // the segment's block 0
    const uint64_t* generations;  // of each block
    uint64_t block_bytes;
    const uint32_t* blocks;  // in the run's order
    uint8_t* const* pages;
    const uint64_t* page_bytes;
    uint64_t page_count;
    uint64_t generation;  // whose the blocks must be
    uint32_t is_store;    // from pages to blocks
};

RGR_EXPORT size_t rgr_digest_bytes(void) { return sizeof(rgr::Digest); }

RGR_EXPORT void rgr_digest_begin(rgr::Digest* digest) {
    memset(digest, 0, sizeof *digest);
    memcpy(digest->sums, rgr::kSums, sizeof rgr::kSums);
}

RGR_EXPORT void rgr_digest_update(rgr::Digest* digest, const uint8_t* source, size_t count, int level) {
    rgr::update(digest, nullptr, source, count, rgr::loop_of(level));
}

// The digest's 16 bytes as xxhash prints them; the state is left as it was. Where all input was
// short, `out` gets nothing and the input's bytes are returned instead.
RGR_EXPORT const uint8_t* rgr_digest_end(const rgr::Digest* digest, uint64_t* total, uint8_t* out) {
    *total = digest->total;
    if (digest->total <= rgr::kShortBytes) return digest->head;
    uint64_t sums[8];
    memcpy(sums, digest->sums, sizeof sums);
    const uint8_t* const last_secret = rgr::kSecret + rgr::kSecretBytes - rgr::kStripeBytes;
    rgr::take_one(sums, digest->window + digest->pending, last_secret - 7);
    const uint64_t low = rgr::merged(sums, rgr::kSecret + 11, digest->total * rgr::kPrime64[0]);
    const uint64_t high = rgr::merged(sums, last_secret - 11, ~(digest->total * rgr::kPrime64[1]));
    for (int i = 0; i < 8; ++i) {
        out[i] = static_cast<uint8_t>(high >> (56 - 8 * i));
        out[8 + i] = static_cast<uint8_t>(low >> (56 - 8 * i));
    }
    return nullptr;
}

// Moves bytes [first, first + count) of the run and digests them. A store checks each block's
// generation before it writes there. Returns how many were moved: fewer when a block has
// changed hands. What was moved is visible to other processes when this returns.
RGR_EXPORT uint64_t rgr_transfer(rgr::Digest* digest, const RgrTransfer* run, uint64_t first, uint64_t count,
                                 int level) {
    rgr::TakeStripes* const take = rgr::loop_of(level);
    uint64_t page = 0, in_page = first, done = 0;
    while (page < run->page_count && in_page >= run->page_bytes[page]) in_page -= run->page_bytes[page++];
    while (done < count && page < run->page_count) {
        const uint64_t block = run->blocks[(first + done) / run->block_bytes];
        const uint64_t in_block = (first + done) % run->block_bytes;
        if (run->is_store && __atomic_load_n(run->generations + block, __ATOMIC_ACQUIRE) != run->generation) break;
        uint64_t bytes = run->page_bytes[page] - in_page;
        if (bytes > run->block_bytes - in_block) bytes = run->block_bytes - in_block;
        if (bytes > count - done) bytes = count - done;
        uint8_t* const ours = run->pages[page] + in_page;
        uint8_t* const theirs = run->data + block * run->block_bytes + in_block;
        rgr::update(digest, run->is_store ? theirs : ours, run->is_store ? ours : theirs, bytes, take);
        done += bytes;
        in_page += bytes;
        while (page < run->page_count && in_page == run->page_bytes[page]) in_page = 0, ++page;
    }
    _mm_sfence();  // the stores past the caches, before anybody is told that they are done
    return done;
}
