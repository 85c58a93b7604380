// What the cases of the kernels share. A new kernel gets a file kernel_NAME.cc beside this one with
//
//   MIX_CASES(name) {
//     Case one("name 7x17");
//     ... call the kernel, and plain double loops ...
//     one.forward("out", found, exact);
//   }
//
// and nothing else has to be told of it. Arrays have exactly the size a kernel may touch, so that the address
// sanitizer sees one number too many, and results are NaN until they are written.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace mix {
namespace test {

using Array = std::vector<float>;
using Exact = std::vector<double>;

constexpr double kForwardLimit = 1e-6;
constexpr double kGradientLimit = 1e-5;
constexpr double kNarrowLimit = 5e-3;  // factors rounded to bfloat16

// Numbers of order 1 and none near 0, where a relative error says nothing: 0.25 to 1.75, either sign.
inline Array draw(unsigned seed, int64_t count, float factor = 1.0f) {
  std::mt19937 bits(seed);
  Array values(count);
  for (float& value : values) {
    const uint32_t word = static_cast<uint32_t>(bits());
    const float size = 0.25f + 1.5f * static_cast<float>(word >> 8) * 0x1p-24f;
    value = factor * (word & 1 ? size : -size);
  }
  return values;
}

inline Array unwritten(int64_t count) { return Array(count, std::numeric_limits<float>::quiet_NaN()); }

// One case: it prints its line when it ends, and counts as failed when anything it held did not hold.
class Case {
 public:
  explicit Case(std::string name) : name_(std::move(name)) {}
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;
  ~Case();

  // Errors are norms of the difference over the norm of the exact result, which counts as 0.1 a number at
  // least: some gradients are exactly 0.
  void forward(const std::string& what, const Array& found, const Exact& exact) {
    within(kForwardLimit, what, found, exact);
  }
  void gradient(const std::string& what, const Array& found, const Exact& exact) {
    within(kGradientLimit, what, found, exact);
  }
  void within(double limit, const std::string& what, const Array& found, const Exact& exact);
  // The same call again must give the same bits.
  void same(const std::string& what, const Array& first, const Array& second);
  void that(bool holds, const std::string& what);

 private:
  std::string name_, said_;
  bool failed_ = false;
};

bool add_cases(const char* name, void (*run)());

}  // namespace test
}  // namespace mix

#define MIX_CASES(name)                                                        \
  static void name##_cases();                                                  \
  static const bool name##_added = mix::test::add_cases(#name, name##_cases);  \
  static void name##_cases()
