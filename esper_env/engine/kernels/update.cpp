// Clipped stochastic gradient descent with momentum, row by row.
#include <cmath>

#include "lanes.h"
#include "native.h"

namespace esper {
namespace {

template <class T>
double sum_of_squares(const T* x, int64_t size) {
  constexpr int n = Lanes<T>::count;
  Vec<T> sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * n <= size; i += 4 * n)
    for (int v = 0; v < 4; ++v) sum[v] += load(x + i + v * n) * load(x + i + v * n);
  double total = 0;
  for (const Vec<T>& each : sum)
    for (int lane = 0; lane < n; ++lane) total += each[lane];
  for (; i < size; ++i) total += double(x[i]) * x[i];
  return total;
}

}  // namespace

template <class T>
void descend(const Descent<T>& work) {
  parallel(work.threads, work.rows, [&](int64_t row) {
    double total = 0;
    for (const auto& part : work.parts) {
      const double square = sum_of_squares(part.gradient[row], part.size);
      work.squares[row][part.tensor] += T(square);
      total += square;
    }
    const double ratio = work.clip_norm / (std::sqrt(total) + 1e-6);
    const T scale = T(ratio > 1 ? 1.0 : ratio), lr = work.lr[row], decay = T(work.decay),
            keep = T(work.momentum);
    for (const auto& part : work.parts) {
      T* __restrict value = work.values[row] + part.start;
      T* __restrict momentum = work.momenta[row] + part.start;
      const T* __restrict gradient = part.gradient[row];
      for (int64_t i = 0; i < part.size; ++i) {
        momentum[i] = momentum[i] * keep + (gradient[i] * scale + decay * value[i]);
        value[i] -= lr * momentum[i];
      }
    }
  });
}

template void descend(const Descent<float>&);
template void descend(const Descent<double>&);

}  // namespace esper
