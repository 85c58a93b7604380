// Work sharing over OpenMP's parallel region alone.
//
// Paddle's wheel carries libiomp5 of 2019. The loop entry points that newer compilers emit for
// `schedule(dynamic)` (GOMP_loop_nonmonotonic_*) are missing there and bind to a second runtime, libgomp, when
// one is in the process: every thread then runs every iteration and sums double in silence. So a loop here is a
// parallel region with a shared counter, or `schedule(static)`, which needs no entry point.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace mix {

// Waking threads for fewer numbers than this costs more than one thread's work on them.
constexpr int64_t kWorthThreads = 1 << 14;

// Calls body(index, state) for each index in [0, count), indices taken in order by whichever thread is free;
// `make_state()` gives each thread its own state.
template <typename MakeState, typename Body>
void parallel_tasks(int64_t count, MakeState make_state, Body body) {
  std::atomic<int64_t> next{0};
#pragma omp parallel
  {
    auto state = make_state();
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i, state);
  }
}

// total[j] = the sum over r of what add(r, sum) adds to sum[j]: one partial sum a thread, added in thread order,
// so the result is the same for the same number of threads.
template <typename Add>
void sum_rows(int64_t rows, int64_t width, float* total, Add add) {
  const int threads = rows * width < kWorthThreads ? 1 : omp_get_max_threads();
  std::vector<float> partial(static_cast<size_t>(threads) * width, 0.0f);
#pragma omp parallel num_threads(threads)
  {
    float* own = partial.data() + static_cast<size_t>(omp_get_thread_num()) * width;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) add(r, own);
  }
  std::fill_n(total, width, 0.0f);
  for (int t = 0; t < threads; ++t)
    for (int64_t j = 0; j < width; ++j) total[j] += partial[static_cast<size_t>(t) * width + j];
}

}  // namespace mix
