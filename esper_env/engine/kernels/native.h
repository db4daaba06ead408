// What the kernels work on, without torch: pointers to contiguous rows, and how far the rows lie apart.
#pragma once
#include <cstdint>
#include <vector>

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
  bool training;    // of batch normalization: with the batch's statistics
  bool relu, pool;  // pool: at last the largest value of every 2 x 2 pixels
  int64_t groups;
  double momentum, eps;
  Rows<const T> x, weight, bias, gamma, beta;  // bias, gamma and beta may be null
  Rows<T> running_mean, running_var;           // of batch normalization
  // mean and 1 / deviation: (row, out) or (row, sample, group)
  Rows<T> mean, inverse;
  // Before and after all that follows. If nothing is to be kept, z is y or, where it is pooled and needs no
  // statistics, null. Without a norm z is after the ReLU.
  T *z, *y;
};

template <class T>
struct UnitGradient {
  const T* dy;
  T* dx;                                // null if not wanted
  T *dweight, *dbias, *dgamma, *dbeta;  // contiguous; null if not wanted
};

template <class T>
void unit_forward(const Unit<T>& unit);
template <class T>
void unit_backward(const Unit<T>& unit, const UnitGradient<T>& gradient);

// Values (count, height, width, channel).
struct Images {
  int threads;
  int64_t count, height, width, channels;
};

// Width and height at least 2.
template <class T>
void pool_forward(const Images& at, const T* x, T* y);
template <class T>
void pool_backward(const Images& at, const T* x, const T* dy, T* dx);

// A convolution of each channel by itself.
template <class T>
struct Channelwise {
  int threads;
  int64_t rows, samples, height, width, channels, side;
  Rows<const T> weight;  // (channel, side, side)
};

template <class T>
void depthwise_forward(const Channelwise<T>& work, const T* x, T* y);
// dx and dweight (row, channel, side, side) may be null.
template <class T>
void depthwise_backward(const Channelwise<T>& work, const T* x, const T* dy, T* dx, T* dweight);

// Group normalization by itself; with `less` the value itself is subtracted from the result.
template <class T>
struct Normed {
  int threads;
  int64_t rows, samples, pixels, channels, groups;
  double eps;
  bool less;
  Rows<const T> gamma, beta;  // (channel)
  T *mean, *inverse;          // (row, sample, group)
};

template <class T>
void group_norm_forward(const Normed<T>& work, const T* x, T* y);
// dx, dgamma and dbeta (row, channel) may be null.
template <class T>
void group_norm_backward(const Normed<T>& work, const T* x, const T* dy, T* dx, T* dgamma, T* dbeta);

// Mean over pixels, (count, channel), and the product with factors (count, channel).
template <class T>
void mean_forward(const Images& at, const T* x, T* y);
template <class T>
void mean_backward(const Images& at, const T* dy, T* dx);
template <class T>
void scale_forward(const Images& at, const T* x, const T* factor, T* y);
// dx and dfactor may be null.
template <class T>
void scale_backward(const Images& at, const T* x, const T* factor, const T* dy, T* dx, T* dfactor);

enum class Activation { logistic, silu };

template <class T>
void activation_forward(int threads, Activation kind, int64_t size, const T* x, T* y);
template <class T>
void activation_backward(int threads, Activation kind, int64_t size, const T* x, const T* dy, T* dx);

// What a module adds to the value h of its row: alpha d, alpha gate d or alpha h tanh(d); and the places of
// its gradients, which may be null.
template <class T>
struct Share {
  T alpha = 0;
  bool multiplies = false;
  const T *h = nullptr, *d = nullptr, *gate = nullptr;  // (sample, size); gate (sample)
  T *dh = nullptr, *dd = nullptr, *dgate = nullptr;
};

// A share for each row of a value (row, sample, size).
template <class T>
struct Mixture {
  int threads;
  int64_t samples, size;
  const std::vector<Share<T>>& shares;
};

template <class T>
void mix_forward(const Mixture<T>& work, Rows<const T> x, T* y);
template <class T>
void mix_backward(const Mixture<T>& work, const T* dy);

// Images to be cut out of images (height, width, channel); down is null for whole ones.
struct Crops {
  int threads;
  int64_t count, height, width, channels, padding;
  const uint8_t* images;
  const int64_t *index, *down, *right, *mirror;
};

// out = (gray level - shift) * scale, both (channel).
template <class T>
void crop_images(const Crops& at, const T* shift, const T* scale, T* out);

// A step of descent. `squares` (row, tensor) is added to.
template <class T>
struct Descent {
  struct Part {
    int64_t tensor, start, size;
    Rows<const T> gradient;
  };
  int threads;
  int64_t rows;
  Rows<T> values, momenta, squares;
  std::vector<Part> parts;
  const T* lr;
  double momentum, decay, clip_norm;
};

template <class T>
void descend(const Descent<T>& work);

}  // namespace esper
