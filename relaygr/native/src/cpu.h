// What every kernel file shares: how it exports, and the levels that dispatch goes by.
#pragma once

#define RGR_EXPORT extern "C" __attribute__((visibility("default")))

namespace rgr {

// The places of LEVELS in relaygr/native/library.py. Each level includes those below it.
// The build defines RGR_HAVE_AVX2, RGR_HAVE_AVX512, RGR_HAVE_BF16 and RGR_HAVE_AMX for the
// levels whose files it compiles; name a kernel of a level only under its macro.
enum Level : int { kNone = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3, kAmx = 4 };

// The highest level that the processor, the operating system and this build have.
int cpu_level();

}  // namespace rgr
