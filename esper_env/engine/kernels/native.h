// What the kernels work on, without torch: pointers to contiguous rows, and how far the rows lie apart.
#pragma once
#include <cstdint>

namespace esper {

// One tensor with a row per network; step: values from row to row.
template <class T>
struct Rows {
  T* at = nullptr;
  int64_t step = 0;
  T* operator[](int64_t row) const { return at + row * step; }
  explicit operator bool() const { return at != nullptr; }
};

enum class Norm { none, batch, group };

// A convolution with all that follows it. Values are (row, sample, height, width, channel).
template <class T>
struct Unit {
  int threads;
  int64_t rows, samples, height, width, in, out, side;
  Norm norm;
  bool training;  // of batch normalization: with the batch's statistics
  bool relu;
  int64_t groups;
  double momentum, eps;
  Rows<const T> x, weight, bias, gamma, beta;  // bias, gamma and beta may be null
  Rows<T> running_mean, running_var;           // of batch normalization
  // mean and 1 / deviation: (row, out) or (row, sample, group)
  Rows<T> mean, inverse;
  T *z, *y;  // before and after norm and ReLU; the same when nothing is to be kept
};

template <class T>
struct UnitGradient {
  const T* dy;
  T* dx;                              // null if not wanted
  T *dweight, *dbias, *dgamma, *dbeta;  // contiguous; null if not wanted
};

template <class T>
void unit_forward(const Unit<T>& unit);
template <class T>
void unit_backward(const Unit<T>& unit, const UnitGradient<T>& gradient);

}  // namespace esper
