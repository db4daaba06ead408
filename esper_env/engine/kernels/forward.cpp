// Convolution, norm and ReLU, forward.
#include "unit.h"

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
        step_(stripe<T>(u_.out)) {}

  void run() {
    if (u_.norm == Norm::batch && u_.training) return with_statistics();
    if (u_.norm == Norm::batch && !folded()) running();
    parallel(u_.threads, u_.rows * parts_.count, [&](int64_t task) {
      convolve_part(task / parts_.count, task % parts_.count, nullptr);
    });
  }

 private:
  bool folded() const { return u_.norm == Norm::batch && !u_.training && u_.z == u_.y; }

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
        scratch.reserve(Scratch::size<T>(3 * step_));
        normalize_part(first + task / parts_.count, task % parts_.count, scratch.take<T>(3 * step_));
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

  // Stripes of mean, factor and beta of a row, normalized by the numbers given.
  void stripes(int64_t row, const T* mean, const T* inverse, int64_t per_group, T* out) const {
    for (int64_t f = 0; f < u_.out; ++f) {
      out[f] = mean[f / per_group];
      out[step_ + f] = (u_.gamma ? u_.gamma[row][f] : T(1)) * inverse[f / per_group];
      out[2 * step_ + f] = u_.beta ? u_.beta[row][f] : T(0);
    }
    for (int i = 0; i < 3; ++i) repeat(out + i * step_, u_.out);
  }

  T* values(T* of, int64_t row, int64_t sample) const { return of + (row * u_.samples + sample) * sample_; }

  void normalize_part(int64_t row, int64_t part, T* numbers) const {
    stripes(row, u_.mean[row], u_.inverse[row], 1, numbers);
    const int64_t first = parts_.first(part);
    normalize(values(u_.z, row, first), u_.out, parts_.length(part) * sample_, numbers, u_.relu,
              values(u_.y, row, first));
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

  // All of a part: into z, and if the norm needs no other part, into y.
  void convolve_part(int64_t row, int64_t part, Moments* moments) {
    constexpr int n = Lanes<T>::count;
    const int64_t in = u_.in * u_.side * at_.stride, out = u_.out * at_.stride, most = std::max(u_.in, u_.out);
    const int64_t taps = u_.out * u_.in * u_.side * u_.side;
    Scratch& scratch = Scratch::mine();
    scratch.reserve(Scratch::size<T>(in) + Scratch::size<T>(out) + Scratch::size<T>(taps) +
                    2 * Scratch::size<T>(u_.out) + Scratch::size<T>(Edges<T>::size(at_)) +
                    Scratch::size<T>(n * most) + Scratch::size<T>(6 * step_) + Scratch::size<double>(2 * u_.out));
    T *x = scratch.take<T>(in), *z = scratch.take<T>(out), *ordered = scratch.take<T>(taps);
    T *bias = scratch.take<T>(u_.out), *scale = scratch.take<T>(u_.out);
    T *edges = scratch.take<T>(Edges<T>::size(at_)), *spare = scratch.take<T>(n * most);
    T* numbers = scratch.take<T>(6 * step_);
    double* sums = scratch.take<double>(2 * u_.out);
    Edges<T>::fill(at_, edges);
    const bool biased = weights(row, ordered, bias, scale), plain = u_.norm == Norm::none || folded();
    std::fill(x, x + in, T(0));
    std::fill(sums, sums + 2 * u_.out, 0.0);
    const int64_t last = parts_.first(part) + parts_.length(part);
    const T* pivot = values(u_.z, row, parts_.first(part));
    for (int64_t first = parts_.first(part), count; first < last; first += count) {
      count = std::min(at_.group, last - first);
      pack(at_, u_.x[row] + first * at_.pixels() * u_.in, count, u_.in, int(u_.side), edges, spare, x);
      convolve(x + at_.start, at_.stride, u_.in, u_.side, at_.width, ordered, biased ? bias : nullptr,
               plain && u_.relu, u_.out, at_.extent(count), z + at_.start, at_.stride);
      T* to = values(plain ? u_.y : u_.z, row, first);
      unpack(at_, z, count, u_.out, spare, to);
      if (u_.norm == Norm::group) {
        for (int64_t image = 0; image < count; ++image) group_image(row, first + image, numbers, sums);
      } else if (moments) {
        std::copy(pivot, pivot + u_.out, numbers);
        repeat(numbers, u_.out);
        esper::moments(to, u_.out, count * sample_, numbers, numbers + step_, sums);
      }
    }
    if (moments) {
      const double count = double(parts_.length(part) * at_.pixels());
      for (int64_t f = 0; f < u_.out; ++f) moments[f] = Moments::of(count, pivot[f], sums[f], sums[u_.out + f]);
    } else if (u_.norm == Norm::batch && !folded()) {
      normalize_part(row, part, numbers);
    }
  }

  // Group normalization of one image.
  void group_image(int64_t row, int64_t sample, T* numbers, double* sums) const {
    const T* z = values(u_.z, row, sample);
    std::copy(z, z + u_.out, numbers);
    repeat(numbers, u_.out);
    std::fill(sums, sums + 2 * u_.out, 0.0);
    moments(z, u_.out, sample_, numbers, numbers + step_, sums);
    const int64_t width = u_.out / u_.groups;
    T *mean = u_.mean[row] + sample * u_.groups, *inverse = u_.inverse[row] + sample * u_.groups;
    for (int64_t g = 0; g < u_.groups; ++g) {
      Moments all;
      for (int64_t f = g * width; f < (g + 1) * width; ++f)
        all.add(Moments::of(double(at_.pixels()), z[f], sums[f], sums[u_.out + f]));
      mean[g] = T(all.mean);
      inverse[g] = T(1 / std::sqrt(all.variance() + u_.eps));
    }
    stripes(row, mean, inverse, width, numbers);
    normalize(z, u_.out, sample_, numbers, u_.relu, values(u_.y, row, sample));
  }

  const Unit<T>& u_;
  const Layout at_;
  const Parts parts_;
  const int64_t sample_, step_;  // values of a sample, of a stripe
};

}  // namespace

template <class T>
void unit_forward(const Unit<T>& unit) {
  Forward<T>(unit).run();
}
template void unit_forward(const Unit<float>&);
template void unit_forward(const Unit<double>&);

}  // namespace esper
