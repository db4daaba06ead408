// exp, tanh and the logistic function of vectors: the same bits in every lane, so that a value's place among
// others, which libraries' loops depend on, does not matter.
//
// float: S. Moshier's polynomials (Cephes), off by at most 2 units in the last place. double: the C library's.
#pragma once
#include <cmath>

#include "lanes.h"

namespace esper {

// x in lanes where the mask is set, y in the others.
template <class T>
inline Vec<T> choose(Mask<T> mask, Vec<T> x, Vec<T> y) {
  return mask ? x : y;
}

template <class T, class F>
inline Vec<T> by_lane(Vec<T> x, const F& f) {
  for (int lane = 0; lane < Lanes<T>::count; ++lane) x[lane] = f(x[lane]);
  return x;
}

// Not beyond the largest number; NaN stays NaN.
template <class T>
inline Vec<T> exponential(Vec<T> x) {
  if constexpr (std::is_same_v<T, double>) {
    return by_lane<T>(x, [](double v) { return std::exp(v); });
  } else {
    const Vec<T> zero = {}, most = zero + 88.0f, least = zero - 87.0f;
    x = choose<T>(x > most, most, x), x = choose<T>(x < least, least, x);
    const Vec<T> scaled = x * 1.44269504088896341f;
    const Mask<T> power = __builtin_convertvector(scaled + choose<T>(x < zero, zero - 0.5f, zero + 0.5f), Mask<T>);
    const Vec<T> whole = __builtin_convertvector(power, Vec<T>);
    const Vec<T> r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Vec<T> sum = r * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * r + 8.3334519073e-3f;
    sum = sum * r + 4.1665795894e-2f;
    sum = sum * r + 1.6666665459e-1f;
    sum = sum * r + 5.0000001201e-1f;
    return (sum * (r * r) + r + 1.0f) * (Vec<T>)((power + 127) << 23);
  }
}

template <class T>
inline Vec<T> logistic(Vec<T> x) {
  return 1 / (1 + exponential<T>(-x));
}

template <class T>
inline Vec<T> hyperbolic_tangent(Vec<T> x) {
  if constexpr (std::is_same_v<T, double>) {
    return by_lane<T>(x, [](double v) { return std::tanh(v); });
  } else {
    const Vec<T> zero = {}, size = choose<T>(x < zero, -x, x), z = x * x;
    Vec<T> sum = z * -5.70498872745e-3f + 2.06390887954e-2f;
    sum = sum * z - 5.37397155531e-2f;
    sum = sum * z + 1.33314422036e-1f;
    sum = sum * z - 3.33332819422e-1f;
    const Vec<T> large = 1 - 2 / (exponential<T>(size + size) + 1);
    return choose<T>(size < 0.625f, sum * z * x + x, choose<T>(x < zero, -large, large));
  }
}

// to[i] = f(a[i], b[i]) for so many values, in whole vectors.
template <class T, class F>
inline void map(const T* a, const T* b, int64_t size, T* to, const F& f) {
  constexpr int n = Lanes<T>::count;
  int64_t at = 0;
  for (; at + n <= size; at += n) store<T>(to + at, f(load(a + at), load(b + at)));
  if (at == size) return;
  Vec<T> x = {}, y = {};
  std::memcpy(&x, a + at, (size - at) * sizeof(T)), std::memcpy(&y, b + at, (size - at) * sizeof(T));
  const Vec<T> out = f(x, y);
  std::memcpy(to + at, &out, (size - at) * sizeof(T));
}

}  // namespace esper
