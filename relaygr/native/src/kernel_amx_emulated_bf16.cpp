// The schedule of AMX with its instructions done in plain code: for tests on processors without AMX.
#define RGR_AMX_EMULATED
#include "kernel_amx.h"

namespace {
const Kernels kTiles{"amx-emulated", 128, Tiles::project, Tiles::attend, Tiles::combine, enter_tiles, leave_tiles};
}  // namespace

extern "C" const rgr::Kernels* rgr_choose_amx_emulated(const rgr::RgrModel& model) {
    return rgr::fits_tiles(model) ? &kTiles : nullptr;
}
