// Runs an extend: all layers over the new rows of one or more users, in slices of bounded time.
//
// A layer is three stages with a barrier after each: project (rows to u, q and the pages' K/V),
// attend (a block of rows and a head against all pages), combine (gate, and add to the rows).
// A stage is a list of units that any thread takes in turn; a slice ends between units, so that a
// caller gets the processor back within one unit of asking. Where it stands is kept in the plan.
//
// Nothing is allocated while units run; a plan keeps its memory from one extend to the next.
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <atomic>
#include <new>

#include "cpu.h"
#include "engine.h"

namespace rgr {
namespace {

constexpr int kEmulatedLevel = 9;  // the schedule of AMX without AMX
constexpr int kThreadsMax = 64;
constexpr int kSegmentsMax = 256;
constexpr int64_t kAlign = 64;

int64_t now_ns() {
    timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

// Memory that only grows.
struct Memory {
    uint8_t* base = nullptr;
    int64_t size = 0;

    bool reserve(int64_t wanted) {
        if (wanted <= size) return true;
        free(base);
        base = nullptr;
        // Some room to grow, so that slightly longer histories do not allocate again.
        size = wanted + wanted / 4;
        if (posix_memalign(reinterpret_cast<void**>(&base), 4096, size) != 0) size = 0;
        return base != nullptr;
    }
};

// Hands out aligned parts of a memory; with a null base it only counts.
struct Carver {
    uint8_t* base;
    int64_t used = 0;

    template <class T>
    T* take(int64_t count) {
        T* at = reinterpret_cast<T*>(base ? base + used : nullptr);
        used += (count * int64_t(sizeof(T)) + kAlign - 1) / kAlign * kAlign;
        return at;
    }
};

enum Stage { kProject, kAttend, kCombine, kStageCount };

struct Plan {
    Memory memory;
    const RgrModel* model = nullptr;
    const Kernels* kernels = nullptr;
    RgrSegment segments[kSegmentsMax];
    int segment_count = 0;
    int rows = 0, self_rows = 0, threads = 1;
    Block* blocks = nullptr;
    int causal_blocks = 0, block_count = 0;
    uint8_t*** pages = nullptr;   // per segment: the present layer's part of each page
    uint8_t** scratch = nullptr;  // per segment: its scratch pages of one layer, or null
    Work work{};
    // Where it stands.
    int layer = 0, stage = kProject;
    std::atomic<bool> is_done{true};
    // Units are drawn from `next`. Both words carry the turn, the number of the present stage, in their
    // upper half: what was drawn for a stage that has ended meanwhile is told from what is still to do.
    std::atomic<int64_t> next{0}, total{0};
    std::atomic<int> finished{0};
    int64_t clock[kStages] = {};
};

int first_scratch_page(const RgrModel& model, const RgrSegment& s) {
    const int whole = s.first / model.page_tokens;
    const int all = (s.first + s.causal + model.page_tokens - 1) / model.page_tokens;
    return s.is_write || s.causal == 0 ? all : whole;
}

int pages_of(const RgrModel& model, const RgrSegment& s) {
    return (s.first + s.causal + model.page_tokens - 1) / model.page_tokens;
}

int64_t element_bytes(const RgrModel& model) { return model.dtype == kBfloat16 ? 2 : 4; }

int block_rows_of(const Plan& plan) {
    // With several threads, smaller blocks share out more evenly; a row's result is the same in any block.
    int rows = plan.kernels->block_rows;
    const int step = rows / 4;
    while (plan.threads > 1 && rows > step && plan.rows < rows * plan.threads * 3) rows -= step;
    return rows;
}

int count_blocks(int rows, int block_rows) { return (rows + block_rows - 1) / block_rows; }

// Lays the plan's memory out; called once to count and once to take.
int64_t lay_out(Plan& plan, uint8_t* base) {
    const RgrModel& m = *plan.model;
    const int64_t wide_v = int64_t(m.heads) * m.v, wide_k = int64_t(m.heads) * m.qk, e = element_bytes(m);
    const int64_t layer_bytes = head_layout(m).head_bytes() * m.heads;
    const int block_rows = block_rows_of(plan);
    const int64_t padded = plan.rows + kRowsPad;
    Carver carver{base};
    int64_t blocks = 0;
    for (int s = 0; s < plan.segment_count; ++s)
        blocks +=
            count_blocks(plan.segments[s].causal, block_rows) + count_blocks(plan.segments[s].self_only, block_rows);
    plan.blocks = carver.take<Block>(blocks);
    plan.pages = carver.take<uint8_t**>(plan.segment_count);
    plan.scratch = carver.take<uint8_t*>(plan.segment_count);
    plan.work.x = carver.take<float>(padded * m.width);
    plan.work.u = carver.take<uint8_t>(padded * wide_v * e);
    plan.work.q = carver.take<uint8_t>(padded * wide_k * e);
    // Indexed by row like the others, but only candidates' rows are ever touched.
    plan.work.k_self = carver.take<uint8_t>(plan.self_rows ? padded * wide_k * e : 0);
    plan.work.v_self = carver.take<uint8_t>(plan.self_rows ? padded * wide_v * e : 0);
    plan.work.av = carver.take<float>(padded * wide_v);
    for (int s = 0; s < plan.segment_count; ++s) {
        const RgrSegment& segment = plan.segments[s];
        const int count = pages_of(m, segment);
        uint8_t** pages = carver.take<uint8_t*>(count);
        uint8_t* scratch = carver.take<uint8_t>((count - first_scratch_page(m, segment)) * layer_bytes);
        if (!base) continue;
        plan.pages[s] = pages;
        plan.scratch[s] = scratch;
    }
    return carver.used;
}

void add_blocks(Plan& plan, int segment, int row, int rows, int is_self, int block_rows) {
    for (int done = 0; done < rows; done += block_rows)
        plan.blocks[plan.block_count++] = {segment, row + done, rows - done < block_rows ? rows - done : block_rows,
                                           is_self};
}

void list_blocks(Plan& plan) {
    const int block_rows = block_rows_of(plan);
    plan.block_count = 0;
    for (int s = 0; s < plan.segment_count; ++s)
        add_blocks(plan, s, plan.segments[s].row, plan.segments[s].causal, 0, block_rows);
    plan.causal_blocks = plan.block_count;
    for (int s = 0; s < plan.segment_count; ++s)
        add_blocks(plan, s, plan.segments[s].row + plan.segments[s].causal, plan.segments[s].self_only, 1, block_rows);
}

// Points at the present layer's part of every page; a context's last, partly filled page is copied
// where new rows may not be written to it.
void enter_layer(Plan& plan) {
    const RgrModel& m = *plan.model;
    const int64_t layer_bytes = head_layout(m).head_bytes() * m.heads;
    plan.work.layer = plan.layer;
    plan.work.is_last = plan.layer + 1 == m.layers;
    for (int s = 0; s < plan.segment_count; ++s) {
        const RgrSegment& segment = plan.segments[s];
        const int from = first_scratch_page(m, segment), count = pages_of(m, segment);
        for (int i = 0; i < from; ++i) plan.pages[s][i] = segment.pages[i] + plan.layer * layer_bytes;
        for (int i = from; i < count; ++i) plan.pages[s][i] = plan.scratch[s] + (i - from) * layer_bytes;
        if (from < count && segment.first % m.page_tokens)
            memcpy(plan.pages[s][from], segment.pages[from] + plan.layer * layer_bytes, layer_bytes);
    }
}

// Units of the present stage. Of the last layer only candidates attend.
int units(const Plan& plan) {
    const int first = plan.work.is_last ? plan.causal_blocks : 0;
    const int blocks = plan.block_count - first;
    if (plan.stage == kProject) return plan.block_count;
    return plan.stage == kAttend ? blocks * plan.model->heads : blocks;
}

void run_unit(Plan& plan, int unit, Scratch& scratch) {
    const int first = plan.work.is_last ? plan.causal_blocks : 0;
    const int blocks = plan.block_count - first;
    switch (plan.stage) {
        case kProject:
            plan.kernels->project(plan.work, plan.blocks[unit], scratch);
            break;
        case kAttend:
            // Head by head, so that its K/V stay near; last rows first, which have the most to do.
            plan.kernels->attend(plan.work, plan.blocks[first + blocks - 1 - unit % blocks], unit / blocks, scratch);
            break;
        default:
            plan.kernels->combine(plan.work, plan.blocks[first + unit], scratch);
    }
}

int64_t turn_of(int64_t word) { return word >> 32; }
int units_of(int64_t word) { return static_cast<int>(word & 0xffffffff); }

void open_stage(Plan& plan, int64_t turn, int count) {
    plan.finished.store(0, std::memory_order_relaxed);
    plan.total.store(turn << 32 | count, std::memory_order_release);
    plan.next.store(turn << 32, std::memory_order_release);
}

// To the next stage that has units, or to the end. Called by whoever finished the last unit.
void advance(Plan& plan) {
    int count = 0;
    do {
        if (++plan.stage == kStageCount) {
            plan.stage = kProject;
            if (++plan.layer == plan.model->layers) {
                plan.is_done = true;
                break;
            }
            enter_layer(plan);
        }
        count = units(plan);
    } while (count == 0);
    open_stage(plan, turn_of(plan.total.load(std::memory_order_relaxed)) + 1, count);
}

// ---- threads ----------------------------------------------------------------------------------

void pause_a_while(int& spins) {
    if (++spins < 4000)
        _mm_pause();
    else
        sched_yield();
}

struct Pool {
    pthread_mutex_t slice = PTHREAD_MUTEX_INITIALIZER;  // one slice at a time
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
    Memory scratch_memory;
    Scratch scratch[kThreadsMax];
    int workers = 0;  // threads beside the caller
    Plan* plan = nullptr;
    // A worker joins a slice by taking a place. One that comes too late finds none and is not waited for.
    std::atomic<int> round{0}, places{0}, left{0};
    std::atomic<bool> must_stop{false};
    int64_t stop_ns = 0;
};

Pool pool;

// Somebody waits for the caller's thread; whoever reads it decides when it is done with, see rgr_ask_to_yield.
std::atomic<int32_t> is_asked{0};

void work_on(Pool& p, Plan& plan, Scratch& scratch) {
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040);  // denormals are zero, in and out
    if (plan.kernels->enter) plan.kernels->enter();
    int spins = 0;
    while (!p.must_stop.load(std::memory_order_relaxed) && !plan.is_done.load(std::memory_order_acquire)) {
        const int64_t drawn = plan.next.fetch_add(1, std::memory_order_acq_rel);
        const int64_t total = plan.total.load(std::memory_order_acquire);
        if (turn_of(drawn) == turn_of(total) && units_of(drawn) < units_of(total)) {
            run_unit(plan, units_of(drawn), scratch);
            if (is_asked.load(std::memory_order_relaxed) || now_ns() >= p.stop_ns)
                p.must_stop.store(true, std::memory_order_relaxed);
            if (plan.finished.fetch_add(1, std::memory_order_acq_rel) + 1 == units_of(total)) advance(plan);
            continue;
        }
        // Others still work on this stage.
        while (turn_of(plan.next.load(std::memory_order_acquire)) == turn_of(drawn) &&
               !p.must_stop.load(std::memory_order_relaxed) && !plan.is_done.load(std::memory_order_acquire))
            pause_a_while(spins);
    }
    if (plan.kernels->leave) plan.kernels->leave();
    _mm_setcsr(saved);
}

// The number of a free place, counted from 1, or 0.
int take_place() {
    int free_places = pool.places.load(std::memory_order_acquire);
    while (free_places > 0 &&
           !pool.places.compare_exchange_weak(free_places, free_places - 1, std::memory_order_acq_rel)) {
    }
    return free_places > 0 ? free_places : 0;
}

void* worker(void*) {
    int seen = 0;
    for (;;) {
        int spins = 0;
        while (pool.round.load(std::memory_order_acquire) == seen && ++spins < 2000) _mm_pause();
        if (pool.round.load(std::memory_order_acquire) == seen) {
            pthread_mutex_lock(&pool.mutex);
            while (pool.round.load(std::memory_order_acquire) == seen) pthread_cond_wait(&pool.wake, &pool.mutex);
            pthread_mutex_unlock(&pool.mutex);
        }
        seen = pool.round.load(std::memory_order_acquire);
        const int place = take_place();
        if (!place) continue;
        work_on(pool, *pool.plan, pool.scratch[place]);
        pool.left.fetch_add(1, std::memory_order_acq_rel);
    }
    return nullptr;
}

int64_t lay_out_scratch(const RgrModel& m, uint8_t* base, int threads, Scratch* into = nullptr) {
    const int64_t e = element_bytes(m), rows = kRowsMax + kRowsPad;
    const int64_t wide_v = int64_t(m.heads) * m.v, wide_k = int64_t(m.heads) * m.qk;
    const int64_t gated = m.gates_all ? wide_v : 3 * wide_v;
    Carver carver{base};
    for (int t = 0; t < threads; ++t) {
        Scratch s{};
        s.a = carver.take<uint8_t>(rows * (gated > m.width ? gated : m.width) * e);
        s.kv = carver.take<uint8_t>(rows * (wide_k + wide_v) * e);
        s.p = carver.take<uint8_t>(rows * kKeys * e);
        s.s = carver.take<float>(rows * kKeys);
        s.o = carver.take<float>(rows * m.v);
        s.keys = carver.take<uint8_t>(int64_t(kKeys) * m.qk * e);
        s.values = carver.take<uint8_t>(int64_t(kKeys) * m.v * e);
        if (into) into[t] = s;
    }
    return carver.used;
}

bool prepare_pool(const Plan& plan) {
    const int64_t wanted = lay_out_scratch(*plan.model, nullptr, plan.threads);
    if (!pool.scratch_memory.reserve(wanted)) return false;
    lay_out_scratch(*plan.model, pool.scratch_memory.base, plan.threads, pool.scratch);
    while (pool.workers + 1 < plan.threads) {
        pthread_t thread;
        if (pthread_create(&thread, nullptr, worker, nullptr) != 0) return false;
        pthread_detach(thread);
        ++pool.workers;
    }
    return true;
}

void run_slice(Plan& plan, int64_t budget_ns) {
    pool.must_stop.store(false, std::memory_order_relaxed);
    pool.stop_ns = now_ns() + budget_ns;
    const int wanted = plan.threads - 1;
    if (wanted > 0) {
        pthread_mutex_lock(&pool.mutex);
        pool.plan = &plan;
        pool.left.store(0, std::memory_order_relaxed);
        pool.places.store(wanted, std::memory_order_release);
        pool.round.fetch_add(1, std::memory_order_release);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.mutex);
    }
    work_on(pool, plan, pool.scratch[0]);
    pool.must_stop.store(true, std::memory_order_relaxed);
    const int joined = wanted - pool.places.exchange(0, std::memory_order_acq_rel);
    int spins = 0;
    while (pool.left.load(std::memory_order_acquire) < joined) pause_a_while(spins);
    // Numbers drawn beyond the end of a stage belong to no unit.
    if (!plan.is_done) plan.next.store((turn_of(plan.total.load()) << 32) | plan.finished.load());
    for (int t = 0; t < plan.threads; ++t)
        for (int i = 0; i < kStages; ++i) {
            plan.clock[i] += pool.scratch[t].clock[i];
            pool.scratch[t].clock[i] = 0;
        }
}

void widen_rows(float* x, const void* rows, int64_t count, int dtype) {
    if (dtype == kFloat32) {
        memcpy(x, rows, count * sizeof(float));
        return;
    }
    const uint16_t* from = static_cast<const uint16_t*>(rows);
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t wide = uint32_t(from[i]) << 16;
        memcpy(x + i, &wide, 4);
    }
}

const Kernels* kernels_of(const RgrModel& model, int level) {
    if (level == kEmulatedLevel) return rgr_choose_amx_emulated ? rgr_choose_amx_emulated(model) : nullptr;
    const Choose best_first[] = {rgr_choose_amx, rgr_choose_bf16, rgr_choose_avx512, rgr_choose_avx2};
    const int levels[] = {kAmx, kAvx512Bf16, kAvx512, kAvx2};
    for (int i = 0; i < 4; ++i) {
        if (level < levels[i] || !best_first[i]) continue;
        if (const Kernels* found = best_first[i](model)) return found;
    }
    return nullptr;
}

}  // namespace
}  // namespace rgr

using namespace rgr;

// The name of the kernels that would serve a model at a level (cpu.h, or kEmulatedLevel), or null.
RGR_EXPORT const char* rgr_kernel_name(const RgrModel* model, int32_t level) {
    const Kernels* kernels = kernels_of(*model, level);
    return kernels ? kernels->name : nullptr;
}

RGR_EXPORT int64_t rgr_head_bytes(const RgrModel* model) { return head_layout(*model).head_bytes(); }

RGR_EXPORT Plan* rgr_plan_new() {
    void* at = nullptr;
    if (posix_memalign(&at, 64, sizeof(Plan)) != 0) return nullptr;
    return new (at) Plan();
}

RGR_EXPORT void rgr_plan_free(Plan* plan) {
    if (!plan) return;
    free(plan->memory.base);
    free(plan);
}

// Takes the rows of an extend, [R, D]. `model` must outlive the plan's use; pages too.
// Returns 0, or 1 no kernel, 2 too many segments, 3 out of memory.
RGR_EXPORT int32_t rgr_extend_begin(Plan* plan, const RgrModel* model, int32_t level, const RgrSegment* segments,
                                    int32_t segment_count, const void* x, int32_t x_dtype, int32_t threads) {
    plan->model = model;
    plan->kernels = kernels_of(*model, level);
    plan->is_done = true;
    if (!plan->kernels) return 1;
    if (segment_count > kSegmentsMax) return 2;
    plan->segment_count = segment_count;
    plan->threads = threads < 1 ? 1 : threads > kThreadsMax ? kThreadsMax : threads;
    plan->rows = plan->self_rows = 0;
    for (int s = 0; s < segment_count; ++s) {
        plan->segments[s] = segments[s];
        plan->rows += segments[s].causal + segments[s].self_only;
        plan->self_rows += segments[s].self_only;
    }
    plan->work = Work{};
    if (!plan->memory.reserve(lay_out(*plan, nullptr))) return 3;
    lay_out(*plan, plan->memory.base);
    plan->work.model = plan->model;
    plan->work.segments = plan->segments;
    plan->work.blocks = plan->blocks;
    plan->work.pages = plan->pages;
    list_blocks(*plan);
    widen_rows(plan->work.x, x, int64_t(plan->rows) * model->width, x_dtype);
    memset(plan->clock, 0, sizeof(plan->clock));
    plan->layer = 0;
    plan->stage = kProject;
    open_stage(*plan, 0, plan->block_count);
    plan->is_done = plan->block_count == 0;
    if (!plan->is_done) enter_layer(*plan);
    return 0;
}

// From any thread: 1 ends the running slice after its unit, and each one that begins after its first unit, until 0.
RGR_EXPORT void rgr_ask_to_yield(int32_t is_asking) { is_asked.store(is_asking, std::memory_order_relaxed); }

// Works for about budget_ns, at least one unit. Returns 1 when the extend is complete, 0 when not yet,
// -1 when threads or memory could not be had.
RGR_EXPORT int32_t rgr_extend_run(Plan* plan, int64_t budget_ns) {
    if (plan->is_done) return 1;
    pthread_mutex_lock(&pool.slice);
    const bool is_ready = prepare_pool(*plan);
    if (is_ready) run_slice(*plan, budget_ns);
    pthread_mutex_unlock(&pool.slice);
    return !is_ready ? -1 : plan->is_done ? 1 : 0;
}

// The candidates' rows in the order of their segments, [self_only of all, D] float32.
RGR_EXPORT void rgr_extend_result(const Plan* plan, float* out) {
    const int64_t width = plan->model->width;
    for (int s = 0; s < plan->segment_count; ++s) {
        const RgrSegment& segment = plan->segments[s];
        memcpy(out, plan->work.x + (segment.row + segment.causal) * width, segment.self_only * width * sizeof(float));
        out += segment.self_only * width;
    }
}

// Processor ticks by part of the work (Clock), summed over threads.
RGR_EXPORT void rgr_extend_clock(const Plan* plan, int64_t* out) { memcpy(out, plan->clock, sizeof(plan->clock)); }

RGR_EXPORT int64_t rgr_plan_bytes(const Plan* plan) { return plan->memory.size; }

// Attention alone, on the calling thread: av[R, E] of one segment's rows, float32. q is [R, HK]; k_self and v_self are
// [R, HK] and [R, E], read for candidates only. Returns 0, 1 no kernel, or 3 out of memory.
RGR_EXPORT int32_t rgr_attend(const RgrModel* model, int32_t level, const RgrSegment* segment, void* q, void* k_self,
                              void* v_self, float* av) {
    const Kernels* kernels = kernels_of(*model, level);
    if (!kernels) return 1;
    Memory memory;
    if (!memory.reserve(lay_out_scratch(*model, nullptr, 1))) return 3;
    Scratch scratch{};
    lay_out_scratch(*model, memory.base, 1, &scratch);
    Work work{};
    uint8_t* const* const pages[1] = {segment->pages};
    work.model = model;
    work.segments = segment;
    work.pages = pages;
    work.q = q;
    work.k_self = k_self;
    work.v_self = v_self;
    work.av = av;
    if (kernels->enter) kernels->enter();
    const int rows = segment->causal + segment->self_only;
    for (int row = 0; row < rows;) {
        const int is_self = row >= segment->causal;
        const int end = is_self ? rows : segment->causal;
        const Block block{0, row, end - row < kernels->block_rows ? end - row : kernels->block_rows, is_self};
        for (int head = 0; head < model->heads; ++head) kernels->attend(work, block, head, scratch);
        row += block.rows;
    }
    if (kernels->leave) kernels->leave();
    const float factor = model->scale * model->inverse_normaliser;
    for (int64_t i = 0; i < int64_t(rows) * model->heads * model->v; ++i) av[i] *= factor;
    free(memory.base);
    return 0;
}

// The processor's time stamp, which the clock of a plan is kept in.
RGR_EXPORT int64_t rgr_ticks() { return static_cast<int64_t>(__rdtsc()); }
