#include "sim/collective_reduce.h"

#include <algorithm>
#include <complex>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <type_traits>

namespace mix::sim {
namespace {

struct Element {
  const char* name;
  size_t bytes;
};

constexpr Element kElements[] = {
    {"undefined", 0}, {"bool", 1},  {"uint8", 1}, {"uint16", 2},  {"uint32", 4},  {"uint64", 8},
    {"int8", 1},      {"int16", 2}, {"int32", 4}, {"int64", 8},   {"float16", 2}, {"float32", 4},
    {"float64", 8},   {"bfloat16", 2}, {"complex64", 8}, {"complex128", 16},
};
constexpr const char* kReductions[] = {"sum", "avg", "max", "min", "product"};

template <typename To, typename From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same number of bits");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// How an element is stored, and what it is reduced in.
template <typename T>
struct Plain {
  using Stored = T;
  using Wide = T;
  static Wide widen(Stored x) { return x; }
  static Stored narrow(Wide x) { return x; }
};

// Sums wrap around as the type's own would: 64 bits modulo 2^64, cut to the type.
template <typename T>
struct Integer {
  using Stored = T;
  using Wide = std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>;
  static Wide widen(Stored x) { return x; }
  static Stored narrow(Wide x) { return static_cast<Stored>(x); }
};

struct Boolean {
  using Stored = uint8_t;
  using Wide = uint8_t;
  static Wide widen(Stored x) { return x != 0; }
  static Stored narrow(Wide x) { return x != 0; }
};

struct Bfloat16 {
  using Stored = uint16_t;
  using Wide = float;
  static Wide widen(Stored x) { return bits_as<float>(static_cast<uint32_t>(x) << 16); }
  static Stored narrow(Wide x) {
    const uint32_t bits = bits_as<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
};

// Selects instead of branches, so that loops vectorise; no float subnormals, which a thread may flush to zero.
struct Float16 {
  using Stored = uint16_t;
  using Wide = float;
  static Wide widen(Stored x) {
    const uint32_t magnitude = x & 0x7fffu;
    const uint32_t exponent = (magnitude >= 0x7c00u ? 224u : 112u) << 23;
    const uint32_t normal = (magnitude << 13) + exponent;
    const uint32_t small = bits_as<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
    return bits_as<float>((magnitude < 0x400u ? small : normal) | (static_cast<uint32_t>(x & 0x8000u) << 16));
  }
  static Stored narrow(Wide x) {
    const uint32_t bits = bits_as<uint32_t>(x);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
    const uint32_t small = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t finite = magnitude < 0x38800000u ? small : normal;
    const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return static_cast<uint16_t>((magnitude >= 0x47800000u ? large : finite) | ((bits >> 16) & 0x8000u));
  }
};

// Signed overflow is undefined: add and multiply without sign.
template <typename W>
inline W add(W a, W b) {
  if constexpr (std::is_same_v<W, int64_t>) return static_cast<W>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
  else if constexpr (std::is_same_v<W, uint8_t>) return a | b;
  else return a + b;
}

template <typename W>
inline W multiply(W a, W b) {
  if constexpr (std::is_same_v<W, int64_t>) return static_cast<W>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
  else if constexpr (std::is_same_v<W, uint8_t>) return a & b;
  else return a * b;
}

template <Reduction R, typename W>
inline W combine(W a, W b) {
  if constexpr (R == Reduction::max) return a < b ? b : a;
  else if constexpr (R == Reduction::min) return b < a ? b : a;
  else if constexpr (R == Reduction::product) return multiply(a, b);
  else return add(a, b);
}

constexpr size_t kBlock = 1024;

template <typename Type, Reduction R>
inline __attribute__((always_inline)) void reduce_block(char* out, const std::vector<const void*>& sources,
                                                        size_t offset, size_t count) {
  using Stored = typename Type::Stored;
  using Wide = typename Type::Wide;
  alignas(64) Wide sum[kBlock];
  const auto* first = static_cast<const Stored*>(sources[0]) + offset;
  for (size_t i = 0; i < count; ++i) sum[i] = Type::widen(first[i]);
  for (size_t s = 1; s < sources.size(); ++s) {
    const auto* next = static_cast<const Stored*>(sources[s]) + offset;
    for (size_t i = 0; i < count; ++i) sum[i] = combine<R>(sum[i], Type::widen(next[i]));
  }
  if constexpr (R == Reduction::avg) {
    using Scalar = std::conditional_t<std::is_same_v<Wide, std::complex<float>>, float,
                                      std::conditional_t<std::is_same_v<Wide, std::complex<double>>, double, Wide>>;
    const auto ranks = static_cast<Scalar>(sources.size());
    for (size_t i = 0; i < count; ++i) sum[i] = sum[i] / ranks;
  }
  auto* stored = reinterpret_cast<Stored*>(out) + offset;
  for (size_t i = 0; i < count; ++i) stored[i] = Type::narrow(sum[i]);
}

template <typename Type, Reduction R>
void reduce_all(char* out, const std::vector<const void*>& sources, size_t count) {
  size_t i = 0;
  // the length is a constant here, so the compiler can vectorise without a remainder
  for (; i + kBlock <= count; i += kBlock) reduce_block<Type, R>(out, sources, i, kBlock);
  if (i < count) reduce_block<Type, R>(out, sources, i, count - i);
}

template <typename Type, bool ordered = true>
void reduce_type(void* out, const std::vector<const void*>& sources, size_t count, Reduction reduction) {
  auto* bytes = static_cast<char*>(out);
  switch (reduction) {
    case Reduction::sum:
      return reduce_all<Type, Reduction::sum>(bytes, sources, count);
    case Reduction::avg:
      return reduce_all<Type, Reduction::avg>(bytes, sources, count);
    case Reduction::product:
      return reduce_all<Type, Reduction::product>(bytes, sources, count);
    case Reduction::max:
      if constexpr (ordered) reduce_all<Type, Reduction::max>(bytes, sources, count);
      return;
    case Reduction::min:
      if constexpr (ordered) reduce_all<Type, Reduction::min>(bytes, sources, count);
      return;
  }
}

}  // namespace

const char* name_of(Dtype dtype) {
  const auto index = static_cast<size_t>(dtype);
  return index < std::size(kElements) ? kElements[index].name : "unknown";
}

const char* name_of(Reduction reduction) {
  const auto index = static_cast<size_t>(reduction);
  return index < std::size(kReductions) ? kReductions[index] : "unknown";
}

size_t size_of(Dtype dtype) {
  const auto index = static_cast<size_t>(dtype);
  if (index == 0 || index >= std::size(kElements))
    throw CollectiveError("dtype number " + std::to_string(index) + " is no element type; known are 1 (bool) to " +
                          std::to_string(std::size(kElements) - 1) + " (complex128)");
  return kElements[index].bytes;
}

void check_reduction(Dtype dtype, Reduction reduction) {
  size_of(dtype);
  const bool complex = dtype == Dtype::complex64 || dtype == Dtype::complex128;
  const bool order = reduction == Reduction::max || reduction == Reduction::min;
  const bool known = static_cast<size_t>(reduction) < std::size(kReductions);
  if (!known || (complex && order) || (dtype == Dtype::boolean && reduction == Reduction::avg))
    throw CollectiveError(std::string("reduction ") + name_of(reduction) + " is not defined for " + name_of(dtype));
}

void reduce_elements(void* out, const std::vector<const void*>& sources, size_t count, Dtype dtype,
                     Reduction reduction) {
  check_reduction(dtype, reduction);
  switch (dtype) {
    case Dtype::boolean:
      return reduce_type<Boolean>(out, sources, count, reduction);
    case Dtype::uint8:
      return reduce_type<Integer<uint8_t>>(out, sources, count, reduction);
    case Dtype::uint16:
      return reduce_type<Integer<uint16_t>>(out, sources, count, reduction);
    case Dtype::uint32:
      return reduce_type<Integer<uint32_t>>(out, sources, count, reduction);
    case Dtype::uint64:
      return reduce_type<Integer<uint64_t>>(out, sources, count, reduction);
    case Dtype::int8:
      return reduce_type<Integer<int8_t>>(out, sources, count, reduction);
    case Dtype::int16:
      return reduce_type<Integer<int16_t>>(out, sources, count, reduction);
    case Dtype::int32:
      return reduce_type<Integer<int32_t>>(out, sources, count, reduction);
    case Dtype::int64:
      return reduce_type<Integer<int64_t>>(out, sources, count, reduction);
    case Dtype::float16:
      return reduce_type<Float16>(out, sources, count, reduction);
    case Dtype::float32:
      return reduce_type<Plain<float>>(out, sources, count, reduction);
    case Dtype::float64:
      return reduce_type<Plain<double>>(out, sources, count, reduction);
    case Dtype::bfloat16:
      return reduce_type<Bfloat16>(out, sources, count, reduction);
    case Dtype::complex64:
      return reduce_type<Plain<std::complex<float>>, false>(out, sources, count, reduction);
    case Dtype::complex128:
      return reduce_type<Plain<std::complex<double>>, false>(out, sources, count, reduction);
    case Dtype::undefined:
      return;
  }
}

}  // namespace mix::sim
