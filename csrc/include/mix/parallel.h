// Work sharing over OpenMP's parallel region alone.
//
// Paddle's wheel carries libiomp5 of 2019. The loop entry points that newer compilers emit for
// `schedule(dynamic)` (GOMP_loop_nonmonotonic_*) are missing there and bind to a second runtime, libgomp, when
// one is in the process: every thread then runs every iteration and sums double in silence. So a loop here is a
// parallel region with a shared counter, or `schedule(static)`, which needs no entry point.
#pragma once

#include <atomic>
#include <cstdint>

namespace mix {

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

}  // namespace mix
