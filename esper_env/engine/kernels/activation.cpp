// The logistic function and SiLU, and their gradients, value by value.
#include "exponential.h"
#include "native.h"

namespace esper {
namespace {

constexpr int64_t kTogether = 1 << 13;  // values of a task

// f(first value, how many) for parts of all values.
template <class F>
void each_part(int threads, int64_t size, const F& f) {
  parallel(threads, (size + kTogether - 1) / kTogether, [&](int64_t task) {
    f(task * kTogether, std::min(kTogether, size - task * kTogether));
  });
}

}  // namespace

template <class T>
void activation_forward(int threads, Activation kind, int64_t size, const T* x, T* y) {
  each_part(threads, size, [&](int64_t at, int64_t count) {
    map(x + at, x + at, count, y + at, [kind](Vec<T> v, Vec<T>) {
      return kind == Activation::logistic ? logistic<T>(v) : v * logistic<T>(v);
    });
  });
}

template <class T>
void activation_backward(int threads, Activation kind, int64_t size, const T* x, const T* dy, T* dx) {
  each_part(threads, size, [&](int64_t at, int64_t count) {
    map(x + at, dy + at, count, dx + at, [kind](Vec<T> v, Vec<T> g) {
      const Vec<T> s = logistic<T>(v);
      return kind == Activation::logistic ? g * s * (1 - s) : g * s * (1 + v * (1 - s));
    });
  });
}

template void activation_forward(int, Activation, int64_t, const float*, float*);
template void activation_forward(int, Activation, int64_t, const double*, double*);
template void activation_backward(int, Activation, int64_t, const float*, const float*, float*);
template void activation_backward(int, Activation, int64_t, const double*, const double*, double*);

}  // namespace esper
