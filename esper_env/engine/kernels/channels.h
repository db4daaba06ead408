// Passes over values (..., channel) with a few numbers per channel.
//
// The numbers are repeated to a whole number of vectors (a stripe), at least four, so that any number of
// channels fills all lanes.
#pragma once
#include <array>
#include <numeric>

#include "lanes.h"

namespace esper {

// Length of a stripe, in values.
template <class T>
inline int64_t stripe(int64_t channels) {
  const int64_t n = Lanes<T>::count, period = channels / std::gcd(channels, n);
  return std::lcm<int64_t>(period, 4) * n;
}

// Repeats the first `channels` values of out.
template <class T>
inline void repeat(T* out, int64_t channels) {
  const int64_t length = stripe<T>(channels);
  for (int64_t done = channels; done < length; done *= 2)
    std::memcpy(out + done, out, std::min(done, length - done) * sizeof(T));
}

// Adds a stripe of sums up by channel, into double.
template <class T>
inline void add_up(const T* sums, int64_t channels, double* out) {
  const int64_t length = stripe<T>(channels);
  for (int64_t i = 0; i < length; i += channels)
    for (int64_t c = 0; c < channels; ++c) out[c] += double(sums[i + c]);
}

// out = f(in[], numbers[], sums[]) for `length` values; f works on vectors and may add to the sums.
//
// In: inputs; Numbers: stripes of numbers, one after another; Sums: stripes of sums, likewise. out may be
// null.
template <int In, int Numbers, int Sums, class T, class F>
void sweep(int64_t channels, int64_t length, std::array<const T*, In> in, const T* numbers, T* sums, T* out,
           const F& f) {
  constexpr int n = Lanes<T>::count, wide = 4;
  const int64_t step = stripe<T>(channels), whole = length / step * step;
  for (int64_t column = 0; column < step; column += wide * n) {
    Vec<T> number[Numbers + 1][wide], sum[Sums + 1][wide];
    for (int v = 0; v < wide; ++v) {
      for (int i = 0; i < Numbers; ++i) number[i][v] = load(numbers + i * step + column + v * n);
      for (int i = 0; i < Sums; ++i) sum[i][v] = load(sums + i * step + column + v * n);
    }
    for (int64_t at = column; at < whole; at += step)
      for (int v = 0; v < wide; ++v) {
        Vec<T> x[In], k[Numbers + 1], s[Sums + 1];
        for (int i = 0; i < In; ++i) {
          x[i] = load(in[i] + at + v * n);
          __builtin_prefetch(in[i] + at + v * n + 4096 / sizeof(T));
        }
        for (int i = 0; i < Numbers; ++i) k[i] = number[i][v];
        for (int i = 0; i < Sums; ++i) s[i] = sum[i][v];
        const Vec<T> value = f(x, k, s);
        for (int i = 0; i < Sums; ++i) sum[i][v] = s[i];
        if (out) store(out + at + v * n, value);
      }
    for (int v = 0; v < wide; ++v)
      for (int i = 0; i < Sums; ++i) store(sums + i * step + column + v * n, sum[i][v]);
  }
  for (int64_t at = whole; at < length; at += n) {
    const int64_t count = std::min<int64_t>(n, length - at);
    Vec<T> x[In] = {}, k[Numbers + 1], s[Sums + 1];
    for (int i = 0; i < In; ++i) std::memcpy(&x[i], in[i] + at, count * sizeof(T));
    for (int i = 0; i < Numbers; ++i) k[i] = load(numbers + i * step + at - whole);
    for (int i = 0; i < Sums; ++i) s[i] = load(sums + i * step + at - whole);
    const Vec<T> value = f(x, k, s);
    for (int i = 0; i < Sums; ++i) std::memcpy(sums + i * step + at - whole, &s[i], count * sizeof(T));
    if (out) std::memcpy(out + at, &value, count * sizeof(T));
  }
}

}  // namespace esper
