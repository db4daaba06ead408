// Means of images by channel, and products with factors by channel.
#include "channels.h"
#include "native.h"

namespace esper {
namespace {

template <class T>
struct Desk {
  T *numbers, *sums;  // a stripe each
  double* totals;     // (channel)
};

// f(desk, image) for all images, several in a task.
template <class T, class F>
void each_image(const Images& at, const F& f) {
  const int64_t size = std::max<int64_t>(1, 16384 / (at.height * at.width * at.channels));
  parallel(at.threads, (at.count + size - 1) / size, [&](int64_t task) {
    Scratch& scratch = Scratch::mine();
    const int64_t step = stripe<T>(at.channels);
    const Desk<T> desk{scratch.take<T>(step), scratch.take<T>(step), scratch.take<double>(at.channels)};
    for (int64_t image = task * size; image < std::min(at.count, (task + 1) * size); ++image) f(desk, image);
  });
}

// A stripe of these numbers times a scalar.
template <class T>
void fill(const T* from, T times, int64_t channels, T* to) {
  for (int64_t c = 0; c < channels; ++c) to[c] = from[c] * times;
  repeat(to, channels);
}

// The sums of a stripe, times a scalar, into (channel).
template <class T>
void total(const Desk<T>& desk, double times, int64_t channels, T* to) {
  std::fill(desk.totals, desk.totals + channels, 0.0);
  add_up(desk.sums, channels, desk.totals);
  for (int64_t c = 0; c < channels; ++c) to[c] = T(desk.totals[c] * times);
}

}  // namespace

template <class T>
void mean_forward(const Images& at, const T* x, T* y) {
  const int64_t c = at.channels, size = at.height * at.width * c;
  each_image<T>(at, [&](const Desk<T>& desk, int64_t i) {
    std::fill(desk.sums, desk.sums + stripe<T>(c), T(0));
    sweep<1, 0, 1, T>(c, size, {x + i * size}, nullptr, desk.sums, nullptr,
                      [](const Vec<T>* v, const Vec<T>*, Vec<T>* s) { return s[0] += v[0]; });
    total(desk, 1.0 / double(at.height * at.width), c, y + i * c);
  });
}

template <class T>
void mean_backward(const Images& at, const T* dy, T* dx) {
  const int64_t c = at.channels, size = at.height * at.width * c, step = stripe<T>(c);
  each_image<T>(at, [&](const Desk<T>& desk, int64_t i) {
    fill(dy + i * c, T(1) / T(at.height * at.width), c, desk.numbers);
    for (int64_t to = 0; to < size; to += step)
      std::memcpy(dx + i * size + to, desk.numbers, std::min(step, size - to) * sizeof(T));
  });
}

template <class T>
void scale_forward(const Images& at, const T* x, const T* factor, T* y) {
  const int64_t c = at.channels, size = at.height * at.width * c;
  each_image<T>(at, [&](const Desk<T>& desk, int64_t i) {
    fill(factor + i * c, T(1), c, desk.numbers);
    sweep<1, 1, 0, T>(c, size, {x + i * size}, desk.numbers, nullptr, y + i * size,
                      [](const Vec<T>* v, const Vec<T>* k, Vec<T>*) { return v[0] * k[0]; });
  });
}

template <class T>
void scale_backward(const Images& at, const T* x, const T* factor, const T* dy, T* dx, T* dfactor) {
  const int64_t c = at.channels, size = at.height * at.width * c;
  each_image<T>(at, [&](const Desk<T>& desk, int64_t i) {
    fill(factor + i * c, T(1), c, desk.numbers);
    std::fill(desk.sums, desk.sums + stripe<T>(c), T(0));
    sweep<2, 1, 1, T>(c, size, {x + i * size, dy + i * size}, desk.numbers, desk.sums,
                      dx ? dx + i * size : nullptr, [](const Vec<T>* v, const Vec<T>* k, Vec<T>* s) {
                        s[0] += v[0] * v[1];
                        return v[1] * k[0];
                      });
    if (dfactor) total(desk, 1.0, c, dfactor + i * c);
  });
}

template void mean_forward(const Images&, const float*, float*);
template void mean_forward(const Images&, const double*, double*);
template void mean_backward(const Images&, const float*, float*);
template void mean_backward(const Images&, const double*, double*);
template void scale_forward(const Images&, const float*, const float*, float*);
template void scale_forward(const Images&, const double*, const double*, double*);
template void scale_backward(const Images&, const float*, const float*, const float*, float*, float*);
template void scale_backward(const Images&, const double*, const double*, const double*, double*, double*);

}  // namespace esper
