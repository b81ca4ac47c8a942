// AVX-512 without bfloat16 instructions: bfloat16 is widened in registers. float32 for all of AVX-512.
#include <type_traits>

#include "simd_avx512.h"
//
#include "kernel.h"

namespace {
const Kernels kOfFloat32{
    "avx512", 48, Registers<float>::project, Registers<float>::attend, Registers<float>::combine, nullptr, nullptr};
const Kernels kOfBfloat16{"avx512", 48,     Registers<bf16>::project, Registers<bf16>::attend, Registers<bf16>::combine,
                          nullptr,  nullptr};
}  // namespace

extern "C" const rgr::Kernels* rgr_choose_avx512(const rgr::RgrModel& model) {
    if (!rgr::fits_lanes(model)) return nullptr;
    return model.dtype == rgr::kFloat32 ? &kOfFloat32 : &kOfBfloat16;
}
