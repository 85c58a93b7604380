// Matrices that many products multiply unchanged, as those of a model that answers: packed once, not at each product.
#pragma once

#include <cstdint>

namespace mix {

// weight [inputs, outputs] in three parts as pack_right makes them, or null: it is not held, or has changed since.
const uint16_t* held_weight(const float* weight, int64_t inputs, int64_t outputs);

}  // namespace mix

extern "C" {

// Bytes that the packed form takes; 0 where this processor's products would not use it.
int64_t mix_held_bytes(int64_t inputs, int64_t outputs);

// Packs and keeps weight, whose memory stays until it is released, where that takes bytes. One that is held already is
// packed anew.
void mix_hold_weight(const float* weight, int64_t inputs, int64_t outputs);
void mix_release_weight(const float* weight);
}
