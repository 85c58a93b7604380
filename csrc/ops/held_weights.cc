#include "ops/held_weights.h"

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "mix/aligned.h"
#include "ops/gemm_tiles.h"

namespace mix {
namespace {

constexpr int kParts = 3;
constexpr int64_t kSamples = 64;

using Samples = std::array<float, kSamples>;

// Numbers spread over the matrix. An optimizer or a checkpoint changes all of a matrix, so that these tell.
Samples sampled(const float* weight, int64_t count) {
  Samples some{};
  for (int64_t i = 0; i < kSamples; ++i) some[i] = weight[(count - 1) * i / (kSamples - 1)];
  return some;
}

struct Held {
  int64_t inputs, outputs;
  Samples samples;
  Aligned<uint16_t> packed;

  Held(const float* weight, int64_t inputs_, int64_t outputs_)
      : inputs(inputs_),
        outputs(outputs_),
        samples(sampled(weight, inputs_ * outputs_)),
        packed(packed_numbers(kParts, outputs_, inputs_)) {
    pack_right(kParts, {weight, outputs, false}, outputs, inputs, packed.data());
  }
};

struct AllHeld {
  std::shared_mutex mutex;
  std::unordered_map<const float*, std::unique_ptr<Held>> by_weight;
  std::atomic<int64_t> count{0};  // where it is 0, as in training, nothing is looked up
};

AllHeld& all_held() {
  static AllHeld all;
  return all;
}

}  // namespace

const uint16_t* held_weight(const float* weight, int64_t inputs, int64_t outputs) {
  AllHeld& all = all_held();
  if (all.count.load(std::memory_order_relaxed) == 0) return nullptr;
  const std::shared_lock<std::shared_mutex> lock(all.mutex);
  const auto found = all.by_weight.find(weight);
  if (found == all.by_weight.end()) return nullptr;
  const Held& held = *found->second;
  const bool same = held.inputs == inputs && held.outputs == outputs && held.samples == sampled(weight, inputs * outputs);
  return same ? held.packed.data() : nullptr;
}

}  // namespace mix

#define MIX_EXPORT extern "C" __attribute__((visibility("default")))

MIX_EXPORT int64_t mix_held_bytes(int64_t inputs, int64_t outputs) {
  if (mix::tile_unit() != mix::TileUnit::kAmx || inputs * outputs == 0) return 0;
  return mix::packed_numbers(mix::kParts, outputs, inputs) * static_cast<int64_t>(sizeof(uint16_t));
}

MIX_EXPORT void mix_hold_weight(const float* weight, int64_t inputs, int64_t outputs) {
  if (mix_held_bytes(inputs, outputs) == 0) return;
  auto held = std::make_unique<mix::Held>(weight, inputs, outputs);
  mix::AllHeld& all = mix::all_held();
  const std::unique_lock<std::shared_mutex> lock(all.mutex);
  all.by_weight[weight] = std::move(held);
  all.count = static_cast<int64_t>(all.by_weight.size());
}

MIX_EXPORT void mix_release_weight(const float* weight) {
  mix::AllHeld& all = mix::all_held();
  const std::unique_lock<std::shared_mutex> lock(all.mutex);
  all.by_weight.erase(weight);
  all.count = static_cast<int64_t>(all.by_weight.size());
}
