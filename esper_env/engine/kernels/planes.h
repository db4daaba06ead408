// Images between their layout in memory, (height, width, channel), and planes of one channel.
//
// A convolution sums products of shifted planes, so that the lanes of a vector are pixels: full at any number
// of channels. Planes have no border at their sides. Instead there is one copy of every plane per column of
// the filter, shifted by so much and 0 where a pixel beside the image would be; above and below there are
// lines of zeros, shared by neighbors of a group of images.
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

using All = std::make_integer_sequence<int, Lanes<float>::count>;
typedef float Quad __attribute__((vector_size(16)));

inline Quad quad(const float* from) {
  Quad out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

// Four channels each of as many pixels as fit, `step` values apart.
inline Vec<float> quads(const float* from, int64_t step) {
#if defined(__AVX512F__)
  const auto low = __builtin_shufflevector(quad(from), quad(from + step), 0, 1, 2, 3, 4, 5, 6, 7);
  const auto high =
      __builtin_shufflevector(quad(from + 2 * step), quad(from + 3 * step), 0, 1, 2, 3, 4, 5, 6, 7);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX__)
  return __builtin_shufflevector(quad(from), quad(from + step), 0, 1, 2, 3, 4, 5, 6, 7);
#else
  return quad(from);
#endif
}

// The reverse.
template <int... Q>
inline void store_quads(float* to, int64_t step, Vec<float> v, std::integer_sequence<int, Q...>) {
  auto one = [&](int64_t at, Quad part) { std::memcpy(to + at * step, &part, sizeof part); };
  (one(Q, __builtin_shufflevector(v, v, 4 * Q, 4 * Q + 1, 4 * Q + 2, 4 * Q + 3)), ...);
}

// Within each four lanes: lanes A and B of a (from 4 on: of b), then C and D.
template <int A, int B, int C, int D, int... I>
inline Vec<float> mix(Vec<float> a, Vec<float> b, std::integer_sequence<int, I...>) {
  constexpr int n = Lanes<float>::count, pick[4] = {A, B, C, D};
  return __builtin_shufflevector(a, b, (I / 4 * 4 + pick[I % 4] % 4 + (pick[I % 4] >= 4 ? n : 0))...);
}

// Each 4 x 4 block of four vectors transposed; its own inverse.
inline void transpose(Vec<float> (&v)[4]) {
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

// A vector of pixels of G channels; G is 4, 1, or 3 if there are no others.
template <class T, int G>
inline void take(const T* from, int64_t channels, Vec<T> (&out)[G]) {
  constexpr int n = Lanes<T>::count;
  if constexpr (G == 4) {
    for (int i = 0; i < 4; ++i) out[i] = quads(from + i * channels, 4 * channels);
    transpose(out);
  } else if constexpr (G == 3) {
    const auto a = load(from), b = load(from + n), c = load(from + 2 * n);
    out[0] = third<0>(a, b, c, All()), out[1] = third<1>(a, b, c, All()), out[2] = third<2>(a, b, c, All());
  } else {
    Vec<T> own = {};
    for (int i = 0; i < n; ++i) own[i] = from[i * channels];
    out[0] = own;
  }
}

// The reverse, for 4 and 1.
template <class T, int G>
inline void put(Vec<T> (&values)[G], int64_t channels, T* to) {
  constexpr int n = Lanes<T>::count;
  if constexpr (G == 4) {
    transpose(values);
    for (int i = 0; i < 4; ++i)
      store_quads(to + i * channels, 4 * channels, values[i], std::make_integer_sequence<int, n / 4>());
  } else {
    for (int i = 0; i < n; ++i) to[i * channels] = values[0][i];
  }
}

// Calls f with how many channels are best taken together.
template <class T, class F>
inline void with_channels(int64_t channels, bool three, const F& f) {
  if constexpr (std::is_same_v<T, float>) {
    if (channels % 4 == 0) return f(std::integral_constant<int, 4>());
    if (channels == 3 && three) return f(std::integral_constant<int, 3>());
  }
  f(std::integral_constant<int, 1>());
}

// One image, G channels at a time, into planes; K copies of each, or `columns` if K is 0.
template <class T, int G, int K>
inline void pack_image(const Layout& at, const T* image, int64_t channels, int columns, const T* edges,
                       T* spare, T* base) {
  constexpr int n = Lanes<T>::count;
  const int64_t pixels = at.pixels(), edge = Edges<T>::row(at), stride = at.stride, copies = K ? K : columns;
  const int64_t pad = copies / 2;
  edges += (at.pad - pad) * edge;
  for (int64_t pixel = 0; pixel < pixels; pixel += n, base += n, edges += n) {
    const T* from = image + pixel * channels;
    if (pixel + n > pixels) {
      std::fill(spare, spare + n * channels, T(0));
      std::copy(from, from + (pixels - pixel) * channels, spare);
      from = spare;
    }
    Mask<T> mask[K ? K : 1];
    for (int k = 0; k < K; ++k) mask[k] = (Mask<T>)load(edges + k * edge);
    T* to = base + pad;
    for (int64_t channel = 0; channel < channels; channel += G, from += G) {
      Vec<T> v[G];
      take<T, G>(from, channels, v);
      for (int g = 0; g < G; ++g) {
        for (int k = 0; k < K; ++k, to += stride) store(to - k, keep<T>(v[g], mask[k]));
        if constexpr (K == 0)
          for (int64_t k = 0; k < copies; ++k, to += stride)
            store(to - k, keep<T>(v[g], (Mask<T>)load(edges + k * edge)));
      }
    }
  }
}

// Images (height, width, channel), one after another, into planes [channel][column of the filter]; `columns`
// is 1 or the filter's side. `spare` holds a vector of pixels. Everything around the images must be 0
// already.
template <class T>
void pack(const Layout& at, const T* images, int64_t count, int64_t channels, int columns, const T* edges,
          T* spare, T* planes) {
  with_channels<T>(channels, true, [&](auto group) {
    for (int64_t i = 0; i < count; ++i) {
      const T* image = images + i * at.pixels() * channels;
      T* base = planes + at.start + i * at.image;
      if (columns == 1) pack_image<T, group(), 1>(at, image, channels, 1, edges, spare, base);
      if (columns == 3) pack_image<T, group(), 3>(at, image, channels, 3, edges, spare, base);
      if (columns > 3) pack_image<T, group(), 0>(at, image, channels, columns, edges, spare, base);
    }
  });
}

// Planes [channel] back into images.
template <class T>
void unpack(const Layout& at, const T* planes, int64_t count, int64_t channels, T* spare, T* images) {
  constexpr int n = Lanes<T>::count;
  const int64_t pixels = at.pixels(), stride = at.stride;
  with_channels<T>(channels, false, [&](auto group) {
    for (int64_t image = 0; image < count; ++image, images += pixels * channels)
      for (int64_t pixel = 0; pixel < pixels; pixel += n) {
        const bool whole = pixel + n <= pixels;
        const T* from = planes + at.start + image * at.image + pixel;
        T* to = whole ? images + pixel * channels : spare;
        for (int64_t channel = 0; channel < channels; channel += group(), from += group() * stride) {
          Vec<T> v[group()];
          for (int g = 0; g < group(); ++g) v[g] = load(from + g * stride);
          put<T, group()>(v, channels, to + channel);
        }
        if (!whole) std::copy(spare, spare + (pixels - pixel) * channels, images + pixel * channels);
      }
  });
}

}  // namespace esper
