// The value after a slot: each row's own with what its module adds.
#include "exponential.h"
#include "native.h"

namespace esper {
namespace {

constexpr int64_t kTogether = 1 << 15;  // values of a task

// f(share, row, first sample, last sample + 1) for parts of all rows.
template <class T, class F>
void each_part(const Mixture<T>& work, const F& f) {
  const int64_t together = std::max<int64_t>(1, kTogether / std::max<int64_t>(1, work.size));
  const int64_t parts = (work.samples + together - 1) / together;
  parallel(work.threads, int64_t(work.shares.size()) * parts, [&](int64_t task) {
    const int64_t row = task / parts, first = task % parts * together;
    f(work.shares[row], row, first, std::min(work.samples, first + together));
  });
}

// The sum of products, lane by lane, then in double.
template <class T>
T product(const T* a, const T* b, int64_t size) {
  constexpr int n = Lanes<T>::count;
  Vec<T> sums = {};
  int64_t at = 0;
  for (; at + n <= size; at += n) sums += load(a + at) * load(b + at);
  double total = 0;
  for (; at < size; ++at) total += double(a[at]) * b[at];
  for (int lane = 0; lane < n; ++lane) total += sums[lane];
  return T(total);
}

}  // namespace

template <class T>
void mix_forward(const Mixture<T>& work, Rows<const T> values, T* y) {
  each_part(work, [&](const Share<T>& share, int64_t row, int64_t first, int64_t last) {
    const T *x = values[row], *d = share.d;
    T* to = y + row * work.samples * work.size;
    if (!d)
      std::memcpy(to + first * work.size, x + first * work.size, (last - first) * work.size * sizeof(T));
    for (int64_t sample = d ? first : last; sample < last; ++sample) {
      const T times = share.gate ? share.alpha * share.gate[sample] : share.alpha;
      const int64_t at = sample * work.size;
      if (share.multiplies)
        map(x + at, d + at, work.size, to + at,
            [times](Vec<T> h, Vec<T> v) { return h + times * (h * hyperbolic_tangent<T>(v)); });
      else
        map(x + at, d + at, work.size, to + at, [times](Vec<T> h, Vec<T> v) { return h + times * v; });
    }
  });
}

template <class T>
void mix_backward(const Mixture<T>& work, const T* gradient) {
  each_part(work, [&](const Share<T>& share, int64_t row, int64_t first, int64_t last) {
    const T* dy = gradient + row * work.samples * work.size;
    for (int64_t sample = first; sample < last; ++sample) {
      const T times = share.gate ? share.alpha * share.gate[sample] : share.alpha;
      const int64_t at = sample * work.size;
      T *dd = share.dd ? share.dd + at : nullptr, *dh = share.dh ? share.dh + at : nullptr;
      if (share.dgate) share.dgate[sample] = share.alpha * product(dy + at, share.d + at, work.size);
      if (!share.multiplies) {
        if (dd) map(dy + at, dy + at, work.size, dd, [times](Vec<T> g, Vec<T>) { return times * g; });
        if (dh) std::fill(dh, dh + work.size, T(0));
        continue;
      }
      if (dh)
        map(dy + at, share.d + at, work.size, dh,
            [times](Vec<T> g, Vec<T> v) { return times * g * hyperbolic_tangent<T>(v); });
      if (!dd) continue;
      map(share.d + at, share.h + at, work.size, dd, [times](Vec<T> v, Vec<T> h) {
        const Vec<T> t = hyperbolic_tangent<T>(v);
        return times * h * (1 - t * t);
      });
      map(dd, dy + at, work.size, dd, [](Vec<T> v, Vec<T> g) { return v * g; });
    }
  });
}

template void mix_forward(const Mixture<float>&, Rows<const float>, float*);
template void mix_forward(const Mixture<double>&, Rows<const double>, double*);
template void mix_backward(const Mixture<float>&, const float*);
template void mix_backward(const Mixture<double>&, const double*);

}  // namespace esper
