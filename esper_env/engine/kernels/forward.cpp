// Convolution, norm and ReLU, forward.
#include "group.h"
#include "pool.h"

namespace esper {
namespace {

template <class T>
class Forward {
 public:
  explicit Forward(const Unit<T>& unit)
      : u_(unit),
        at_(u_.height, u_.width, u_.side, u_.samples, Lanes<T>::count),
        parts_(u_.samples, at_.pixels(), at_.group),
        sample_(at_.pixels() * u_.out),
        result_(u_.pool ? (u_.height / 2) * (u_.width / 2) * u_.out : sample_),
        step_(stripe<T>(u_.out)) {}

  void run() {
    if (u_.norm == Norm::batch && u_.training) return with_statistics();
    if (u_.norm == Norm::batch && !folded()) running();
    parallel(u_.threads, u_.rows * parts_.count,
             [&](int64_t task) { convolve_part(task / parts_.count, task % parts_.count, nullptr); });
  }

 private:
  bool folded() const { return u_.norm == Norm::batch && !u_.training && (!u_.z || u_.z == u_.y); }

  void running() {
    for (int64_t row = 0; row < u_.rows; ++row)
      for (int64_t f = 0; f < u_.out; ++f) {
        u_.mean[row][f] = u_.running_mean[row][f];
        u_.inverse[row][f] = T(1 / std::sqrt(u_.running_var[row][f] + u_.eps));
      }
  }

  // The batch's statistics are known only after its last image: two passes over rows that stay in the caches.
  void with_statistics() {
    const int64_t block = rows_at_once(u_.rows, u_.samples * sample_ * sizeof(T), u_.threads);
    std::vector<Moments> moments(block * parts_.count * u_.out);
    for (int64_t first = 0; first < u_.rows; first += block) {
      const int64_t rows = std::min(block, u_.rows - first);
      parallel(u_.threads, rows * parts_.count, [&](int64_t task) {
        convolve_part(first + task / parts_.count, task % parts_.count, &moments[task * u_.out]);
      });
      for (int64_t row = 0; row < rows; ++row) finish(first + row, &moments[row * parts_.count * u_.out]);
      parallel(u_.threads, rows * parts_.count, [&](int64_t task) {
        Scratch& scratch = Scratch::mine();
        T *numbers = scratch.take<T>(3 * step_), *whole = scratch.take<T>(sample_);
        normalize_part(first + task / parts_.count, task % parts_.count, numbers, whole);
      });
    }
  }

  // A row's mean, 1 / deviation and running statistics from those of its parts, (part, feature).
  void finish(int64_t row, const Moments* parts) {
    for (int64_t f = 0; f < u_.out; ++f) {
      Moments all = parts[f];
      for (int64_t part = 1; part < parts_.count; ++part) all.add(parts[part * u_.out + f]);
      u_.mean[row][f] = T(all.mean);
      u_.inverse[row][f] = T(1 / std::sqrt(all.variance() + u_.eps));
      const double unbiased = std::max(all.squares / (all.count - 1), 0.0);
      T &mean = u_.running_mean[row][f], &var = u_.running_var[row][f];
      mean = T((1 - u_.momentum) * mean + u_.momentum * all.mean);
      var = T((1 - u_.momentum) * var + u_.momentum * unbiased);
    }
  }

  void stripes(int64_t row, const T* mean, const T* inverse, int64_t per_group, T* out) const {
    norm_stripes(u_.gamma[row], u_.beta[row], mean, inverse, per_group, u_.out, out);
  }

  T* before(int64_t row, int64_t sample) const { return u_.z + (row * u_.samples + sample) * sample_; }
  T* after(int64_t row, int64_t sample) const { return u_.y + (row * u_.samples + sample) * result_; }

  // From z to y for so many samples; `whole` holds one that is still to be pooled.
  void follow(const T* z, const T* numbers, int64_t count, T* whole, T* y) const {
    if (!u_.pool) return normalize(z, u_.out, count * sample_, numbers, u_.relu, y);
    for (int64_t i = 0; i < count; ++i) {
      normalize(z + i * sample_, u_.out, sample_, numbers, u_.relu, whole);
      pool_image(u_.height, u_.width, u_.out, whole, y + i * result_);
    }
  }

  void normalize_part(int64_t row, int64_t part, T* numbers, T* whole) const {
    stripes(row, u_.mean[row], u_.inverse[row], 1, numbers);
    const int64_t first = parts_.first(part);
    follow(before(row, first), numbers, parts_.length(part), whole, after(row, first));
  }

  // Weights in order and the bias of a row; with the running statistics in them if nobody needs z.
  bool weights(int64_t row, T* ordered, T* bias, T* scale) const {
    for (int64_t f = 0; f < u_.out; ++f) {
      bias[f] = u_.bias ? u_.bias[row][f] : T(0);
      scale[f] = 1;
      if (!folded()) continue;
      scale[f] = (u_.gamma ? u_.gamma[row][f] : T(1)) / std::sqrt(u_.running_var[row][f] + T(u_.eps));
      bias[f] = (bias[f] - u_.running_mean[row][f]) * scale[f] + (u_.beta ? u_.beta[row][f] : T(0));
    }
    order_weights(u_.weight[row], u_.out, u_.in, u_.side, false, folded() ? scale : nullptr, ordered);
    return u_.bias || folded();
  }

  // What a task works in.
  struct Desk {
    T *x, *z, *weights, *bias, *scale, *edges, *spare, *numbers, *whole;
    double* sums;
    bool biased;
  };

  Desk desk(int64_t row) const {
    Scratch& scratch = Scratch::mine();
    const int64_t x = u_.in * u_.side * at_.stride;
    Desk d{};
    d.x = scratch.take<T>(x), d.z = scratch.take<T>(u_.out * at_.stride);
    d.weights = scratch.take<T>(u_.out * u_.in * u_.side * u_.side);
    d.bias = scratch.take<T>(u_.out), d.scale = scratch.take<T>(u_.out);
    d.edges = scratch.take<T>(Edges<T>::size(at_));
    d.spare = scratch.take<T>(Lanes<T>::count * std::max(u_.in, u_.out));
    d.numbers = scratch.take<T>(6 * step_), d.whole = scratch.take<T>(at_.group * sample_);
    d.sums = scratch.take<double>(2 * u_.out);
    Edges<T>::fill(at_, d.edges);
    std::fill(d.x, d.x + x, T(0));
    std::fill(d.sums, d.sums + 2 * u_.out, 0.0);
    d.biased = weights(row, d.weights, d.bias, d.scale);
    return d;
  }

  // All of a part: into z, and if the norm needs no other part, into y.
  void convolve_part(int64_t row, int64_t part, Moments* moments) {
    const Desk d = desk(row);
    const int64_t last = parts_.first(part) + parts_.length(part);
    for (int64_t first = parts_.first(part), count; first < last; first += count) {
      count = std::min(at_.group, last - first);
      convolve_group(d, row, first, count);
      if (moments) add_moments(d, row, part, first, count);
    }
    if (moments) {
      const T* pivot = before(row, parts_.first(part));
      const double count = double(parts_.length(part) * at_.pixels());
      for (int64_t f = 0; f < u_.out; ++f)
        moments[f] = Moments::of(count, pivot[f], d.sums[f], d.sums[u_.out + f]);
    } else if (u_.norm == Norm::batch && !folded()) {
      normalize_part(row, part, d.numbers, d.whole);
    }
  }

  void convolve_group(const Desk& d, int64_t row, int64_t first, int64_t count) const {
    const bool plain = u_.norm == Norm::none || folded();
    pack(at_, u_.x[row] + first * at_.pixels() * u_.in, count, u_.in, int(u_.side), d.edges, d.spare, d.x);
    convolve(d.x + at_.start, at_.stride, u_.in, u_.side, at_.width, d.weights, d.biased ? d.bias : nullptr,
             plain && u_.relu, u_.out, at_.extent(count), d.z + at_.start, at_.stride);
    T* to = u_.z ? before(row, first) : d.whole;
    unpack(at_, d.z, count, u_.out, d.spare, to);
    for (int64_t i = 0; i < count; ++i) {
      if (plain && u_.pool) pool_image(u_.height, u_.width, u_.out, to + i * sample_, after(row, first + i));
      if (u_.norm == Norm::group) group_image(d, row, first + i);
    }
  }

  // Sums less the part's first pixel: near enough to the mean that nothing cancels.
  void add_moments(const Desk& d, int64_t row, int64_t part, int64_t first, int64_t count) const {
    const T* pivot = before(row, parts_.first(part));
    std::copy(pivot, pivot + u_.out, d.numbers);
    repeat(d.numbers, u_.out);
    moments(before(row, first), u_.out, count * sample_, d.numbers, d.numbers + step_, d.sums);
  }

  void group_image(const Desk& d, int64_t row, int64_t sample) const {
    const T* z = before(row, sample);
    T *mean = u_.mean[row] + sample * u_.groups, *inverse = u_.inverse[row] + sample * u_.groups;
    group_statistics(z, u_.out, sample_, u_.groups, u_.eps, d.numbers, d.sums, mean, inverse);
    stripes(row, mean, inverse, u_.out / u_.groups, d.numbers);
    follow(z, d.numbers, 1, d.whole, after(row, sample));
  }

  const Unit<T>& u_;
  const Layout at_;
  const Parts parts_;
  const int64_t sample_, result_, step_;  // values of a sample before and after, of a stripe
};

}  // namespace

template <class T>
void unit_forward(const Unit<T>& unit) {
  Forward<T>(unit).run();
}
template void unit_forward(const Unit<float>&);
template void unit_forward(const Unit<double>&);

}  // namespace esper
