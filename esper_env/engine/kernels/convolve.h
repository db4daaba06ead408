// The two sums of products of a convolution, over planes: values, and gradients of weights.
//
// Blocks of sums live in registers: up to 8 features x 3 vectors of pixels with 32 registers, so that each
// loaded value serves many products and the multipliers, not the loads, are the limit.
#pragma once
#include "lanes.h"

namespace esper {

constexpr int kBlock = kManyRegisters ? 8 : 4;

// Size of the next block of features when so many are left.
inline int block(int64_t left) {
  int size = kBlock;
  while (size > left) size /= 2;
  return size;
}

// Weights (out, in, side, side) in the order of use: [block of features][line][channel][column][feature].
// `flip`: for the gradient of the input, in and out swapped and the filter turned round. `scale` (out) may be
// null.
template <class T>
void order_weights(const T* weight, int64_t out, int64_t in, int64_t side, bool flip, const T* scale, T* to) {
  const int64_t area = side * side, features = flip ? in : out, channels = flip ? out : in;
  for (int64_t first = 0, size; first < features; first += size) {
    size = block(features - first);
    for (int64_t line = 0; line < side; ++line)
      for (int64_t channel = 0; channel < channels; ++channel)
        for (int64_t column = 0; column < side; ++column)
          for (int64_t f = first; f < first + size; ++f) {
            const int64_t tap = line * side + column;
            *to++ = flip ? weight[(channel * in + f) * area + area - 1 - tap]
                         : weight[(f * in + channel) * area + tap] * (scale ? scale[f] : T(1));
          }
  }
}

// F features of V vectors of pixels; x at the first pixel in the first plane.
template <class T, int F, int V>
inline void tile(const T* x, int64_t stride, int64_t planes, int64_t side, int64_t width, const T* weight,
                 const T* bias, bool rectify, T* out, int64_t out_stride) {
  constexpr int n = Lanes<T>::count;
  Vec<T> sum[F][V];
  for (int f = 0; f < F; ++f)
    for (int v = 0; v < V; ++v) sum[f][v] = Vec<T>{} + (bias ? bias[f] : T(0));
  for (int64_t line = 0; line < side; ++line) {
    const T* from = x + (line - side / 2) * width;
    for (int64_t plane = 0; plane < planes; ++plane, from += stride, weight += F) {
      Vec<T> value[V];
      for (int v = 0; v < V; ++v) value[v] = load(from + v * n);
      for (int f = 0; f < F; ++f)
        for (int v = 0; v < V; ++v) sum[f][v] += value[v] * weight[f];
    }
  }
  for (int f = 0; f < F; ++f)
    for (int v = 0; v < V; ++v) store(out + f * out_stride + v * n, rectify ? relu<T>(sum[f][v]) : sum[f][v]);
}

constexpr int kTile = 6;

template <class T, int F>
inline void tiles(int vectors, const T* x, int64_t stride, int64_t planes, int64_t side, int64_t width,
                  const T* weight, const T* bias, bool rectify, T* out, int64_t out_stride) {
  constexpr int n = Lanes<T>::count, most = F * 6 <= 3 * kBlock ? 6 : 3;
  auto run = [&](auto size) {
    constexpr int v = decltype(size)::value;
    for (; vectors >= v; vectors -= v, x += v * n, out += v * n)
      tile<T, F, v>(x, stride, planes, side, width, weight, bias, rectify, out, out_stride);
  };
  run(std::integral_constant<int, most>());
  run(std::integral_constant<int, 3>());
  run(std::integral_constant<int, 2>());
  run(std::integral_constant<int, 1>());
}

// Calls f with the block's size as a constant.
template <class F>
inline void with_block(int size, const F& f) {
  if constexpr (kBlock == 8)
    if (size == 8) return f(std::integral_constant<int, 8>());
  if (size == 4) return f(std::integral_constant<int, 4>());
  if (size == 2) return f(std::integral_constant<int, 2>());
  return f(std::integral_constant<int, 1>());
}

// out[feature] = bias + sum over line and plane of weight * x, over so many pixels (rounded up to whole
// vectors). x has channels * side planes, one per column of the filter; bias (feature) may be null.
template <class T>
void convolve(const T* x, int64_t stride, int64_t channels, int64_t side, int64_t width, const T* weight,
              const T* bias, bool rectify, int64_t features, int64_t pixels, T* out, int64_t out_stride) {
  constexpr int n = Lanes<T>::count;
  const int64_t vectors = (pixels + n - 1) / n, planes = channels * side;
  for (int64_t first = 0; first < vectors; first += kTile) {
    const T* own = weight;
    for (int64_t f = 0, size; f < features; f += size) {
      size = block(features - f);
      with_block(size, [&](auto constant) {
        tiles<T, decltype(constant)::value>(std::min<int64_t>(kTile, vectors - first), x + first * n, stride,
                                            planes, side, width, own, bias ? bias + f : nullptr, rectify,
                                            out + f * out_stride + first * n, out_stride);
      });
      own += size * planes * side;
    }
  }
}

// F features x X planes: sums of dz * x over vectors of pixels, lanes apart, added to `sums`. They begin at 0
// rather than at `sums`: short sums of short sums lose less to rounding than one long one.
template <class T, int F, int X>
inline void products(const T* dz, int64_t dz_stride, const T* x, int64_t stride, int64_t vectors,
                     Vec<T>* sums) {
  constexpr int n = Lanes<T>::count;
  Vec<T> sum[F][X] = {};
  for (int64_t v = 0; v < vectors; ++v, dz += n, x += n) {
    Vec<T> value[X];
    for (int i = 0; i < X; ++i) value[i] = load(x + i * stride);
    for (int f = 0; f < F; ++f) {
      const Vec<T> own = load(dz + f * dz_stride);
      for (int i = 0; i < X; ++i) sum[f][i] += own * value[i];
    }
  }
  for (int f = 0; f < F; ++f)
    for (int i = 0; i < X; ++i) sums[f * X + i] += sum[f][i];
}

// How many planes go together with a block of features.
inline int columns(int features, int64_t left) {
  if (features < kBlock && left >= 6) return 6;
  return left >= 3 ? 3 : int(left);
}

// Calls f(block of features, first feature, line, first plane, planes together) in the order in which sums
// lie.
template <class F>
inline void each_product(int64_t features, int64_t planes, int64_t side, const F& f) {
  for (int64_t first = 0; first < features; first += block(features - first))
    with_block(block(features - first), [&](auto size) {
      for (int64_t line = 0; line < side; ++line)
        for (int64_t plane = 0, wide; plane < planes; plane += wide) {
          wide = columns(size, planes - plane);
          if (wide == 6) {
            if constexpr (size < kBlock) f(size, first, line, plane, std::integral_constant<int, 6>());
          } else if (wide == 3) {
            f(size, first, line, plane, std::integral_constant<int, 3>());
          } else if (wide == 2) {
            f(size, first, line, plane, std::integral_constant<int, 2>());
          } else {
            f(size, first, line, plane, std::integral_constant<int, 1>());
          }
        }
    });
}

// Adds the gradient of the weights of a group of images to sums (features x planes x side vectors).
template <class T>
void correlate(const T* dz, int64_t dz_stride, const T* x, int64_t stride, int64_t channels, int64_t side,
               int64_t width, int64_t features, int64_t pixels, Vec<T>* sums) {
  constexpr int n = Lanes<T>::count;
  const int64_t vectors = (pixels + n - 1) / n;
  each_product(features, channels * side, side,
               [&](auto size, int64_t f, int64_t line, int64_t plane, auto wide) {
                 const T* from = x + plane * stride + (line - side / 2) * width;
                 products<T, size(), wide()>(dz + f * dz_stride, dz_stride, from, stride, vectors, sums);
                 sums += size() * wide();
               });
}

// The lanes of these sums added up, as (features, channels, side, side).
template <class T>
void collect(const Vec<T>* sums, int64_t features, int64_t channels, int64_t side, double* weight) {
  each_product(features, channels * side, side,
               [&](auto size, int64_t f, int64_t line, int64_t plane, auto wide) {
                 for (int i = 0; i < size(); ++i)
                   for (int j = 0; j < wide(); ++j, ++sums) {
                     double total = 0;
                     for (int lane = 0; lane < Lanes<T>::count; ++lane) total += (*sums)[lane];
                     const int64_t channel = (plane + j) / side, column = (plane + j) % side;
                     weight[(((f + i) * channels + channel) * side + line) * side + column] = total;
                   }
               });
}

}  // namespace esper
