// How the work of a unit is cut, and its norms.
#pragma once
#include <cmath>
#include <vector>

#include "channels.h"
#include "convolve.h"
#include "native.h"
#include "planes.h"

namespace esper {

// Samples of a row in parts, one task each: a function of the shape alone, never of rows or threads.
struct Parts {
  int64_t samples, size, count;

  Parts(int64_t samples, int64_t pixels, int64_t group) : samples(samples) {
    const int64_t most = std::clamp<int64_t>(samples * pixels / 2048, 1, 8);
    size = round_up((samples + most - 1) / most, group);
    count = (samples + size - 1) / size;
  }
  int64_t first(int64_t part) const { return part * size; }
  int64_t length(int64_t part) const { return std::min(size, samples - part * size); }
};

// Rows whose values fit the second-level caches together, with enough parts for every thread.
inline int64_t rows_at_once(int64_t rows, int64_t bytes, int threads) {
  return std::clamp<int64_t>(threads * (int64_t(1) << 20) / std::max<int64_t>(bytes, 1), 1, rows);
}

// Count, mean and sum of squared deviations, merged without cancellation (T. Chan et al., 1979).
struct Moments {
  double count = 0, mean = 0, squares = 0;

  // Of so many values, from sums of them and of their squares, both less a pivot.
  static Moments of(double count, double pivot, double sum, double square) {
    return {count, pivot + sum / count, square - sum * sum / count};
  }
  void add(const Moments& other) {
    const double both = count + other.count, apart = other.mean - mean;
    mean += apart * other.count / both;
    squares += other.squares + apart * apart * count * other.count / both;
    count = both;
  }
  double variance() const { return std::max(squares / count, 0.0); }
};

// Sums of values and of their squares, less a pivot per channel, added to double (2, channel).
// numbers: a stripe; sums: two.
template <class T>
void moments(const T* z, int64_t channels, int64_t length, const T* pivot, T* sums, double* out) {
  const int64_t step = stripe<T>(channels);
  std::fill(sums, sums + 2 * step, T(0));
  sweep<1, 1, 2, T>(channels, length, {z}, pivot, sums, nullptr,
                    [](const Vec<T>* x, const Vec<T>* k, Vec<T>* s) {
                      const Vec<T> from = x[0] - k[0];
                      s[0] += from;
                      s[1] += from * from;
                      return from;
                    });
  add_up(sums, channels, out), add_up(sums + step, channels, out + channels);
}

// y = (z - mean) * factor + beta, then perhaps ReLU; numbers: stripes of mean, factor, beta.
template <class T>
void normalize(const T* z, int64_t channels, int64_t length, const T* numbers, bool rectify, T* y) {
  if (rectify)
    sweep<1, 3, 0, T>(
        channels, length, {z}, numbers, nullptr, y,
        [](const Vec<T>* x, const Vec<T>* k, Vec<T>*) { return relu<T>((x[0] - k[0]) * k[1] + k[2]); });
  else
    sweep<1, 3, 0, T>(channels, length, {z}, numbers, nullptr, y,
                      [](const Vec<T>* x, const Vec<T>* k, Vec<T>*) { return (x[0] - k[0]) * k[1] + k[2]; });
}

// dy where the ReLU let values through.
template <class T>
inline Vec<T> passed(Vec<T> dy, Vec<T> before) {
  const Vec<T> zero = {};
  return before <= zero ? zero : dy;
}

// Sums of dy and of dy * (z - mean) by channel, added to double (2, channel); numbers as in `normalize`.
template <class T>
void gradient_moments(const T* z, const T* dy, int64_t channels, int64_t length, const T* numbers,
                      bool rectified, T* sums, double* out) {
  const int64_t step = stripe<T>(channels);
  std::fill(sums, sums + 2 * step, T(0));
  auto run = [&](auto mask) {
    sweep<2, 3, 2, T>(channels, length, {z, dy}, numbers, sums, nullptr,
                      [mask](const Vec<T>* x, const Vec<T>* k, Vec<T>* s) {
                        const Vec<T> from = x[0] - k[0];
                        const Vec<T> g = mask() ? passed<T>(x[1], from * k[1] + k[2]) : x[1];
                        s[0] += g;
                        s[1] += g * from;
                        return g;
                      });
  };
  rectified ? run(std::true_type()) : run(std::false_type());
  add_up(sums, channels, out), add_up(sums + step, channels, out + channels);
}

// dz = dy * factor + (z - mean) * slope + offset; numbers: stripes of mean, factor, beta, slope, offset.
template <class T>
void normalize_back(const T* z, const T* dy, int64_t channels, int64_t length, const T* numbers,
                    bool rectified, T* dz) {
  auto run = [&](auto mask) {
    sweep<2, 5, 0, T>(channels, length, {z, dy}, numbers, nullptr, dz,
                      [mask](const Vec<T>* x, const Vec<T>* k, Vec<T>*) {
                        const Vec<T> from = x[0] - k[0];
                        const Vec<T> g = mask() ? passed<T>(x[1], from * k[1] + k[2]) : x[1];
                        return g * k[1] + (from * k[3] + k[4]);
                      });
  };
  rectified ? run(std::true_type()) : run(std::false_type());
}

}  // namespace esper
