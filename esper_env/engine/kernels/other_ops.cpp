// Pooling and the other operations of torch.
#include "operation.h"

namespace esper {
namespace {

Images images(const Tensor& x) {
  return {at::get_num_threads(), x.size(0) * x.size(1), x.size(2), x.size(3), x.size(4)};
}

struct MaxPool : torch::autograd::Function<MaxPool> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    const Tensor y = empty({x.size(0), x.size(1), x.size(2) / 2, x.size(3) / 2, x.size(4)}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::max_pool", [&] {
      pool_forward(images(x), x.const_data_ptr<scalar_t>(), y.data_ptr<scalar_t>());
    });
    ctx->save_for_backward({x});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    once();
    const Tensor x = ctx->get_saved_variables()[0], dy = gradients[0].contiguous(),
                 dx = empty(x.sizes(), x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::max_pool_backward", [&] {
      pool_backward(images(x), x.const_data_ptr<scalar_t>(), dy.const_data_ptr<scalar_t>(),
                    dx.data_ptr<scalar_t>());
    });
    return {dx};
  }
};

Tensor max_pool(const Tensor& x) {
  TORCH_CHECK_VALUE(x.dim() == 5 && x.size(2) > 1 && x.size(3) > 1, "x has shape ", x.sizes(),
                    ", not (row, sample, height, width, channel) with at least 2 x 2 pixels");
  return MaxPool::apply(checked_values(x).contiguous());
}

template <class T>
Channelwise<T> channelwise(const Tensor& x, const Tensor& weight) {
  return {at::get_num_threads(), x.size(0), x.size(1), x.size(2), x.size(3), x.size(4), weight.size(3),
          rows<const T>(weight)};
}

struct Depthwise : torch::autograd::Function<Depthwise> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight) {
    const Tensor y = empty(x.sizes(), x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::depthwise", [&] {
      depthwise_forward(channelwise<scalar_t>(x, weight), x.const_data_ptr<scalar_t>(),
                        y.data_ptr<scalar_t>());
    });
    ctx->save_for_backward({x, weight});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    once();
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], dy = gradients[0].contiguous();
    variable_list out(2);
    for (size_t i = 0; i < 2; ++i)
      if (ctx->needs_input_grad(i)) out[i] = empty(saved[i].sizes(), dy.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::depthwise_backward", [&] {
      auto at = [&](int i) { return out[i].defined() ? out[i].data_ptr<scalar_t>() : nullptr; };
      depthwise_backward(channelwise<scalar_t>(x, weight), x.const_data_ptr<scalar_t>(),
                         dy.const_data_ptr<scalar_t>(), at(0), at(1));
    });
    return out;
  }
};

Tensor depthwise(const Tensor& x, const Tensor& weight) {
  const Tensor values = checked_values(x).contiguous(), own = row_wise(weight);
  same_type(x, weight, "weight", 5);
  TORCH_CHECK_VALUE(weight.size(1) == x.size(4) && weight.size(2) == 1 && weight.size(3) == weight.size(4) &&
                        weight.size(3) % 2 == 1,
                    "weight has shape ", weight.sizes(), ", x has ", x.sizes());
  return Depthwise::apply(values, own);
}

Tensor crops(const Tensor& images, const Tensor& index, const std::vector<Tensor>& crop, int64_t padding,
             const Tensor& shift, const Tensor& scale) {
  TORCH_CHECK_VALUE(images.scalar_type() == at::kByte && images.dim() == 4 && images.is_cpu(), "images are ",
                    images.scalar_type(), " ", images.sizes(), ", not bytes (image, height, width, channel)");
  TORCH_CHECK_VALUE(crop.empty() || crop.size() == 3, "crop has ", crop.size(), " parts, not 3");
  const Tensor all = images.contiguous(), places = index.contiguous();
  std::vector<Tensor> parts;
  for (const Tensor& part : crop) {
    TORCH_CHECK_VALUE(part.sizes() == index.sizes(), "crop has shape ", part.sizes(), ", index ",
                      index.sizes());
    parts.push_back(part.contiguous());
  }
  auto at = [&](size_t i) { return parts.empty() ? nullptr : parts[i].const_data_ptr<int64_t>(); };
  const Crops work{at::get_num_threads(),
                   index.numel(),
                   images.size(1),
                   images.size(2),
                   images.size(3),
                   padding,
                   all.const_data_ptr<uint8_t>(),
                   places.const_data_ptr<int64_t>(),
                   at(0),
                   at(1),
                   at(2)};
  for (int64_t i = 0; i < work.count; ++i)
    TORCH_CHECK_INDEX(work.index[i] >= 0 && work.index[i] < images.size(0), "index ", work.index[i], " of ",
                      images.size(0), " images");
  const Tensor out =
      empty({index.size(0), index.size(1), work.height, work.width, work.channels}, shift.options());
  AT_DISPATCH_FLOATING_TYPES(shift.scalar_type(), "esper::images", [&] {
    crop_images(work, shift.contiguous().const_data_ptr<scalar_t>(),
                scale.contiguous().const_data_ptr<scalar_t>(), out.data_ptr<scalar_t>());
  });
  return out;
}

void update(const Tensor& values, const Tensor& momenta, const Tensor& squares,
            const std::vector<Tensor>& gradients, const std::vector<int64_t>& tensors,
            const std::vector<int64_t>& starts, const Tensor& lr, double momentum, double decay,
            double clip_norm) {
  same_type(values, momenta, "momenta", 2), same_type(values, squares, "squares", 2);
  for (const Tensor& each : {values, momenta, squares})
    TORCH_CHECK_VALUE(each.size(0) == 0 || each.stride(1) == 1, "rows are not contiguous");
  TORCH_CHECK_VALUE(gradients.size() == tensors.size() && gradients.size() == starts.size(), gradients.size(),
                    " gradients, ", tensors.size(), " tensors, ", starts.size(), " starts");
  const Tensor rates = lr.to(values.scalar_type()).contiguous();
  AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "esper::update", [&] {
    Descent<scalar_t> work{at::get_num_threads(),
                           values.size(0),
                           rows<scalar_t>(values),
                           rows<scalar_t>(momenta),
                           rows<scalar_t>(squares),
                           {},
                           rates.const_data_ptr<scalar_t>(),
                           momentum,
                           decay,
                           clip_norm};
    std::vector<Tensor> kept;
    for (size_t i = 0; i < gradients.size(); ++i) {
      kept.push_back(row_wise(gradients[i].to(values.scalar_type())));
      const int64_t size = kept[i].numel() / std::max<int64_t>(1, values.size(0));
      TORCH_CHECK_VALUE(kept[i].size(0) == values.size(0) && starts[i] + size <= values.size(1) &&
                            tensors[i] < squares.size(1),
                        "gradient of tensor ", tensors[i], " from ", starts[i], " has shape ",
                        kept[i].sizes());
      work.parts.push_back({tensors[i], starts[i], size, rows<const scalar_t>(kept[i])});
    }
    descend(work);
  });
}

// Whether large tensors that this thread makes are kept from now on; tells what was so before.
bool keep(bool on) {
  Keeping::instance();
  return std::exchange(Keeping::here(), on);
}

int64_t kept() { return int64_t(Keeping::instance().blocks.kept()); }
void release() { Keeping::instance().blocks.release(); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(esper, m) {
  m.def("max_pool(Tensor x) -> Tensor", &max_pool);
  m.def("depthwise(Tensor x, Tensor weight) -> Tensor", &depthwise);
  m.def(
      "images(Tensor images, Tensor index, Tensor[] crop, int padding, Tensor shift, Tensor scale) -> Tensor",
      &crops);
  m.def(
      "update(Tensor(a!) values, Tensor(b!) momenta, Tensor(c!) squares, Tensor[] gradients, int[] tensors, "
      "int[] starts, Tensor lr, float momentum, float decay, float clip_norm) -> ()",
      &update);
  m.def("keep(bool on) -> bool", &keep);
  m.def("kept() -> int", &kept);
  m.def("release() -> ()", &release);
}

}  // namespace esper
