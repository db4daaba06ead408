// Images between their layout in memory, (height, width, channel), and planes of one channel.
//
// A convolution sums products of shifted planes, so that the lanes of a vector are pixels: full at any number of
// channels. Planes have no border at their sides. Instead there is one copy of every plane per column of the filter,
// shifted by so much and 0 where a pixel beside the image would be; above and below there are lines of zeros, shared
// by neighbors of a group of images.
#pragma once
#include "lanes.h"

namespace esper {

struct Layout {
  int64_t height, width, pad, group;  // images per group
  int64_t image;                      // pixels from one image to the next
  int64_t start;                      // zeros before the first
  int64_t stride;                     // from plane to plane

  Layout(int64_t height, int64_t width, int64_t side, int64_t samples, int64_t lanes)
      : height(height), width(width), pad(side / 2) {
    image = (height + pad) * width;
    group = std::min(samples, std::max<int64_t>(1, 512 / image));
    start = round_up(pad * width + pad, lanes);
    stride = start + round_up(group * image, lanes) + round_up(pad * width + pad, lanes) + 8 * lanes;
    if (stride % (4096 / 8) == 0) stride += lanes;  // equal addresses modulo 4096 contend for the cache
  }
  int64_t pixels() const { return height * width; }
  // Pixels to compute for so many images, zeros between them included.
  int64_t extent(int64_t images) const { return images * image - pad * width; }
};

// Which pixels still lie in the image after a shift, as bits: (2 pad + 1, pixels rounded up).
template <class T>
struct Edges {
  static int64_t row(const Layout& at) { return round_up(at.pixels(), Lanes<T>::count); }
  static int64_t size(const Layout& at) { return (2 * at.pad + 1) * row(at); }
  static void fill(const Layout& at, T* out) {
    using Int = typename Lanes<T>::Int;
    Int* bits = reinterpret_cast<Int*>(out);
    for (int64_t shift = -at.pad; shift <= at.pad; ++shift, bits += row(at)) {
      for (int64_t w = 0; w < at.width; ++w) bits[w] = w - shift >= 0 && w - shift < at.width ? -1 : 0;
      for (int64_t h = 1; h < at.height; ++h) std::memcpy(bits + h * at.width, bits, at.width * sizeof(T));
      std::fill(bits + at.pixels(), bits + row(at), Int(0));
    }
  }
};

typedef float Quad __attribute__((vector_size(16)));

template <int... I>
inline Vec<float> gather_quads(const float* from, int64_t step, std::integer_sequence<int, I...>) {
  Vec<float> out;
  ((std::memcpy(reinterpret_cast<char*>(&out) + 16 * I, from + I * step, 16)), ...);
  return out;
}

#if defined(__AVX512F__)
template <>
inline Vec<float> gather_quads(const float* from, int64_t step, std::integer_sequence<int, 0, 1, 2, 3>) {
  Quad a, b, c, d;
  std::memcpy(&a, from, 16), std::memcpy(&b, from + step, 16);
  std::memcpy(&c, from + 2 * step, 16), std::memcpy(&d, from + 3 * step, 16);
  const auto low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
  const auto high = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
#endif

using Quads = std::make_integer_sequence<int, Lanes<float>::count / 4>;

// Within each four lanes: lanes (i, j) of a and b side by side.
template <int A, int B, int C, int D, int... I>
inline Vec<float> mix(Vec<float> a, Vec<float> b, std::integer_sequence<int, I...>) {
  constexpr int n = Lanes<float>::count, pick[4] = {A, B, C, D};
  return __builtin_shufflevector(a, b, (I / 4 * 4 + pick[I % 4] % 4 + (pick[I % 4] >= 4 ? n : 0))...);
}
using All = std::make_integer_sequence<int, Lanes<float>::count>;

// Each 4 x 4 block of four vectors transposed; its own inverse.
inline void transpose(Vec<float>* v) {
  const auto a = mix<0, 4, 1, 5>(v[0], v[1], All()), b = mix<2, 6, 3, 7>(v[0], v[1], All());
  const auto c = mix<0, 4, 1, 5>(v[2], v[3], All()), d = mix<2, 6, 3, 7>(v[2], v[3], All());
  v[0] = mix<0, 1, 4, 5>(a, c, All()), v[1] = mix<2, 3, 6, 7>(a, c, All());
  v[2] = mix<0, 1, 4, 5>(b, d, All()), v[3] = mix<2, 3, 6, 7>(b, d, All());
}

// Channel C of pixels of three: two shuffles instead of a load per lane.
template <int C, int... I>
inline Vec<float> third(Vec<float> a, Vec<float> b, Vec<float> c, std::integer_sequence<int, I...>) {
  constexpr int n = Lanes<float>::count;
  const auto first = __builtin_shufflevector(a, b, (3 * I + C < 2 * n ? 3 * I + C : 0)...);
  return __builtin_shufflevector(first, c, (3 * I + C < 2 * n ? I : 3 * I + C - n)...);
}

// A vector of pixels of up to 4 channels from `channel` on; returns how many channels were read.
template <class T>
inline int take(const T* from, int64_t channels, int64_t channel, Vec<T>* out) {
  constexpr int n = Lanes<T>::count;
  if constexpr (std::is_same_v<T, float>) {
    if (channels % 4 == 0) {
      for (int i = 0; i < 4; ++i) out[i] = gather_quads(from + i * channels + channel, 4 * channels, Quads());
      transpose(out);
      return 4;
    }
    if (channels == 3) {
      const auto a = load(from), b = load(from + n), c = load(from + 2 * n);
      out[0] = third<0>(a, b, c, All()), out[1] = third<1>(a, b, c, All()), out[2] = third<2>(a, b, c, All());
      return 3;
    }
  }
  out[0] = Vec<T>{};
  for (int i = 0; i < n; ++i) out[0][i] = from[i * channels + channel];
  return 1;
}

// The reverse of `take`.
template <class T>
inline int put(Vec<T>* values, int64_t channels, int64_t channel, T* to) {
  constexpr int n = Lanes<T>::count;
  if constexpr (std::is_same_v<T, float>) {
    if (channels % 4 == 0) {
      transpose(values);
      for (int i = 0; i < 4; ++i)
        for (int q = 0; q < n / 4; ++q)
          std::memcpy(to + (4 * q + i) * channels + channel, reinterpret_cast<const char*>(values + i) + 16 * q, 16);
      return 4;
    }
  }
  for (int i = 0; i < n; ++i) to[i * channels + channel] = values[0][i];
  return 1;
}

// Images (height, width, channel), one after another, into planes [channel][column of the filter]; `columns` is 1 or
// the filter's side. `spare` holds a vector of pixels. Everything around the images must be 0 already.
template <class T>
void pack(const Layout& at, const T* images, int64_t count, int64_t channels, int columns, const T* edges, T* spare,
          T* planes) {
  constexpr int n = Lanes<T>::count;
  const int64_t pixels = at.pixels(), edge = Edges<T>::row(at), pad = columns / 2;
  for (int64_t image = 0; image < count; ++image, images += pixels * channels) {
    T* base = planes + at.start + image * at.image;
    for (int64_t pixel = 0; pixel < pixels; pixel += n) {
      const T* from = images + pixel * channels;
      if (pixel + n > pixels) {
        std::fill(spare, spare + n * channels, T(0));
        from = std::copy(from, from + (pixels - pixel) * channels, spare) - (pixels - pixel) * channels;
      }
      for (int64_t channel = 0; channel < channels;) {
        Vec<T> v[4];
        const int taken = take(from, channels, channel, v);
        for (int i = 0; i < taken; ++i, ++channel) {
          T* to = base + channel * columns * at.stride + pixel;
          for (int64_t shift = -pad; shift <= pad; ++shift, to += at.stride)
            store(to - shift, keep<T>(v[i], (Mask<T>)load(edges + (shift + at.pad) * edge + pixel)));
        }
      }
    }
  }
}

// Planes [channel] back into images.
template <class T>
void unpack(const Layout& at, const T* planes, int64_t count, int64_t channels, T* spare, T* images) {
  constexpr int n = Lanes<T>::count;
  const int64_t pixels = at.pixels();
  for (int64_t image = 0; image < count; ++image, images += pixels * channels) {
    const T* base = planes + at.start + image * at.image;
    for (int64_t pixel = 0; pixel < pixels; pixel += n) {
      const bool whole = pixel + n <= pixels;
      T* to = whole ? images + pixel * channels : spare;
      for (int64_t channel = 0; channel < channels;) {
        Vec<T> v[4];
        const int given = std::is_same_v<T, float> && channels % 4 == 0 ? 4 : 1;
        for (int i = 0; i < given; ++i) v[i] = load(base + (channel + i) * at.stride + pixel);
        channel += put(v, channels, channel, to);
      }
      if (!whole) std::copy(spare, spare + (pixels - pixel) * channels, images + pixel * channels);
    }
  }
}

}  // namespace esper
