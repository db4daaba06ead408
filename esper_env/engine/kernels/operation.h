// What the operations have in common: checks, rows, memory.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "memory.h"
#include "native.h"

namespace esper {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Maybe = std::optional<Tensor>;

inline Tensor empty(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const Keep keep;
  return at::empty(sizes, options);
}

// A tensor whose rows are each contiguous, however far apart they lie.
inline Tensor row_wise(const Tensor& x) {
  if (!x.defined() || x.size(0) == 0 || x.select(0, 0).is_contiguous()) return x;
  return x.contiguous();
}

template <class T>
Rows<T> rows(const Tensor& x) {
  if (!x.defined()) return {};
  return {static_cast<T*>(x.data_ptr()), x.stride(0)};
}

inline Tensor defined(const Maybe& x) { return x.has_value() ? row_wise(*x) : Tensor(); }

inline void same_type(const Tensor& x, const Tensor& other, const char* name, int64_t dims) {
  if (!other.defined()) return;
  TORCH_CHECK_VALUE(other.scalar_type() == x.scalar_type(), name, " is ", other.scalar_type(), ", x is ",
                    x.scalar_type());
  TORCH_CHECK_VALUE(other.dim() == dims && other.size(0) == x.size(0) && other.is_cpu(), name, " has shape ",
                    other.sizes(), " on ", other.device(), ", x has ", x.sizes(), " on the CPU");
}

// A number for each channel of x (..., channel), or for each of `channels` features of the result.
inline void by_channel(const Tensor& x, const Tensor& other, const char* name, int64_t channels = -1) {
  same_type(x, other, name, 2);
  channels = channels < 0 ? x.size(4) : channels;
  TORCH_CHECK_VALUE(!other.defined() || other.size(1) == channels, name, " has shape ", other.sizes(),
                    ", not a number for each of ", channels, " channels");
}

// Backward passes are not differentiable themselves.
inline void once() {
  TORCH_CHECK(!at::GradMode::is_enabled(), "the operations of esper cannot be differentiated twice");
}

// Values (row, sample, height, width, channel) on the CPU, in memory as they should be.
inline Tensor checked_values(const Tensor& x) {
  TORCH_CHECK_VALUE(x.dim() == 5 && x.is_cpu(), "x has shape ", x.sizes(), " on ", x.device(),
                    ", not (row, sample, height, width, channel) on the CPU");
  return row_wise(x);
}

}  // namespace esper
