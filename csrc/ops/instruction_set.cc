// Which instruction set the kernels use, for those who load this library: portable, avx2, avx512, amx from 0 on.
#include "mix/vector.h"
#include "ops/gemm_tiles.h"

extern "C" __attribute__((visibility("default"))) int mix_instruction_set() {
  return mix::tile_unit() == mix::TileUnit::kAmx ? 3 : static_cast<int>(mix::active_isa());
}
