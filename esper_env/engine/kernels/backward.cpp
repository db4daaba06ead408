// Gradients of convolution, norm and ReLU.
#include "unit.h"

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
  // Gradients by channel of a part: of beta, of gamma (of batch normalization not yet divided by the deviation)
  // and of the bias.
  double* channel(int64_t task) { return &channel_[task * 3 * u_.out]; }
  int64_t row_of(int64_t task) const { return first_ + task / parts_.count; }
  int64_t begin(int64_t task) const { return parts_.first(task % parts_.count); }
  int64_t length(int64_t task) const { return parts_.length(task % parts_.count); }
  const T* values(const T* of, int64_t row, int64_t sample) const {
    return of + (row * u_.samples + sample) * sample_;
  }

  void sum_parts(int64_t row, int64_t count, double* out) {
    std::fill(out, out + count, 0.0);
    for (int64_t part = 0; part < parts_.count; ++part)
      for (int64_t i = 0; i < count; ++i) out[i] += channel(row * parts_.count + part)[i];
  }

  void statistics_part(int64_t task) {
    Scratch& scratch = Scratch::mine();
    scratch.reserve(Scratch::size<T>(7 * step_));
    T* numbers = scratch.take<T>(7 * step_);
    const int64_t row = row_of(task);
    stripes(row, u_.mean[row], u_.inverse[row], 1, numbers);
    gradient_moments(values(u_.z, row, begin(task)), values(g_.dy, row, begin(task)), u_.out,
                     length(task) * sample_, numbers, u_.relu, numbers + 5 * step_, channel(task));
  }

  // Stripes of mean, factor and beta; without a norm 0, 1 and 0.
  void stripes(int64_t row, const T* mean, const T* inverse, int64_t per_group, T* out) const {
    for (int64_t f = 0; f < u_.out; ++f) {
      out[f] = mean ? mean[f / per_group] : T(0);
      out[step_ + f] = (u_.gamma ? u_.gamma[row][f] : T(1)) * (inverse ? inverse[f / per_group] : T(1));
      out[2 * step_ + f] = u_.beta ? u_.beta[row][f] : T(0);
    }
    for (int i = 0; i < 3; ++i) repeat(out + i * step_, u_.out);
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

  // dz of one image of group normalization.
  void group_image(int64_t row, int64_t sample, T* numbers, double* sums, double* total, T* dz) const {
    const int64_t width = u_.out / u_.groups;
    const T *z = values(u_.z, row, sample), *dy = values(g_.dy, row, sample);
    const T *mean = u_.mean[row] + sample * u_.groups, *inverse = u_.inverse[row] + sample * u_.groups;
    stripes(row, mean, inverse, width, numbers);
    std::fill(sums, sums + 2 * u_.out, 0.0);
    gradient_moments(z, dy, u_.out, sample_, numbers, u_.relu, numbers + 5 * step_, sums);
    const double count = double(at_.pixels() * width);
    for (int64_t g = 0; g < u_.groups; ++g) {
      double first = 0, second = 0;
      const double inv = inverse[g];
      for (int64_t f = g * width; f < (g + 1) * width; ++f) {
        const double gamma = u_.gamma ? double(u_.gamma[row][f]) : 1.0;
        first += gamma * sums[f], second += gamma * sums[u_.out + f];
        total[f] += sums[f], total[u_.out + f] += inv * sums[u_.out + f];
      }
      for (int64_t f = g * width; f < (g + 1) * width; ++f) {
        numbers[3 * step_ + f] = T(-inv * inv * inv * second / count);
        numbers[4 * step_ + f] = T(-inv * first / count);
      }
    }
    repeat(numbers + 3 * step_, u_.out), repeat(numbers + 4 * step_, u_.out);
    normalize_back(z, dy, u_.out, sample_, numbers, u_.relu, dz);
  }

  // Gradient before norm and ReLU of a group of images.
  const T* before(int64_t task, int64_t first, int64_t count, T* numbers, double* sums, T* dz) {
    const int64_t row = row_of(task);
    const T* dy = values(g_.dy, row, first);
    if (u_.norm == Norm::group) {
      for (int64_t i = 0; i < count; ++i)
        group_image(row, first + i, numbers, sums, channel(task), dz + i * sample_);
      return dz;
    }
    if (u_.norm == Norm::none && !u_.relu) return dy;
    normalize_back(values(u_.z, row, first), dy, u_.out, count * sample_, numbers, u_.relu, dz);
    return dz;
  }

  // Everything of a part of a row, group of images after group.
  void part(int64_t task) {
    constexpr int n = Lanes<T>::count;
    const bool wgrad = g_.dweight, dgrad = g_.dx;
    const int columns = dgrad ? int(u_.side) : 1;
    const int64_t row = row_of(task), most = std::max(u_.in, u_.out), edge = Edges<T>::size(at_);
    const int64_t x_size = wgrad ? u_.in * u_.side * at_.stride : 0, dz_size = u_.out * columns * at_.stride;
    const int64_t dx_size = dgrad ? u_.in * at_.stride : 0, sums_size = wgrad ? taps_ * n : 0;
    const int64_t sizes[] = {x_size, dz_size, dx_size, sums_size, taps_, edge, n * most, 7 * step_,
                             at_.group * sample_};
    int64_t bytes = Scratch::size<double>(2 * u_.out);
    for (int64_t size : sizes) bytes += Scratch::size<T>(size);
    Scratch& scratch = Scratch::mine();
    scratch.reserve(bytes);
    T *x = scratch.take<T>(x_size), *dz = scratch.take<T>(dz_size), *dx = scratch.take<T>(dx_size);
    T *products = scratch.take<T>(sums_size), *ordered = scratch.take<T>(taps_), *edges = scratch.take<T>(edge);
    T *spare = scratch.take<T>(n * most), *numbers = scratch.take<T>(7 * step_);
    T* images = scratch.take<T>(at_.group * sample_);
    double* sums = scratch.take<double>(2 * u_.out);
    Edges<T>::fill(at_, edges);
    std::fill(products, products + sums_size, T(0));
    if (dgrad) order_weights(u_.weight[row], u_.out, u_.in, u_.side, true, static_cast<const T*>(nullptr), ordered);
    if (u_.norm != Norm::group) {
      const bool normed = u_.norm == Norm::batch;
      stripes(row, normed ? u_.mean[row] : nullptr, normed ? u_.inverse[row] : nullptr, 1, numbers);
      slopes(row, numbers);
    }
    const T* center = dz + at_.start + (columns / 2) * at_.stride;
    const int64_t last = begin(task) + length(task);
    for (int64_t first = begin(task), count; first < last; first += count) {
      count = std::min(at_.group, last - first);
      if (first == begin(task) || count < at_.group) {
        std::fill(x, x + x_size, T(0));
        std::fill(dz, dz + dz_size, T(0));
      }
      const T* gradient = before(task, first, count, numbers, sums, images);
      pack(at_, gradient, count, u_.out, columns, edges, spare, dz);
      if (g_.dbias) add_planes(center, columns, count, channel(task) + 2 * u_.out);
      if (wgrad) {
        pack(at_, u_.x[row] + first * at_.pixels() * u_.in, count, u_.in, int(u_.side), edges, spare, x);
        correlate(center, columns * at_.stride, x + at_.start, at_.stride, u_.in, u_.side, at_.width, u_.out,
                  at_.extent(count), reinterpret_cast<Vec<T>*>(products));
      }
      if (dgrad) {
        convolve(dz + at_.start, at_.stride, u_.out, u_.side, at_.width, ordered, static_cast<const T*>(nullptr),
                 false, u_.in, at_.extent(count), dx + at_.start, at_.stride);
        unpack(at_, dx, count, u_.in, spare, g_.dx + (row * u_.samples + first) * at_.pixels() * u_.in);
      }
    }
    if (wgrad)
      collect(reinterpret_cast<const Vec<T>*>(products), u_.out, u_.in, u_.side, &weight_[task * taps_]);
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
    const T* part = &weight_[row * parts_.count * taps_];
    T* out = g_.dweight + (first_ + row) * taps_;
    std::copy(part, part + taps_, out);
    for (int64_t p = 1; p < parts_.count; ++p)
      for (int64_t i = 0; i < taps_; ++i) out[i] += part[p * taps_ + i];
  }

  const Unit<T>& u_;
  const UnitGradient<T>& g_;
  const Layout at_;
  const Parts parts_;
  const int64_t sample_, step_, taps_;
  int64_t first_ = 0;                    // row of the block being worked on
  std::vector<double> channel_, whole_;  // (row, part, 3 out), (row, 2 out)
  std::vector<T> weight_;                // (row, part, taps)
};

}  // namespace

template <class T>
void unit_backward(const Unit<T>& unit, const UnitGradient<T>& gradient) {
  Backward<T>(unit, gradient).run();
}
template void unit_backward(const Unit<float>&, const UnitGradient<float>&);
template void unit_backward(const Unit<double>&, const UnitGradient<double>&);

}  // namespace esper
