// Which level serves, and sums for any x86-64.
#include "sums.h"

#include "cpu.h"

namespace rgr {

void sum_rows(const RgrSums& sums, void* out) { sum_by_dtype(sums, out); }

}  // namespace rgr

// Returns -1, or the first token with a row that its table does not have; then nothing was written.
RGR_EXPORT int64_t rgr_sum_rows(const RgrSums* sums, void* out, int32_t level) {
    for (int64_t token = 0; token < sums->tokens; ++token)
        for (int s = 0; s < sums->summands; ++s)
            if (static_cast<uint64_t>(sums->row[s][token]) >= static_cast<uint64_t>(sums->table_rows[s])) return token;
    rgr::SumRows* chosen = rgr::sum_rows;
#ifdef RGR_HAVE_AVX2
    if (level >= rgr::kAvx2) chosen = rgr::sum_rows_avx2;
#endif
#ifdef RGR_HAVE_AVX512
    if (level >= rgr::kAvx512) chosen = rgr::sum_rows_avx512;
#endif
    chosen(*sums, out);
    return -1;
}
