// How bindings are given the adapters of maps: `scales` has a number for each map, 0 where it has none, and behind an
// operator's other parameters stand the matrices A and B of one map that has one after the other.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/binding.h"
#include "ops/low_rank.h"

namespace mix {

inline size_t adapters_among(const std::vector<float>& scales) {
  size_t count = 0;
  for (const float scale : scales) count += scale != 0.0f;
  return count;
}

class AdapterPlaces {
 public:
  // `first`: the parameter that is the first adapter's A.
  AdapterPlaces(size_t first, std::vector<float> scales) : first_(first), scales_(std::move(scales)) {}

  // Of one map.
  LowRank of(const std::vector<paddle::Tensor>& parameters, size_t map, int64_t inputs, int64_t outputs) const {
    if (!has(map)) return {};
    const auto &down = parameters[place(map)], &up = parameters[place(map) + 1];
    PD_CHECK(down.shape().size() == 2 && up.shape().size() == 2 && down.shape()[0] == inputs &&
                 up.shape()[1] == outputs && up.shape()[0] == down.shape()[1],
             "the adapter of a map from ", inputs, " to ", outputs, " takes matrices of these sizes and one rank");
    return {down.shape()[1], scales_[map], data<float>(down), data<float>(up)};
  }

  // `before`: gradients that stand before those of the parameters.
  LowRankGradient gradient(Gradients& gradients, size_t before, size_t map) const {
    if (!has(map)) return {};
    return {gradients.at(before + place(map)), gradients.at(before + place(map) + 1)};
  }

 private:
  bool has(size_t map) const { return map < scales_.size() && scales_[map] != 0.0f; }
  size_t place(size_t map) const {
    size_t place = first_;
    for (size_t before = 0; before < map; ++before) place += has(before) ? 2 : 0;
    return place;
  }

  size_t first_;
  std::vector<float> scales_;
};

}  // namespace mix
