// Which instruction sets may be used here: asked of the processor (CPUID), of the operating
// system (XCR0: which registers it saves; AMX: by request) and of the build (RGR_HAVE_*).
#include "cpu.h"

#include <cpuid.h>
#include <stdint.h>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

struct Leaf {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(unsigned leaf, unsigned sub) {
    Leaf out;
    if (!__get_cpuid_count(leaf, sub, &out.eax, &out.ebx, &out.ecx, &out.edx)) return Leaf{};
    return out;
}

bool has(unsigned word, unsigned mask) { return (word & mask) == mask; }

constexpr unsigned bit(int n) { return 1u << n; }

uint64_t saved_registers() {
    if (!has(cpuid(1, 0).ecx, bit(27))) return 0;  // OSXSAVE: without it XGETBV is illegal
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t{high} << 32) | low;
}

// Linux grants the tile registers to a process that asks; until then the first use is SIGILL.
bool tiles_granted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int kReqXcompPerm = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kReqXcompPerm, kTileData) == 0;
#else
    return false;
#endif
}

int processor_level() {
    constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
    const uint64_t saved = saved_registers();
    const Leaf one = cpuid(1, 0), seven = cpuid(7, 0), more = cpuid(7, 1);
    const bool avx2 = (saved & kYmm) == kYmm && has(one.ecx, bit(12) | bit(28) | bit(29)) && has(seven.ebx, bit(5));
    if (!avx2) return rgr::kNone;  // FMA, AVX, F16C; AVX2
    // F, DQ, BW, VL
    if ((saved & kZmm) != kZmm || !has(seven.ebx, bit(16) | bit(17) | bit(30) | bit(31))) return rgr::kAvx2;
    if (!has(more.eax, bit(5))) return rgr::kAvx512;
    const bool tiles = (saved & kTiles) == kTiles && has(seven.edx, bit(22) | bit(24));  // AMX-BF16, AMX-TILE
    return tiles && tiles_granted() ? rgr::kAmx : rgr::kAvx512Bf16;
}

int built_level() {
#if defined(RGR_HAVE_AMX)
    return rgr::kAmx;
#elif defined(RGR_HAVE_BF16)
    return rgr::kAvx512Bf16;
#elif defined(RGR_HAVE_AVX512)
    return rgr::kAvx512;
#elif defined(RGR_HAVE_AVX2)
    return rgr::kAvx2;
#else
    return rgr::kNone;
#endif
}

// Read by the loader before it loads: which sources this was built from.
__attribute__((used)) const char kSources[] = "rgr-sources:" RGR_SOURCES;

}  // namespace

namespace rgr {

int cpu_level() {
    const int processor = processor_level(), built = built_level();
    return processor < built ? processor : built;
}

}  // namespace rgr

RGR_EXPORT const char* rgr_cpu_isa(void) {
    static const char* const names[] = {"none", "avx2", "avx512", "avx512-bf16", "amx"};
    return names[rgr::cpu_level()];
}

RGR_EXPORT const char* rgr_sources(void) { return kSources; }
