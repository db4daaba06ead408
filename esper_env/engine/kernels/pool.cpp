// Pooling of many images.
#include "pool.h"

#include "native.h"

namespace esper {
namespace {

// f(image) for all images, several in a task.
template <class F>
void each_image(const Images& at, const F& f) {
  const int64_t size = std::max<int64_t>(1, 16384 / (at.height * at.width * at.channels));
  parallel(at.threads, (at.count + size - 1) / size, [&](int64_t task) {
    for (int64_t image = task * size; image < std::min(at.count, (task + 1) * size); ++image) f(image);
  });
}

}  // namespace

template <class T>
void pool_forward(const Images& at, const T* x, T* y) {
  const int64_t from = at.height * at.width * at.channels,
                to = (at.height / 2) * (at.width / 2) * at.channels;
  each_image(at, [&](int64_t i) { pool_image(at.height, at.width, at.channels, x + i * from, y + i * to); });
}

template <class T>
void pool_backward(const Images& at, const T* x, const T* dy, T* dx) {
  const int64_t from = at.height * at.width * at.channels,
                to = (at.height / 2) * (at.width / 2) * at.channels;
  each_image(at, [&](int64_t i) {
    pool_image_back(at.height, at.width, at.channels, x + i * from, dy + i * to, dx + i * from);
  });
}

template void pool_forward(const Images&, const float*, float*);
template void pool_forward(const Images&, const double*, double*);
template void pool_backward(const Images&, const float*, const float*, float*);
template void pool_backward(const Images&, const double*, const double*, double*);

}  // namespace esper
