// Normalization over the pixels and a group of channels of one image, in steps.
#pragma once
#include "unit.h"

namespace esper {

// Stripes of mean, factor and beta, one behind the other; null counts as 0, 1 and 0.
template <class T>
void norm_stripes(const T* gamma, const T* beta, const T* mean, const T* inverse, int64_t per_group,
                  int64_t channels, T* out) {
  const int64_t step = stripe<T>(channels);
  for (int64_t c = 0; c < channels; ++c) {
    out[c] = mean ? mean[c / per_group] : T(0);
    out[step + c] = (gamma ? gamma[c] : T(1)) * (inverse ? inverse[c / per_group] : T(1));
    out[2 * step + c] = beta ? beta[c] : T(0);
  }
  for (int i = 0; i < 3; ++i) repeat(out + i * step, channels);
}

// Mean and 1 / deviation of each group of an image of so many values.
// numbers: three stripes and sums: 2 x channels, to work in.
template <class T>
void group_statistics(const T* z, int64_t channels, int64_t length, int64_t groups, double eps, T* numbers,
                      double* sums, T* mean, T* inverse) {
  const int64_t width = channels / groups;
  std::copy(z, z + channels, numbers);
  repeat(numbers, channels);
  std::fill(sums, sums + 2 * channels, 0.0);
  moments(z, channels, length, numbers, numbers + stripe<T>(channels), sums);
  for (int64_t g = 0; g < groups; ++g) {
    Moments all;
    for (int64_t c = g * width; c < (g + 1) * width; ++c)
      all.add(Moments::of(double(length / channels), z[c], sums[c], sums[channels + c]));
    mean[g] = T(all.mean);
    inverse[g] = T(1 / std::sqrt(all.variance() + eps));
  }
}

// Stripes 3 and 4 of `normalize_back` for an image, where 0 to 2 are those of `norm_stripes`; what the image
// adds to the gradients of beta and gamma, (2, channel), is added to `total`.
// numbers: seven stripes and sums: 2 x channels, the rest of them to work in.
template <class T>
void group_slopes(const T* z, const T* dy, int64_t channels, int64_t length, int64_t groups, const T* gamma,
                  const T* inverse, bool rectified, T* numbers, double* sums, double* total) {
  const int64_t width = channels / groups, step = stripe<T>(channels);
  std::fill(sums, sums + 2 * channels, 0.0);
  gradient_moments(z, dy, channels, length, numbers, rectified, numbers + 5 * step, sums);
  const double count = double(length / channels * width);
  for (int64_t g = 0; g < groups; ++g) {
    double first = 0, second = 0;
    const double inv = inverse[g];
    for (int64_t c = g * width; c < (g + 1) * width; ++c) {
      const double factor = gamma ? double(gamma[c]) : 1.0;
      first += factor * sums[c], second += factor * sums[channels + c];
      total[c] += sums[c], total[channels + c] += inv * sums[channels + c];
    }
    std::fill_n(numbers + 3 * step + g * width, width, T(-inv * inv * inv * second / count));
    std::fill_n(numbers + 4 * step + g * width, width, T(-inv * first / count));
  }
  repeat(numbers + 3 * step, channels), repeat(numbers + 4 * step, channels);
}

}  // namespace esper
