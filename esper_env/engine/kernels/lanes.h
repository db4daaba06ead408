// Vectors of floats or doubles of the machine's width, scratch memory, and loops over threads.
//
// Everything here is written with the compiler's vector extensions, so that one source serves every CPU; what
// is fast was measured with AVX-512.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace esper {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr bool kManyRegisters = true;  // 32 of them: a block of 24 sums, else one of 12
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
constexpr bool kManyRegisters = false;
#else
constexpr int kVectorBytes = 16;
constexpr bool kManyRegisters = false;
#endif

template <class T>
struct Lanes {
  static constexpr int count = kVectorBytes / sizeof(T);
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Vec __attribute__((vector_size(kVectorBytes)));
  typedef Int Mask __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename Lanes<T>::Vec;
template <class T>
using Mask = typename Lanes<T>::Mask;

template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

template <class T>
inline void store(T* to, Vec<T> value) {
  std::memcpy(to, &value, sizeof value);
}

// x where the mask's bits are set, else 0: no product, so that a NaN is gone too.
template <class T>
inline Vec<T> keep(Vec<T> x, Mask<T> mask) {
  return (Vec<T>)((Mask<T>)x & mask);
}

// max(x, 0) that lets NaN through, as torch's.
template <class T>
inline Vec<T> relu(Vec<T> x) {
  const Vec<T> zero = {};
  return zero > x ? zero : x;
}

// Numbers too small for the normal format count as 0 while one of these lives: they are up to 50 times
// slower.
class FlushDenormals {
#if defined(__SSE__)
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
 public:
  FlushDenormals() {}
#endif
};

// Memory of one thread for one task, kept from task to task; what `take` returns is not initialized.
class Scratch {
 public:
  static Scratch& mine() {
    thread_local Scratch scratch;
    scratch.taken_ = 0;
    return scratch;
  }
  template <class T>
  T* take(int64_t count) {
    if (taken_ == blocks_.size()) blocks_.emplace_back();
    Block& block = blocks_[taken_++];
    const size_t bytes = count * sizeof(T);
    if (bytes > block.size || !block.memory) {
      block.memory.reset(static_cast<char*>(::operator new(bytes, std::align_val_t(64))));
      block.size = bytes;
    }
    return reinterpret_cast<T*>(block.memory.get());
  }

 private:
  struct Free {
    void operator()(char* at) const { ::operator delete(at, std::align_val_t(64)); }
  };
  struct Block {
    std::unique_ptr<char, Free> memory;
    size_t size = 0;
  };
  std::vector<Block> blocks_;
  size_t taken_ = 0;
};

// f(0) .. f(tasks - 1), in any order: a task's result must depend on its number alone.
template <class F>
void parallel(int threads, int64_t tasks, const F& f) {
  if (tasks < 1) return;
#pragma omp parallel num_threads(int(std::min<int64_t>(threads, tasks))) if (threads > 1 && tasks > 1)
  {
    const FlushDenormals flush;
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) f(task);
  }
}

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace esper
