// AVX-512 with bfloat16 dot products.
#include <type_traits>

#include "simd_avx512.h"
//
#include "kernel.h"

namespace {
const Kernels kOfBfloat16{
    "avx512-bf16", 48, Registers<bf16>::project, Registers<bf16>::attend, Registers<bf16>::combine, nullptr, nullptr};
}  // namespace

extern "C" const rgr::Kernels* rgr_choose_bf16(const rgr::RgrModel& model) {
    return rgr::fits_lanes(model) && model.dtype == rgr::kBfloat16 ? &kOfBfloat16 : nullptr;
}
