// Convolution, norm and ReLU as one differentiable operation of torch.
#include "operation.h"

namespace esper {
namespace {

struct Settings {
  int64_t norm, groups;
  bool training, relu, pool;
  double momentum, eps;
  Tensor running_mean, running_var;
};

Maybe maybe(const Tensor& x) { return x.defined() ? Maybe(x) : std::nullopt; }

template <class T>
Unit<T> unit(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& gamma,
             const Tensor& beta, const Tensor& mean, const Tensor& inverse, const Settings& set) {
  Unit<T> out{};
  out.threads = at::get_num_threads();
  out.rows = x.size(0), out.samples = x.size(1), out.height = x.size(2), out.width = x.size(3);
  out.in = x.size(4), out.out = weight.size(1), out.side = weight.size(3);
  out.norm = Norm(set.norm), out.training = set.training, out.relu = set.relu, out.pool = set.pool,
  out.groups = set.groups;
  out.momentum = set.momentum, out.eps = set.eps;
  out.x = rows<const T>(x), out.weight = rows<const T>(weight), out.bias = rows<const T>(bias);
  out.gamma = rows<const T>(gamma), out.beta = rows<const T>(beta);
  out.mean = rows<T>(mean), out.inverse = rows<T>(inverse);
  return out;
}

struct Conv : torch::autograd::Function<Conv> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const Maybe& maybe_bias,
                        const Maybe& maybe_gamma, const Maybe& maybe_beta, bool keep, const Settings& set) {
    const Tensor bias = defined(maybe_bias), gamma = defined(maybe_gamma), beta = defined(maybe_beta);
    const bool normed = Norm(set.norm) != Norm::none, folded = Norm(set.norm) == Norm::batch && !set.training;
    const int64_t down = set.pool ? 2 : 1;
    const Tensor y =
        empty({x.size(0), x.size(1), x.size(2) / down, x.size(3) / down, weight.size(1)}, x.options());
    Tensor z = set.pool ? Tensor() : y;
    if ((keep && (normed || set.pool)) || (set.pool && normed && !folded))
      z = empty({x.size(0), x.size(1), x.size(2), x.size(3), weight.size(1)}, x.options());
    Tensor mean, inverse;
    if (normed) {
      mean = Norm(set.norm) == Norm::batch ? at::empty({x.size(0), weight.size(1)}, x.options())
                                           : at::empty({x.size(0), x.size(1), set.groups}, x.options());
      inverse = at::empty_like(mean);
    }
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::conv", [&] {
      auto work = unit<scalar_t>(x, weight, bias, gamma, beta, mean, inverse, set);
      work.running_mean = rows<scalar_t>(set.running_mean);
      work.running_var = rows<scalar_t>(set.running_var);
      work.z = z.defined() ? z.data_ptr<scalar_t>() : nullptr, work.y = y.data_ptr<scalar_t>();
      unit_forward(work);
    });
    if (keep) {
      ctx->save_for_backward(
          {x, weight, bias, gamma, beta, mean, inverse, normed || set.relu || set.pool ? z : Tensor()});
      ctx->saved_data["norm"] = set.norm, ctx->saved_data["groups"] = set.groups;
      ctx->saved_data["training"] = set.training, ctx->saved_data["relu"] = set.relu;
      ctx->saved_data["pool"] = set.pool;
    }
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    once();
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &z = saved[7], dy = gradients[0].contiguous();
    const Settings set{ctx->saved_data["norm"].toInt(),
                       ctx->saved_data["groups"].toInt(),
                       ctx->saved_data["training"].toBool(),
                       ctx->saved_data["relu"].toBool(),
                       ctx->saved_data["pool"].toBool(),
                       0.0,
                       0.0,
                       {},
                       {}};
    variable_list out(7);
    size_t edge = 0;  // absent tensors have none
    for (size_t i = 0; i < 5; ++i)
      if (saved[i].defined() && ctx->needs_input_grad(edge++)) out[i] = empty(saved[i].sizes(), dy.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::conv_backward", [&] {
      auto work = unit<scalar_t>(x, weight, saved[2], saved[3], saved[4], saved[5], saved[6], set);
      work.z = z.defined() ? z.data_ptr<scalar_t>() : nullptr;
      auto at = [&](int i) { return out[i].defined() ? out[i].data_ptr<scalar_t>() : nullptr; };
      unit_backward(work, UnitGradient<scalar_t>{dy.data_ptr<scalar_t>(), at(0), at(1), at(2), at(3), at(4)});
    });
    return out;
  }
};

Tensor conv(const Tensor& x, const Tensor& weight, const Maybe& bias, int64_t norm, const Maybe& gamma,
            const Maybe& beta, const Maybe& running_mean, const Maybe& running_var, int64_t groups,
            bool training, double momentum, double eps, bool relu, bool pool) {
  const Tensor all[] = {checked_values(x), row_wise(weight), defined(bias), defined(gamma), defined(beta)};
  same_type(x, weight, "weight", 5);
  by_channel(x, all[2], "bias", weight.size(1)), by_channel(x, all[3], "norm.weight", weight.size(1));
  by_channel(x, all[4], "norm.bias", weight.size(1));
  TORCH_CHECK_VALUE(
      weight.size(2) == x.size(4) && weight.size(3) == weight.size(4) && weight.size(3) % 2 == 1,
      "weight has shape ", weight.sizes(), ", x has ", x.sizes());
  TORCH_CHECK_VALUE(groups > 0 && weight.size(1) % groups == 0, "groups=", groups, " do not divide ",
                    weight.size(1), " features");
  TORCH_CHECK_VALUE(Norm(norm) != Norm::batch || !training || x.size(1) * x.size(2) * x.size(3) > 1,
                    "one value per channel has no variance: x has shape ", x.sizes());
  TORCH_CHECK_VALUE(!pool || (x.size(2) > 1 && x.size(3) > 1), "x has shape ", x.sizes(),
                    ", not at least 2 x 2 pixels to pool");
  const bool any = torch::autograd::any_variable_requires_grad(variable_list(std::begin(all), std::end(all)));
  const Settings set{norm,
                     groups,
                     training,
                     relu,
                     pool,
                     momentum,
                     eps,
                     running_mean.value_or(Tensor()),
                     running_var.value_or(Tensor())};
  return Conv::apply(all[0], all[1], maybe(all[2]), maybe(all[3]), maybe(all[4]),
                     at::GradMode::is_enabled() && any, set);
}

}  // namespace

TORCH_LIBRARY(esper, m) {
  m.def(
      "conv(Tensor x, Tensor weight, Tensor? bias, int norm, Tensor? gamma, Tensor? beta, "
      "Tensor(a!)? running_mean, Tensor(b!)? running_var, int groups, bool training, float momentum, float "
      "eps, "
      "bool relu, bool pool) -> Tensor",
      &conv);
}

}  // namespace esper
