// AVX2 with FMA: the floor of the native engine.
#include <type_traits>

#include "simd_avx2.h"
//
#include "kernel.h"

namespace {
template <class T>
constexpr Kernels kKernels{"avx2",  48,     Registers<T>::project, Registers<T>::attend, Registers<T>::combine,
                           nullptr, nullptr};
}  // namespace

extern "C" const rgr::Kernels* rgr_choose_avx2(const rgr::RgrModel& model) {
    if (!rgr::fits_lanes(model)) return nullptr;
    return model.dtype == rgr::kFloat32 ? &kKernels<float> : &kKernels<bf16>;
}
