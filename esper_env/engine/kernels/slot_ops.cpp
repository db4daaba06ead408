// Operations of torch around modules in slots: the mixture, group norm, means and factors by channel.
#include "operation.h"

namespace esper {
namespace {

using Maybes = c10::List<Maybe>;

Images images(const Tensor& x) {
  return {at::get_num_threads(), x.size(0) * x.size(1), x.size(2), x.size(3), x.size(4)};
}

template <class T>
T* data(const Tensor& x) {
  return x.defined() ? static_cast<T*>(x.data_ptr()) : nullptr;
}

struct GroupNorm : torch::autograd::Function<GroupNorm> {
  template <class T>
  static Normed<T> work(const Tensor& x, const Tensor& gamma, const Tensor& beta, int64_t groups, double eps,
                        bool less, const Tensor& mean, const Tensor& inverse) {
    return {at::get_num_threads(), x.size(0), x.size(1), x.size(2) * x.size(3), x.size(4), groups, eps, less,
            rows<const T>(gamma), rows<const T>(beta), data<T>(mean), data<T>(inverse)};
  }

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                        int64_t groups, double eps, bool less) {
    const Tensor y = empty(x.sizes(), x.options());
    const Tensor mean = at::empty({x.size(0), x.size(1), groups}, x.options()), inverse = at::empty_like(mean);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::group_norm", [&] {
      group_norm_forward(work<scalar_t>(x, gamma, beta, groups, eps, less, mean, inverse),
                         x.const_data_ptr<scalar_t>(), y.data_ptr<scalar_t>());
    });
    ctx->save_for_backward({x, gamma, beta, mean, inverse});
    ctx->saved_data["groups"] = groups, ctx->saved_data["less"] = less;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    once();
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], dy = gradients[0].contiguous();
    variable_list out(6);
    for (size_t i = 0; i < 3; ++i)
      if (ctx->needs_input_grad(i)) out[i] = empty(saved[i].sizes(), dy.options());
    const int64_t groups = ctx->saved_data["groups"].toInt();
    const bool less = ctx->saved_data["less"].toBool();
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::group_norm_backward", [&] {
      group_norm_backward(work<scalar_t>(x, saved[1], saved[2], groups, 0.0, less, saved[3], saved[4]),
                          x.const_data_ptr<scalar_t>(), dy.const_data_ptr<scalar_t>(), data<scalar_t>(out[0]),
                          data<scalar_t>(out[1]), data<scalar_t>(out[2]));
    });
    return out;
  }
};

Tensor group_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, int64_t groups, double eps,
                  bool less) {
  const Tensor values = checked_values(x).contiguous(), factor = row_wise(gamma), offset = row_wise(beta);
  by_channel(x, factor, "weight"), by_channel(x, offset, "bias");
  TORCH_CHECK_VALUE(groups > 0 && x.size(4) % groups == 0, "groups=", groups, " do not divide ", x.size(4),
                    " channels");
  return GroupNorm::apply(values, factor, offset, groups, eps, less);
}

struct Mean : torch::autograd::Function<Mean> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    const Tensor y = at::empty({x.size(0), x.size(1), x.size(4)}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::mean", [&] {
      mean_forward(images(x), x.const_data_ptr<scalar_t>(), y.data_ptr<scalar_t>());
    });
    ctx->saved_data["sizes"] = x.sizes();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    once();
    const Tensor dy = gradients[0].contiguous(),
                 dx = empty(ctx->saved_data["sizes"].toIntVector(), dy.options());
    AT_DISPATCH_FLOATING_TYPES(dy.scalar_type(), "esper::mean_backward", [&] {
      mean_backward(images(dx), dy.const_data_ptr<scalar_t>(), dx.data_ptr<scalar_t>());
    });
    return {dx};
  }
};

Tensor mean(const Tensor& x) { return Mean::apply(checked_values(x).contiguous()); }

struct Scale : torch::autograd::Function<Scale> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& factor) {
    const Tensor y = empty(x.sizes(), x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::scale", [&] {
      scale_forward(images(x), x.const_data_ptr<scalar_t>(), factor.const_data_ptr<scalar_t>(),
                    y.data_ptr<scalar_t>());
    });
    ctx->save_for_backward({x, factor});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    once();
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &factor = saved[1], dy = gradients[0].contiguous();
    variable_list out(2);
    for (size_t i = 0; i < 2; ++i)
      if (ctx->needs_input_grad(i)) out[i] = empty(saved[i].sizes(), dy.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::scale_backward", [&] {
      scale_backward(images(x), x.const_data_ptr<scalar_t>(), factor.const_data_ptr<scalar_t>(),
                     dy.const_data_ptr<scalar_t>(), data<scalar_t>(out[0]), data<scalar_t>(out[1]));
    });
    return out;
  }
};

Tensor scale(const Tensor& x, const Tensor& factor) {
  const Tensor values = checked_values(x).contiguous();
  same_type(x, factor, "factor", 3);
  TORCH_CHECK_VALUE(factor.size(1) == x.size(1) && factor.size(2) == x.size(4), "factor has shape ",
                    factor.sizes(), ", x has ", x.sizes());
  return Scale::apply(values, factor.contiguous());
}

// Modules of one kind in some rows of a value: what is read of them. Undefined is what they don't have.
struct Sharing {
  Tensor rows, alpha, h, d, gate, multiplies;

  int64_t count() const { return rows.numel(); }
  int64_t row(int64_t i) const { return rows.const_data_ptr<int64_t>()[i]; }

  template <class T>
  Share<T> share(int64_t i) const {
    Share<T> out;
    out.alpha = alpha.defined() ? alpha.const_data_ptr<T>()[i] : T(1);
    out.h = at<T>(h, i), out.d = at<T>(d, i), out.gate = at<T>(gate, i);
    out.multiplies = multiplies.defined() && multiplies.const_data_ptr<bool>()[i];
    return out;
  }
  template <class T>
  static T* at(const Tensor& x, int64_t i) {
    return x.defined() ? data<T>(x) + i * x.stride(0) : nullptr;
  }
};

// x with the shares in their rows.
Tensor mixed(const Tensor& x, const std::vector<Sharing>& groups) {
  const Tensor y = empty(x.sizes(), x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::mix", [&] {
    std::vector<Share<scalar_t>> shares(x.size(0));
    for (const Sharing& group : groups)
      for (int64_t i = 0; i < group.count(); ++i) shares[group.row(i)] = group.share<scalar_t>(i);
    const int64_t size = x.size(2) * x.size(3) * x.size(4);
    mix_forward<scalar_t>({at::get_num_threads(), x.size(1), size, shares}, rows<const scalar_t>(x),
                          y.data_ptr<scalar_t>());
  });
  return y;
}

struct Mix : torch::autograd::Function<Mix> {
  // Inputs: x, then of every group d, perhaps the gate, and perhaps h, which has a gradient where multiplied.
  static Tensor forward(AutogradContext* ctx, at::TensorList inputs, const std::vector<Sharing>& groups) {
    const Tensor y = mixed(inputs[0], groups);
    variable_list saved;
    for (const Sharing& group : groups) {
      const bool needed = group.gate.defined() || group.multiplies.defined();
      for (const Tensor& each :
           {group.rows, group.alpha, group.h, needed ? group.d : Tensor(), group.gate, group.multiplies})
        saved.push_back(each);
    }
    ctx->save_for_backward(saved);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    once();
    const auto saved = ctx->get_saved_variables();
    const Tensor dy = gradients[0].contiguous();
    variable_list out{dy};
    auto wanted = [&](at::IntArrayRef sizes) {
      out.push_back(ctx->needs_input_grad(out.size()) ? empty(sizes, dy.options()) : Tensor());
      return out.back();
    };
    AT_DISPATCH_FLOATING_TYPES(dy.scalar_type(), "esper::mix_backward", [&] {
      std::vector<Share<scalar_t>> shares(dy.size(0));
      for (size_t at = 0; at + 5 < saved.size(); at += 6) {
        const Sharing group{saved[at],     saved[at + 1], saved[at + 2],
                            saved[at + 3], saved[at + 4], saved[at + 5]};
        std::vector<int64_t> sizes = dy.sizes().vec();
        sizes[0] = group.count();
        const Tensor dd = wanted(sizes), dgate = group.gate.defined() ? wanted(group.gate.sizes()) : Tensor(),
                     dh = group.h.defined() ? wanted(sizes) : Tensor();
        for (int64_t i = 0; i < group.count(); ++i) {
          Share<scalar_t>& share = shares[group.row(i)] = group.share<scalar_t>(i);
          share.dd = Sharing::at<scalar_t>(dd, i), share.dgate = Sharing::at<scalar_t>(dgate, i);
          share.dh = Sharing::at<scalar_t>(dh, i);
        }
      }
      const int64_t size = dy.size(2) * dy.size(3) * dy.size(4);
      mix_backward<scalar_t>({at::get_num_threads(), dy.size(1), size, shares},
                             dy.const_data_ptr<scalar_t>());
    });
    out.emplace_back();  // of the groups
    return out;
  }
};

// The groups' rows, shapes and types; no row is in two of them.
void check(const Tensor& x, const std::vector<Sharing>& groups) {
  std::vector<bool> named(x.size(0));
  for (const Sharing& group : groups) {
    const int64_t count = group.count();
    for (const Tensor& each : {group.d, group.h})
      TORCH_CHECK_VALUE(!each.defined() || (each.dim() == 5 && each.size(0) == count &&
                                            each.sizes().slice(1) == x.sizes().slice(1) &&
                                            each.scalar_type() == x.scalar_type() && each.is_cpu()),
                        "the share of ", count, " rows has shape ", each.sizes(), " of ", each.scalar_type(),
                        ", x has ", x.sizes(), " of ", x.scalar_type());
    auto of_rows = [&](const Tensor& each, const char* name, int64_t size, at::ScalarType type) {
      TORCH_CHECK_VALUE(!each.defined() || (each.size(0) == count && each.numel() == count * size &&
                                            each.scalar_type() == type && each.is_cpu()),
                        name, " has shape ", each.sizes(), " of ", each.scalar_type(), " for ", count,
                        " rows of x ", x.sizes());
    };
    of_rows(group.alpha, "alpha", 1, x.scalar_type()), of_rows(group.gate, "gate", x.size(1), x.scalar_type());
    of_rows(group.multiplies, "multiplies", 1, at::kBool);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = group.row(i);
      TORCH_CHECK_INDEX(row >= 0 && row < x.size(0), "row ", row, " of ", x.size(0));
      TORCH_CHECK_VALUE(!named[row], "row ", row, " is named twice");
      named[row] = true;
    }
  }
}

Tensor mix(const Tensor& x, const std::vector<Tensor>& places, const std::vector<Tensor>& hs,
           const std::vector<Tensor>& ds, const std::vector<Tensor>& alphas, const Maybes& gates,
           const Maybes& multiplies) {
  const size_t count = ds.size();
  TORCH_CHECK_VALUE(places.size() == count && hs.size() == count && alphas.size() == count &&
                        gates.size() == count && multiplies.size() == count,
                    places.size(), " rows, ", hs.size(), " h, ", count, " d, ", alphas.size(), " alphas, ",
                    gates.size(), " gates, ", multiplies.size(), " multiplies");
  std::vector<Tensor> inputs{checked_values(x)};
  std::vector<Sharing> groups;
  for (size_t i = 0; i < count; ++i) {
    const Tensor multiplied = multiplies.get(i).value_or(Tensor()), gate = gates.get(i).value_or(Tensor());
    groups.push_back({places[i].contiguous(), alphas[i].contiguous(),
                      multiplied.defined() ? hs[i].contiguous() : Tensor(), ds[i].contiguous(),
                      gate.defined() ? gate.contiguous() : gate,
                      multiplied.defined() ? multiplied.contiguous() : multiplied});
    for (const Tensor& each : {groups[i].d, groups[i].gate, groups[i].h})
      if (each.defined()) inputs.push_back(each);
  }
  check(inputs[0], groups);
  return Mix::apply(at::TensorList(inputs), groups);
}

Tensor add_rows(const Tensor& x, const std::vector<Tensor>& places, const std::vector<Tensor>& values) {
  TORCH_CHECK_VALUE(places.size() == values.size(), places.size(), " rows, ", values.size(), " values");
  once();
  const Tensor own = checked_values(x);
  std::vector<Sharing> groups;
  for (size_t i = 0; i < values.size(); ++i)
    groups.push_back({places[i].contiguous(), {}, {}, values[i].contiguous(), {}, {}});
  check(own, groups);
  return mixed(own, groups);
}

struct Activate : torch::autograd::Function<Activate> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, int64_t kind) {
    const Tensor y = at::empty_like(x);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::activation", [&] {
      activation_forward(at::get_num_threads(), Activation(kind), x.numel(), x.const_data_ptr<scalar_t>(),
                         y.data_ptr<scalar_t>());
    });
    ctx->save_for_backward({x});
    ctx->saved_data["kind"] = kind;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    once();
    const Tensor x = ctx->get_saved_variables()[0], dy = gradients[0].contiguous(), dx = at::empty_like(x);
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "esper::activation_backward", [&] {
      activation_backward(at::get_num_threads(), Activation(ctx->saved_data["kind"].toInt()), x.numel(),
                          x.const_data_ptr<scalar_t>(), dy.const_data_ptr<scalar_t>(),
                          dx.data_ptr<scalar_t>());
    });
    return {dx, Tensor()};
  }
};

Tensor logistic(const Tensor& x) { return Activate::apply(x.contiguous(), int64_t(Activation::logistic)); }
Tensor silu(const Tensor& x) { return Activate::apply(x.contiguous(), int64_t(Activation::silu)); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(esper, m) {
  m.def("group_norm(Tensor x, Tensor gamma, Tensor beta, int groups, float eps, bool less) -> Tensor",
        &group_norm);
  m.def("mean(Tensor x) -> Tensor", &mean);
  m.def("scale(Tensor x, Tensor factor) -> Tensor", &scale);
  m.def(
      "mix(Tensor x, Tensor[] rows, Tensor[] hs, Tensor[] ds, Tensor[] alphas, Tensor?[] gates, Tensor?[] "
      "multiplies) -> Tensor",
      &mix);
  m.def("sigmoid(Tensor x) -> Tensor", &logistic);
  m.def("silu(Tensor x) -> Tensor", &silu);
  m.def("add_rows(Tensor x, Tensor[] rows, Tensor[] values) -> Tensor", &add_rows);
}

}  // namespace esper
