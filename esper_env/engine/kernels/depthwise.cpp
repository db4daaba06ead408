// Convolution of each channel by itself, and its gradients: lanes are channels.
#include <vector>

#include "unit.h"

namespace esper {
namespace {

template <class T>
class Depthwise {
 public:
  static constexpr int n = Lanes<T>::count;

  explicit Depthwise(const Channelwise<T>& work)
      : w_(work),
        pad_(w_.side / 2),
        taps_(w_.side * w_.side),
        step_(stripe<T>(w_.channels)),
        line_(w_.width * w_.channels),
        bordered_((w_.width + 2 * pad_) * w_.channels),
        padded_((w_.height + 2 * pad_) * bordered_ + n),
        parts_(w_.samples, w_.height * w_.width, 1) {}

  // to = the images `from` convolved with the weights, turned round for the gradient of the input.
  void values(const T* from, bool flip, T* to) const {
    parallel(w_.threads, w_.rows * parts_.count, [&](int64_t task) {
      const int64_t row = task / parts_.count, part = task % parts_.count;
      auto [stripes, padded] = memory();
      for (int64_t tap = 0; tap < taps_; ++tap) {
        for (int64_t c = 0; c < w_.channels; ++c)
          stripes[tap * step_ + c] = w_.weight[row][c * taps_ + (flip ? taps_ - 1 - tap : tap)];
        repeat(stripes + tap * step_, w_.channels);
      }
      each_line(row, part, from, padded, [&](const T* x, int64_t at) { line(x, stripes, to + at); });
    });
  }

  // Gradient of the weights, (row, channel, side, side), of the images x and of the result.
  void weights(const T* x, const T* dy, T* out) const {
    const int64_t size = w_.channels * taps_;
    std::vector<double> sums(w_.rows * parts_.count * size, 0.0);
    parallel(w_.threads, w_.rows * parts_.count, [&](int64_t task) {
      auto [stripes, padded] = memory();
      std::fill(stripes, stripes + taps_ * step_, T(0));
      int64_t lines = 0;
      each_line(task / parts_.count, task % parts_.count, x, padded,
                [&, s = stripes](const T* from, int64_t at) {
                  products(from, dy + at, s);
                  if (++lines % w_.height) return;
                  for (int64_t tap = 0; tap < taps_; ++tap)  // no float sum is longer than an image
                    add_up(s + tap * step_, w_.channels, &sums[task * size + tap * w_.channels]);
                  std::fill(s, s + taps_ * step_, T(0));
                });
    });
    for (int64_t row = 0; row < w_.rows; ++row)
      for (int64_t i = 0; i < size; ++i) {
        double sum = 0;
        for (int64_t part = 0; part < parts_.count; ++part)
          sum += sums[(row * parts_.count + part) * size + i];
        out[row * size + i % w_.channels * taps_ + i / w_.channels] = T(sum);
      }
  }

 private:
  // A stripe per tap, and one image within a border of zeros.
  std::pair<T*, T*> memory() const {
    Scratch& scratch = Scratch::mine();
    T *stripes = scratch.take<T>(taps_ * step_), *padded = scratch.take<T>(padded_);
    std::fill(padded, padded + padded_, T(0));
    return {stripes, padded};
  }

  // Calls f(first pixel under the filter, index of the line) for every line of a part's images.
  template <class F>
  void each_line(int64_t row, int64_t part, const T* images, T* padded, const F& f) const {
    for (int64_t i = 0; i < parts_.length(part); ++i) {
      const int64_t first = (row * w_.samples + parts_.first(part) + i) * w_.height * line_;
      T* inside = padded + pad_ * bordered_ + pad_ * w_.channels;
      for (int64_t h = 0; h < w_.height; ++h)
        std::memcpy(inside + h * bordered_, images + first + h * line_, line_ * sizeof(T));
      for (int64_t h = 0; h < w_.height; ++h) f(padded + h * bordered_, first + h * line_);
    }
  }

  void line(const T* x, const T* stripes, T* to) const {
    for (int64_t at = 0; at < line_; at += n) {
      Vec<T> sum = {};
      const T* weight = stripes + at % step_;
      for (int64_t i = 0; i < w_.side; ++i)
        for (int64_t j = 0; j < w_.side; ++j, weight += step_)
          sum += load(x + i * bordered_ + j * w_.channels + at) * load(weight);
      if (at + n <= line_)
        store(to + at, sum);
      else
        std::memcpy(to + at, &sum, (line_ - at) * sizeof(T));
    }
  }

  void products(const T* x, const T* dy, T* stripes) const {
    for (int64_t at = 0; at < line_; at += n) {
      Vec<T> g = {};
      std::memcpy(&g, dy + at, std::min<int64_t>(n, line_ - at) * sizeof(T));
      T* sum = stripes + at % step_;
      for (int64_t i = 0; i < w_.side; ++i)
        for (int64_t j = 0; j < w_.side; ++j, sum += step_)
          store<T>(sum, load<T>(sum) + g * load(x + i * bordered_ + j * w_.channels + at));
    }
  }

  const Channelwise<T>& w_;
  const int64_t pad_, taps_, step_, line_, bordered_, padded_;
  const Parts parts_;
};

}  // namespace

template <class T>
void depthwise_forward(const Channelwise<T>& work, const T* x, T* y) {
  Depthwise<T>(work).values(x, false, y);
}

template <class T>
void depthwise_backward(const Channelwise<T>& work, const T* x, const T* dy, T* dx, T* dweight) {
  const Depthwise<T> own(work);
  if (dx) own.values(dy, true, dx);
  if (dweight) own.weights(x, dy, dweight);
}

template void depthwise_forward(const Channelwise<float>&, const float*, float*);
template void depthwise_forward(const Channelwise<double>&, const double*, double*);
template void depthwise_backward(const Channelwise<float>&, const float*, const float*, float*, float*);
template void depthwise_backward(const Channelwise<double>&, const double*, const double*, double*, double*);

}  // namespace esper
