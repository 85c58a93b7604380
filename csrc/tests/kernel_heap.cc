// The heap of tensors: blocks that never overlap, joined again when they are free.
#include "ops/heap.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "tests/kernel_case.h"

using namespace mix::test;
using mix::Heap;

namespace {

constexpr size_t kMiB = size_t{1} << 20;

struct Taken {
  unsigned char* at;
  size_t bytes;
  unsigned char mark;
};

// Takes and gives back at random for a while, each block full of a mark of its own; whether all marks stayed.
bool marks_stay(Heap& heap, unsigned seed, size_t largest) {
  std::mt19937 bits(seed);
  std::vector<Taken> blocks;
  bool whole = true;
  const auto drop = [&](size_t i) {
    const Taken& one = blocks[i];
    whole = whole && std::all_of(one.at, one.at + one.bytes, [&](unsigned char byte) { return byte == one.mark; });
    heap.give_back(one.at, one.bytes);
    blocks[i] = blocks.back();
    blocks.pop_back();
  };
  for (int step = 0; step < 400; ++step) {
    if (blocks.size() > 20 || (!blocks.empty() && bits() % 3 == 0)) drop(bits() % blocks.size());
    const size_t bytes = bits() % largest;
    auto* at = static_cast<unsigned char*>(heap.take(bytes));
    whole = whole && at != nullptr && reinterpret_cast<uintptr_t>(at) % Heap::kGranule == 0;
    if (at == nullptr) continue;
    const auto mark = static_cast<unsigned char>(bits());
    std::memset(at, mark, bytes);
    blocks.push_back({at, bytes, mark});
  }
  while (!blocks.empty()) drop(0);
  return whole;
}

void at_random() {
  Case one("heap at random");
  for (unsigned seed = 0; seed < 5; ++seed) {
    Heap heap(64 * kMiB);
    one.that(marks_stay(heap, seed, seed % 2 == 0 ? 5000 : 300000), "a block was written by another, or not aligned");
    one.that(heap.taken() == 0, "nothing is taken when all was given back");
    void* whole = heap.take(heap.extent());
    one.that(whole != nullptr, "what was given back is one block again");
  }
}

void by_threads() {
  Case one("heap by threads");
  Heap heap(256 * kMiB);
  bool whole[3];
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t)
    threads.emplace_back([&heap, &whole, t] { whole[t] = marks_stay(heap, 10 + t, 50000); });
  for (auto& thread : threads) thread.join();
  one.that(whole[0] && whole[1] && whole[2], "a block was written by another thread");
  one.that(heap.taken() == 0, "nothing is taken when all was given back");
}

void smallest_that_holds() {
  Case one("heap smallest block");
  Heap heap(64 * kMiB);
  const size_t sizes[] = {4 * kMiB, kMiB, 2 * kMiB};
  void *holes[3], *walls[3];
  for (int i = 0; i < 3; ++i) holes[i] = heap.take(sizes[i]), walls[i] = heap.take(1);
  for (int i = 0; i < 3; ++i) heap.give_back(holes[i], sizes[i]);
  one.that(heap.take(2 * kMiB) == holes[2], "2 MiB go where 2 MiB were free");
  one.that(heap.take(2 * kMiB) == holes[0], "then where 4 MiB were");
  one.that(heap.take(kMiB) == holes[1], "1 MiB goes where 1 MiB was, not into the rest of 4");
  one.that(walls[0] != walls[1] && walls[1] != walls[2], "blocks of a byte have addresses of their own");
}

void edges() {
  Case one("heap edges");
  Heap heap(64 * kMiB);
  void *first = heap.take(0), *second = heap.take(0);
  one.that(first != nullptr && first != second, "blocks of nothing have addresses of their own");
  heap.give_back(first, 0);
  heap.give_back(second, 0);
  one.that(heap.take(65 * kMiB) == nullptr && heap.taken() == 0, "what is larger than the heap is not to be had");
  one.that(heap.take(SIZE_MAX) == nullptr && heap.take(SIZE_MAX - 100) == nullptr, "nor the largest numbers");
  void* most = heap.take(64 * kMiB);
  one.that(most != nullptr && heap.take(1) == nullptr, "a full heap has no room");
  std::memset(most, 1, 64 * kMiB);
  heap.give_back(most, 64 * kMiB);
  one.that(heap.release() == 64 * kMiB, "free pages go back to the system");
  const auto* again = static_cast<unsigned char*>(heap.take(kMiB));
  one.that(again == most && std::count(again, again + kMiB, 0) == static_cast<std::ptrdiff_t>(kMiB), "and come back as zeros");
  Heap large(2 * Heap::kHuge);
  auto* huge = static_cast<unsigned char*>(large.take(Heap::kHuge));
  std::fill_n(huge, kMiB, static_cast<unsigned char>(7));
  large.give_back(huge, Heap::kHuge);
  one.that(large.take(kMiB) == huge && huge[0] == 0, "pages of a huge block went back with it");
  Heap none(0);
  one.that(none.take(1) == nullptr && none.release() == 0, "a heap of nothing has no room");
}

}  // namespace

MIX_CASES(heap) {
  at_random();
  by_threads();
  smallest_that_holds();
  edges();
}
