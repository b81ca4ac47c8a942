// Products in AMX tiles: 32 rows x 32 outputs in four accumulators, 32 steps of k at a time.
//
// Included twice: with the instructions, and with RGR_AMX_EMULATED, where each is done in plain code
// on an array; so the schedule can be held to the reference on any AVX-512 processor.
#pragma once
#include <type_traits>

#include "simd_avx512.h"
//
#include "kernel.h"

namespace {

#ifdef RGR_AMX_EMULATED
thread_local float emulated_tiles[8][16][16];

inline void emulated_load(int tile, const void* at, int64_t stride) {
    for (int row = 0; row < 16; ++row)
        std::memcpy(emulated_tiles[tile][row], static_cast<const uint8_t*>(at) + row * stride, 64);
}
inline void emulated_store(int tile, void* at, int64_t stride) {
    for (int row = 0; row < 16; ++row)
        std::memcpy(static_cast<uint8_t*>(at) + row * stride, emulated_tiles[tile][row], 64);
}
inline float emulated_wide(uint32_t half) {
    const uint32_t raw = half << 16;
    float value;
    std::memcpy(&value, &raw, 4);
    return value;
}
inline void emulated_product(int c, int a, int b) {
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 16; ++k) {
            uint32_t left;
            std::memcpy(&left, &emulated_tiles[a][m][k], 4);
            for (int n = 0; n < 16; ++n) {
                uint32_t right;
                std::memcpy(&right, &emulated_tiles[b][k][n], 4);
                emulated_tiles[c][m][n] += emulated_wide(left & 0xffff) * emulated_wide(right & 0xffff);
                emulated_tiles[c][m][n] += emulated_wide(left >> 16) * emulated_wide(right >> 16);
            }
        }
}
#define RGR_TILE_LOAD(tile, at, stride) emulated_load(tile, at, stride)
#define RGR_TILE_STORE(tile, at, stride) emulated_store(tile, at, stride)
#define RGR_TILE_ZERO(tile) std::memset(emulated_tiles[tile], 0, sizeof(emulated_tiles[tile]))
#define RGR_TILE_PRODUCT(c, a, b) emulated_product(c, a, b)
inline void enter_tiles() {}
inline void leave_tiles() {}
#else
#define RGR_TILE_LOAD(tile, at, stride) _tile_loadd(tile, at, stride)
#define RGR_TILE_STORE(tile, at, stride) _tile_stored(tile, at, stride)
#define RGR_TILE_ZERO(tile) _tile_zero(tile)
#define RGR_TILE_PRODUCT(c, a, b) _tile_dpbf16ps(c, a, b)
inline void enter_tiles() {
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    _tile_loadconfig(&config);
}
inline void leave_tiles() { _tile_release(); }
#endif

struct Tiles : Engine<bf16, Tiles> {
    using Base = Engine<bf16, Tiles>;
    using F = Simd::F;
    static constexpr int kTile = 32;  // rows, and outputs, of one product

    // Tiles 0-3 (two by two) += rows a times panel blocks b, over `steps` times 32 of k.
    static void multiply(const bf16* a, int64_t a_stride, const bf16* b, int64_t block_stride, int steps) {
        for (int t = 0; t < steps; ++t) {
            RGR_TILE_LOAD(4, a + t * 32, a_stride * 2);
            RGR_TILE_LOAD(5, a + 16 * a_stride + t * 32, a_stride * 2);
            RGR_TILE_LOAD(6, b + t * 32 * kLanes, 64);
            RGR_TILE_LOAD(7, b + block_stride + t * 32 * kLanes, 64);
            RGR_TILE_PRODUCT(0, 4, 6);
            RGR_TILE_PRODUCT(1, 4, 7);
            RGR_TILE_PRODUCT(2, 5, 6);
            RGR_TILE_PRODUCT(3, 5, 7);
        }
    }

    static void clear() {
        RGR_TILE_ZERO(0);
        RGR_TILE_ZERO(1);
        RGR_TILE_ZERO(2);
        RGR_TILE_ZERO(3);
    }

    static void put(float* at, int64_t stride) {
        RGR_TILE_STORE(0, at, stride * 4);
        RGR_TILE_STORE(1, at + 16, stride * 4);
        RGR_TILE_STORE(2, at + 16 * stride, stride * 4);
        RGR_TILE_STORE(3, at + 16 * stride + 16, stride * 4);
    }

    static void get(const float* at, int64_t stride) {
        RGR_TILE_LOAD(0, at, stride * 4);
        RGR_TILE_LOAD(1, at + 16, stride * 4);
        RGR_TILE_LOAD(2, at + 16 * stride, stride * 4);
        RGR_TILE_LOAD(3, at + 16 * stride + 16, stride * 4);
    }

    // Rows behind the last one are computed and left: every operand has kRowsPad rows more.
    template <class Begin, class Done>
    static void product(Scratch& scratch, const bf16* a, int64_t a_stride, int rows, const bf16* panel, int k,
                        int first_block, int end_block, Begin begin, Done done) {
        const int64_t block_stride = int64_t(k) * kLanes;
        for (int block = first_block; block < end_block; block += 2) {
            for (int row = 0; row < rows; row += kTile) {
                clear();
                multiply(a + row * a_stride, a_stride, panel + block * block_stride, block_stride, k / 32);
                put(scratch.s, kTile);
                for (int i = 0; i < kTile && row + i < rows; ++i) {
                    F acc[1][2] = {{Simd::add(Simd::load(scratch.s + i * kTile), begin(row + i, block)),
                                    Simd::add(Simd::load(scratch.s + i * kTile + kLanes), begin(row + i, block + 1))}};
                    done(row + i, block, acc);
                }
            }
        }
    }

    static void scores(const RgrModel& model, const Pass& pass, const bf16* q, int64_t q_stride, int rows, int seen,
                       int step, Scratch& scratch) {
        bf16* const p = static_cast<bf16*>(scratch.p);
        const F scale = Simd::set(model.scale);
        const int64_t block_stride = int64_t(model.qk) * kLanes;
        for (int row = 0; row < rows; row += kTile) {
            const int keys = tile_keys(pass, seen, step, row + kTile - 1 < rows ? row + kTile - 1 : rows - 1);
            for (int key = 0; key < keys; key += kTile) {
                const int block = key / kLanes;
                clear();
                multiply(q + row * q_stride, q_stride, pass.keys + block * block_stride, block_stride, model.qk / 32);
                put(scratch.s, kTile);
                const bool is_whole = seen + step * row >= key + kTile;
                for (int i = 0; i < kTile && row + i < rows; ++i) {
                    F acc[2] = {Simd::load(scratch.s + i * kTile), Simd::load(scratch.s + i * kTile + kLanes)};
                    Base::template weigh<2>(pass, acc, block, seen + step * (row + i), is_whole, scale,
                                            p + (row + i) * kKeys);
                }
            }
        }
    }

    static void values(const RgrModel& model, const Pass& pass, int rows, int seen, int step, float* av,
                       int64_t av_stride, Scratch& scratch) {
        const bf16* const p = static_cast<const bf16*>(scratch.p);
        for (int row = 0; row < rows; row += kTile) {
            const int count = rows - row < kTile ? rows - row : kTile;
            const int keys = tile_keys(pass, seen, step, row + count - 1);
            if (keys <= 0) continue;
            for (int column = 0; column < model.v; column += kTile) {
                const bf16* from = pass.values + column / kLanes * pass.values_stride;
                float* at = av + row * av_stride + column;
                if (count == kTile)
                    get(at, av_stride);
                else
                    get_rows(at, av_stride, count, scratch.s);
                multiply(p + row * kKeys, kKeys, from, pass.values_stride, (keys + 31) / 32);
                if (count == kTile)
                    put(at, av_stride);
                else
                    put_rows(at, av_stride, count, scratch.s);
            }
        }
    }

    // By way of a full tile in scratch: the rows behind belong to others.
    static void get_rows(const float* at, int64_t stride, int count, float* tile) {
        for (int i = 0; i < count; ++i) std::memcpy(tile + i * kTile, at + i * stride, kTile * sizeof(float));
        get(tile, kTile);
    }
    static void put_rows(float* at, int64_t stride, int count, float* tile) {
        put(tile, kTile);
        for (int i = 0; i < count; ++i) std::memcpy(at + i * stride, tile + i * kTile, kTile * sizeof(float));
    }
};

}  // namespace
