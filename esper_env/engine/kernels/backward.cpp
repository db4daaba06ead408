// Gradients of convolution, norm and ReLU.
#include "group.h"
#include "pool.h"

namespace esper {
namespace {

template <class T>
class Backward {
 public:
  Backward(const Unit<T>& unit, const UnitGradient<T>& gradient)
      : u_(unit),
        g_(gradient),
        at_(u_.height, u_.width, u_.side, u_.samples, Lanes<T>::count),
        parts_(u_.samples, at_.pixels(), at_.group),
        sample_(at_.pixels() * u_.out),
        result_(u_.pool ? (u_.height / 2) * (u_.width / 2) * u_.out : sample_),
        step_(stripe<T>(u_.out)),
        taps_(u_.out * u_.in * u_.side * u_.side) {}

  void run() {
    const int64_t block = rows_at_once(u_.rows, 2 * u_.samples * sample_ * sizeof(T), u_.threads);
    channel_.assign(block * parts_.count * 3 * u_.out, 0.0);
    whole_.assign(block * 2 * u_.out, 0.0);
    if (g_.dweight) weight_.resize(block * parts_.count * taps_);
    for (first_ = 0; first_ < u_.rows; first_ += block) {
      const int64_t rows = std::min(block, u_.rows - first_), tasks = rows * parts_.count;
      std::fill(channel_.begin(), channel_.end(), 0.0);
      if (u_.norm == Norm::batch) {
        parallel(u_.threads, tasks, [&](int64_t task) { statistics_part(task); });
        for (int64_t row = 0; row < rows; ++row) sum_parts(row, 2 * u_.out, &whole_[row * 2 * u_.out]);
      }
      parallel(u_.threads, tasks, [&](int64_t task) { part(task); });
      parallel(u_.threads, rows, [&](int64_t row) { finish(row); });
    }
  }

 private:
  // Gradients by channel of a part: of beta, of gamma (of batch normalization not yet divided by the
  // deviation) and of the bias.
  double* channel(int64_t task) { return &channel_[task * 3 * u_.out]; }
  int64_t row_of(int64_t task) const { return first_ + task / parts_.count; }
  int64_t begin(int64_t task) const { return parts_.first(task % parts_.count); }
  int64_t length(int64_t task) const { return parts_.length(task % parts_.count); }
  const T* z(int64_t row, int64_t sample) const { return u_.z + (row * u_.samples + sample) * sample_; }
  const T* dy(int64_t row, int64_t sample) const { return g_.dy + (row * u_.samples + sample) * result_; }

  // Gradient of a sample before it was pooled, where it was; `whole` holds two samples.
  const T* unpooled(const T* z, const T* dy, const T* numbers, T* whole) const {
    if (!u_.pool) return dy;
    const T* y = z;
    if (u_.norm != Norm::none) normalize(z, u_.out, sample_, numbers, u_.relu, whole), y = whole;
    pool_image_back(u_.height, u_.width, u_.out, y, dy, whole + sample_);
    return whole + sample_;
  }

  void sum_parts(int64_t row, int64_t count, double* out) {
    std::fill(out, out + count, 0.0);
    for (int64_t part = 0; part < parts_.count; ++part)
      for (int64_t i = 0; i < count; ++i) out[i] += channel(row * parts_.count + part)[i];
  }

  void statistics_part(int64_t task) {
    Scratch& scratch = Scratch::mine();
    T *numbers = scratch.take<T>(7 * step_), *whole = scratch.take<T>(2 * sample_);
    const int64_t row = row_of(task);
    stripes(row, u_.mean[row], u_.inverse[row], 1, numbers);
    // Sample by sample, whether there is a pool or not: so both ways have the same bits.
    for (int64_t i = begin(task); i < begin(task) + length(task); ++i)
      gradient_moments(z(row, i), unpooled(z(row, i), dy(row, i), numbers, whole), u_.out, sample_, numbers,
                       u_.relu, numbers + 5 * step_, channel(task));
  }

  // Without a norm 0, 1 and 0.
  void stripes(int64_t row, const T* mean, const T* inverse, int64_t per_group, T* out) const {
    norm_stripes(u_.gamma[row], u_.beta[row], mean, inverse, per_group, u_.out, out);
  }

  // Stripes of what else the gradient of a norm consists of: slope and offset.
  void slopes(int64_t row, T* out) const {
    std::fill(out + 3 * step_, out + 5 * step_, T(0));
    if (u_.norm != Norm::batch || !u_.training) return;
    const double count = double(u_.samples * at_.pixels());
    const double* sums = &whole_[(row - first_) * 2 * u_.out];
    for (int64_t f = 0; f < u_.out; ++f) {
      const double factor = out[step_ + f], inverse = u_.inverse[row][f];
      out[3 * step_ + f] = T(-factor * inverse * inverse * sums[u_.out + f] / count);
      out[4 * step_ + f] = T(-factor * sums[f] / count);
    }
    repeat(out + 3 * step_, u_.out), repeat(out + 4 * step_, u_.out);
  }

  // What a task works in.
  struct Desk {
    T *x, *dz, *dx, *products, *weights, *edges, *spare, *numbers, *images, *whole;
    double* sums;
    int64_t row, x_size, dz_size;
    int columns;  // copies of dz's planes
  };

  Desk desk(int64_t task) const {
    Scratch& scratch = Scratch::mine();
    const bool wgrad = g_.dweight, dgrad = g_.dx;
    Desk d{};
    d.row = row_of(task), d.columns = dgrad ? int(u_.side) : 1;
    d.x_size = wgrad ? u_.in * u_.side * at_.stride : 0, d.dz_size = u_.out * d.columns * at_.stride;
    d.x = scratch.take<T>(d.x_size), d.dz = scratch.take<T>(d.dz_size);
    d.dx = scratch.take<T>(dgrad ? u_.in * at_.stride : 0);
    d.products = scratch.take<T>(wgrad ? taps_ * Lanes<T>::count : 0), d.weights = scratch.take<T>(taps_);
    d.edges = scratch.take<T>(Edges<T>::size(at_));
    d.spare = scratch.take<T>(Lanes<T>::count * std::max(u_.in, u_.out)),
    d.numbers = scratch.take<T>(7 * step_);
    d.images = scratch.take<T>(at_.group * sample_), d.whole = scratch.take<T>(2 * sample_);
    d.sums = scratch.take<double>(2 * u_.out);
    Edges<T>::fill(at_, d.edges);
    if (wgrad) std::fill(d.products, d.products + taps_ * Lanes<T>::count, T(0));
    if (dgrad)
      order_weights(u_.weight[d.row], u_.out, u_.in, u_.side, true, static_cast<const T*>(nullptr),
                    d.weights);
    if (u_.norm != Norm::group) {
      const bool normed = u_.norm == Norm::batch;
      stripes(d.row, normed ? u_.mean[d.row] : nullptr, normed ? u_.inverse[d.row] : nullptr, 1, d.numbers);
      slopes(d.row, d.numbers);
    }
    return d;
  }

  // dz of one image of group normalization; its part of the gradients of gamma and beta is added to `total`.
  void group_image(const Desk& d, int64_t sample, double* total, T* dz) const {
    const T *own = z(d.row, sample), *mean = u_.mean[d.row] + sample * u_.groups;
    const T* inverse = u_.inverse[d.row] + sample * u_.groups;
    stripes(d.row, mean, inverse, u_.out / u_.groups, d.numbers);
    const T* gradient = unpooled(own, dy(d.row, sample), d.numbers, d.whole);
    group_slopes(own, gradient, u_.out, sample_, u_.groups, u_.gamma[d.row], inverse, u_.relu, d.numbers,
                 d.sums, total);
    normalize_back(own, gradient, u_.out, sample_, d.numbers, u_.relu, dz);
  }

  // Gradient before norm and ReLU of a group of images.
  const T* before(const Desk& d, int64_t task, int64_t first, int64_t count) {
    const int64_t together = u_.pool ? 1 : count;
    if (u_.norm == Norm::none && !u_.relu && !u_.pool) return dy(d.row, first);
    if (u_.norm == Norm::group) {
      for (int64_t i = 0; i < count; ++i) group_image(d, first + i, channel(task), d.images + i * sample_);
      return d.images;
    }
    for (int64_t i = 0; i < count; i += together) {
      const T *own = z(d.row, first + i), *gradient = unpooled(own, dy(d.row, first + i), d.numbers, d.whole);
      normalize_back(own, gradient, u_.out, together * sample_, d.numbers, u_.relu, d.images + i * sample_);
    }
    return d.images;
  }

  // Everything of a part of a row, group of images after group.
  void part(int64_t task) {
    const Desk d = desk(task);
    const int64_t last = begin(task) + length(task);
    for (int64_t first = begin(task), count; first < last; first += count) {
      count = std::min(at_.group, last - first);
      // A smaller last group must not see images of the one before.
      if (first == begin(task) || count < at_.group)
        std::fill(d.x, d.x + d.x_size, T(0)), std::fill(d.dz, d.dz + d.dz_size, T(0));
      pack(at_, before(d, task, first, count), count, u_.out, d.columns, d.edges, d.spare, d.dz);
      group(d, task, first, count);
    }
    if (g_.dweight)
      collect<T>(reinterpret_cast<const Vec<T>*>(d.products), u_.out, u_.in, u_.side, &weight_[task * taps_]);
  }

  // Gradients of bias, weights and input from dz's planes.
  void group(const Desk& d, int64_t task, int64_t first, int64_t count) {
    const T* center = d.dz + at_.start + (d.columns / 2) * at_.stride;
    const int64_t at = first * at_.pixels() * u_.in;
    if (g_.dbias) add_planes(center, d.columns, count, channel(task) + 2 * u_.out);
    if (g_.dweight) {
      pack(at_, u_.x[d.row] + at, count, u_.in, int(u_.side), d.edges, d.spare, d.x);
      correlate(center, d.columns * at_.stride, d.x + at_.start, at_.stride, u_.in, u_.side, at_.width,
                u_.out, at_.extent(count), reinterpret_cast<Vec<T>*>(d.products));
    }
    if (g_.dx) {
      convolve(d.dz + at_.start, at_.stride, u_.out, u_.side, at_.width, d.weights,
               static_cast<const T*>(nullptr), false, u_.in, at_.extent(count), d.dx + at_.start, at_.stride);
      unpack(at_, d.dx, count, u_.in, d.spare, g_.dx + d.row * u_.samples * at_.pixels() * u_.in + at);
    }
  }

  // Adds the sums of dz's planes.
  void add_planes(const T* dz, int columns, int64_t count, double* out) const {
    for (int64_t f = 0; f < u_.out; ++f, dz += columns * at_.stride) {
      Vec<T> sum = {};
      for (int64_t i = 0; i < at_.extent(count); i += Lanes<T>::count) sum += load(dz + i);
      for (int lane = 0; lane < Lanes<T>::count; ++lane) out[f] += sum[lane];
    }
  }

  // A row's gradients of parameters from those of its parts, in their order.
  void finish(int64_t row) {
    std::vector<double> sums(3 * u_.out);
    sum_parts(row, 3 * u_.out, sums.data());
    const int64_t to = (first_ + row) * u_.out;
    for (int64_t f = 0; f < u_.out; ++f) {
      const double inverse = u_.norm == Norm::batch ? double(u_.inverse[first_ + row][f]) : 1.0;
      if (g_.dbeta) g_.dbeta[to + f] = T(sums[f]);
      if (g_.dgamma) g_.dgamma[to + f] = T(sums[u_.out + f] * inverse);
      if (g_.dbias) g_.dbias[to + f] = T(sums[2 * u_.out + f]);
    }
    if (!g_.dweight) return;
    double* weight = &weight_[row * parts_.count * taps_];
    for (int64_t p = 1; p < parts_.count; ++p)
      for (int64_t i = 0; i < taps_; ++i) weight[i] += weight[p * taps_ + i];
    std::copy(weight, weight + taps_, g_.dweight + (first_ + row) * taps_);
  }

  const Unit<T>& u_;
  const UnitGradient<T>& g_;
  const Layout at_;
  const Parts parts_;
  const int64_t sample_, result_, step_, taps_;
  int64_t first_ = 0;                    // row of the block being worked on
  std::vector<double> channel_, whole_, weight_;  // (row, part, 3 out), (row, 2 out), (row, part, taps)
};

}  // namespace

template <class T>
void unit_backward(const Unit<T>& unit, const UnitGradient<T>& gradient) {
  Backward<T>(unit, gradient).run();
}
template void unit_backward(const Unit<float>&, const UnitGradient<float>&);
template void unit_backward(const Unit<double>&, const UnitGradient<double>&);

}  // namespace esper
