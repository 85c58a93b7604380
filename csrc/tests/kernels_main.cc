// Every kernel of csrc/ops against plain double loops, without Paddle: kernels_main [NAME...] runs all cases
// or those of the named suites, prints a line a case and ends with 1 where one fails.
//
// Built from this file, kernel_*.cc, plain_gemm.cc and the files of ops that are not bindings; see
// tests/integration/test_kernels_alone.py for the builds it is run in.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>

#include "tests/kernel_case.h"

extern "C" int mix_instruction_set();

namespace mix {
namespace test {
namespace {

int ran = 0, failed = 0;

std::map<std::string, void (*)()>& suites() {
  static std::map<std::string, void (*)()> all;
  return all;
}

}  // namespace

bool add_cases(const char* name, void (*run)()) { return suites().emplace(name, run).second; }

Case::~Case() {
  std::printf("%s %s:%s\n", failed_ ? "FAILED" : "ok", name_.c_str(), said_.c_str());
  ++ran;
  failed += failed_;
}

void Case::within(double limit, const std::string& what, const Array& found, const Exact& exact) {
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < std::min(found.size(), exact.size()); ++i) {
    difference += (found[i] - exact[i]) * (found[i] - exact[i]);
    norm += exact[i] * exact[i];
  }
  const double error = std::sqrt(difference / std::max(norm, 0.01 * static_cast<double>(exact.size())));
  const bool holds = found.size() == exact.size() && (exact.empty() || error <= limit);
  char text[64];
  std::snprintf(text, sizeof(text), " %.1e", exact.empty() ? 0.0 : error);
  said_ += " " + what + text + (holds ? "" : "!");
  failed_ |= !holds;
}

void Case::same(const std::string& what, const Array& first, const Array& second) {
  const bool equal =
      first.size() == second.size() &&
      (first.empty() || std::memcmp(first.data(), second.data(), first.size() * sizeof(float)) == 0);
  that(equal, what + " is not the same in a second call");
}

void Case::that(bool holds, const std::string& what) {
  if (holds) return;
  said_ += " " + what + "!";
  failed_ = true;
}

}  // namespace test
}  // namespace mix

int main(int count, char** names) {
  constexpr const char* kSets[] = {"portable", "avx2", "avx512", "amx"};
  std::printf("instruction set: %s\n", kSets[mix_instruction_set()]);
  for (int i = 1; i < count; ++i)
    if (mix::test::suites().count(names[i]) == 0) {
      std::fprintf(stderr, "no cases for %s\n", names[i]);
      return 2;
    }
  for (const auto& suite : mix::test::suites())
    if (count == 1 || std::any_of(names + 1, names + count, [&](char* name) { return suite.first == name; }))
      suite.second();
  std::printf("%d cases, %d failed\n", mix::test::ran, mix::test::failed);
  return mix::test::ran == 0 || mix::test::failed != 0;
}
