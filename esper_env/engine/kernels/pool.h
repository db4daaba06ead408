// Largest value of every 2 x 2 pixels of one image, and its gradient, which finds the place again instead of
// storing it. An odd last line or column is dropped.
#pragma once
#include "lanes.h"

namespace esper {

// N channels of a pixel.
template <class T, int N>
struct Pixel {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};

template <class V, class T>
inline V read(const T* at) {
  V out;
  std::memcpy(&out, at, sizeof out);
  return out;
}

template <class T, class V>
inline void write(T* at, V value) {
  std::memcpy(at, &value, sizeof value);
}

// Whether b wins over a, which comes first: NaN counts as larger than anything, as in torch.
template <class V>
inline auto wins(V b, V a) {
  return (b > a) | (b != b);
}

template <class V>
inline V larger(V a, V b) {
  return wins(b, a) ? b : a;
}

// Calls f(lanes, index of the upper left value, index of the output) for every vector of channels of every
// output.
template <class T, class F>
inline void each_output(int64_t height, int64_t width, int64_t channels, const F& f) {
  auto run = [&](auto lanes) {
    for (int64_t h = 0, to = 0; h + 1 < height; h += 2)
      for (int64_t w = 0, from = h * width * channels; w + 1 < width; w += 2, from += channels)
        for (int64_t c = 0; c < channels; c += lanes(), from += lanes(), to += lanes()) f(lanes, from, to);
  };
  if (channels % Lanes<T>::count == 0) return run(std::integral_constant<int, Lanes<T>::count>());
  if (channels % 8 == 0) return run(std::integral_constant<int, 8>());
  if (channels % 4 == 0) return run(std::integral_constant<int, 4>());
  run(std::integral_constant<int, 1>());
}

template <class T>
inline void pool_image(int64_t height, int64_t width, int64_t channels, const T* x, T* y) {
  const int64_t right = channels, below = width * channels;
  each_output<T>(height, width, channels, [=](auto lanes, int64_t from, int64_t to) {
    using V = typename Pixel<T, lanes()>::type;
    const T* p = x + from;
    const V top = larger(read<V>(p), read<V>(p + right));
    write(y + to, larger(top, larger(read<V>(p + below), read<V>(p + below + right))));
  });
}

template <class T>
inline void pool_image_back(int64_t height, int64_t width, int64_t channels, const T* x, const T* dy, T* dx) {
  const int64_t right = channels, below = width * channels;
  each_output<T>(height, width, channels, [=](auto lanes, int64_t from, int64_t to) {
    using V = typename Pixel<T, lanes()>::type;
    const V a = read<V>(x + from), b = read<V>(x + from + right), zero = {};
    const V c = read<V>(x + from + below), d = read<V>(x + from + below + right), g = read<V>(dy + to);
    const auto second = wins(b, a), fourth = wins(d, c), low = wins(larger(c, d), larger(a, b));
    const V upper = low ? zero : g, lower = low ? g : zero;
    write(dx + from, second ? zero : upper), write(dx + from + right, second ? upper : zero);
    write(dx + from + below, fourth ? zero : lower), write(dx + from + below + right, fourth ? lower : zero);
  });
  if (width % 2)
    for (int64_t h = 1; h <= height; ++h) std::fill(dx + h * below - right, dx + h * below, T(0));
  if (height % 2) std::fill(dx + (height - 1) * below, dx + height * below, T(0));
}

}  // namespace esper
