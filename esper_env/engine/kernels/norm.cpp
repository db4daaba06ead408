// Group normalization by itself.
#include "group.h"

namespace esper {
namespace {

template <class T>
class Norms {
 public:
  explicit Norms(const Normed<T>& work)
      : w_(work),
        size_(w_.pixels * w_.channels),
        step_(stripe<T>(w_.channels)),
        parts_(w_.samples, w_.pixels, 1) {}

  void forward(const T* x, T* y) const {
    each_part([&](int64_t task, int64_t row, const Desk& d, int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const T* own = x + i * size_;
        T *mean = w_.mean + i * w_.groups, *inverse = w_.inverse + i * w_.groups, *to = y + i * size_;
        group_statistics(own, w_.channels, size_, w_.groups, w_.eps, d.numbers, d.sums, mean, inverse);
        stripes(row, i, d.numbers);
        normalize(own, w_.channels, size_, d.numbers, false, to);
        if (w_.less)
          for (int64_t at = 0; at < size_; ++at) to[at] -= own[at];
      }
    });
  }

  void backward(const T* x, const T* dy, T* dx, T* dgamma, T* dbeta) const {
    const int64_t both = 2 * w_.channels;
    std::vector<double> sums(w_.rows * parts_.count * both, 0.0);
    each_part([&](int64_t task, int64_t row, const Desk& d, int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const T *own = x + i * size_, *gradient = dy + i * size_;
        stripes(row, i, d.numbers);
        group_slopes(own, gradient, w_.channels, size_, w_.groups, w_.gamma[row], w_.inverse + i * w_.groups,
                     false, d.numbers, d.sums, &sums[task * both]);
        if (!dx) continue;
        T* to = dx + i * size_;
        normalize_back(own, gradient, w_.channels, size_, d.numbers, false, to);
        if (w_.less)
          for (int64_t at = 0; at < size_; ++at) to[at] -= gradient[at];
      }
    });
    for (int64_t row = 0; row < w_.rows; ++row)
      for (int64_t c = 0; c < w_.channels; ++c) {
        double beta = 0, gamma = 0;
        for (int64_t part = 0; part < parts_.count; ++part) {
          const double* own = &sums[(row * parts_.count + part) * both];
          beta += own[c], gamma += own[w_.channels + c];
        }
        if (dbeta) dbeta[row * w_.channels + c] = T(beta);
        if (dgamma) dgamma[row * w_.channels + c] = T(gamma);
      }
  }

 private:
  struct Desk {
    T* numbers;
    double* sums;
  };

  // f(task, row, desk, first image, last image + 1) for every part of every row.
  template <class F>
  void each_part(const F& f) const {
    parallel(w_.threads, w_.rows * parts_.count, [&](int64_t task) {
      Scratch& scratch = Scratch::mine();
      const Desk desk{scratch.take<T>(7 * step_), scratch.take<double>(2 * w_.channels)};
      const int64_t row = task / parts_.count, part = task % parts_.count;
      const int64_t first = row * w_.samples + parts_.first(part);
      f(task, row, desk, first, first + parts_.length(part));
    });
  }

  void stripes(int64_t row, int64_t image, T* out) const {
    norm_stripes<T>(w_.gamma[row], w_.beta[row], w_.mean + image * w_.groups,
                    w_.inverse + image * w_.groups, w_.channels / w_.groups, w_.channels, out);
  }

  const Normed<T>& w_;
  const int64_t size_, step_;
  const Parts parts_;
};

}  // namespace

template <class T>
void group_norm_forward(const Normed<T>& work, const T* x, T* y) {
  Norms<T>(work).forward(x, y);
}
template <class T>
void group_norm_backward(const Normed<T>& work, const T* x, const T* dy, T* dx, T* dgamma, T* dbeta) {
  Norms<T>(work).backward(x, dy, dx, dgamma, dbeta);
}

template void group_norm_forward(const Normed<float>&, const float*, float*);
template void group_norm_forward(const Normed<double>&, const double*, double*);
template void group_norm_backward(const Normed<float>&, const float*, const float*, float*, float*, float*);
template void group_norm_backward(const Normed<double>&, const double*, const double*, double*, double*,
                                  double*);

}  // namespace esper
