// AMX, with AVX-512 bfloat16 around it.
#include "kernel_amx.h"

namespace {
const Kernels kTiles{"amx", 128, Tiles::project, Tiles::attend, Tiles::combine, enter_tiles, leave_tiles};
}  // namespace

extern "C" const rgr::Kernels* rgr_choose_amx(const rgr::RgrModel& model) {
    return rgr::fits_tiles(model) ? &kTiles : nullptr;
}
