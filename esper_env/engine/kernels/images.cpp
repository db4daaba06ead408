// Training images from bytes: picked, cropped, mirrored and normalized in one pass.
#include <vector>

#include "channels.h"
#include "native.h"

namespace esper {
namespace {

// A line of a crop as bytes; outside the image it is black.
void crop_line(const Crops& at, const uint8_t* image, int64_t line, int64_t right, bool mirror,
               uint8_t* out) {
  std::memset(out, 0, at.width * at.channels);
  if (line < 0 || line >= at.height) return;
  const int64_t first = std::max<int64_t>(0, -right), last = std::min(at.width, at.width - right);
  if (first >= last) return;
  const uint8_t* from = image + (line * at.width + first + right) * at.channels;
  if (!mirror) {
    std::memcpy(out + first * at.channels, from, (last - first) * at.channels);
    return;
  }
  for (int64_t w = first; w < last; ++w, from += at.channels)
    for (int64_t c = 0; c < at.channels; ++c) out[(at.width - 1 - w) * at.channels + c] = from[c];
}

}  // namespace

template <class T>
void crop_images(const Crops& at, const T* shift, const T* scale, T* out) {
  const int64_t step = stripe<T>(at.channels), line = at.width * at.channels, image = at.height * line;
  std::vector<T> numbers(2 * step);
  std::copy(shift, shift + at.channels, numbers.data()), repeat(numbers.data(), at.channels);
  std::copy(scale, scale + at.channels, numbers.data() + step), repeat(numbers.data() + step, at.channels);
  constexpr int64_t size = 16;
  parallel(at.threads, (at.count + size - 1) / size, [&](int64_t task) {
    Scratch& scratch = Scratch::mine();
    uint8_t* bytes = scratch.take<uint8_t>(line);
    T* gray = scratch.take<T>(line);
    for (int64_t i = task * size; i < std::min(at.count, (task + 1) * size); ++i)
      for (int64_t h = 0; h < at.height; ++h) {
        const uint8_t* from = at.images + at.index[i] * image;
        const int64_t down = at.down ? at.down[i] - at.padding : 0,
                      right = at.down ? at.right[i] - at.padding : 0;
        crop_line(at, from, h + down, right, at.down && at.mirror[i] == 1, bytes);
        for (int64_t j = 0; j < line; ++j) gray[j] = T(bytes[j]);
        sweep<1, 2, 0, T>(at.channels, line, {gray}, numbers.data(), nullptr, out + i * image + h * line,
                          [](const Vec<T>* x, const Vec<T>* k, Vec<T>*) { return (x[0] - k[0]) * k[1]; });
      }
  });
}

template void crop_images(const Crops&, const float*, const float*, float*);
template void crop_images(const Crops&, const double*, const double*, double*);

}  // namespace esper
