// The scan of a Mamba-2 layer token by token, as kernels/mamba_args.h defines it.
//
// Backward, with H_t the gradient of the state h_t, from the last token to the first:
//   H_t = dy_t C_t^T + a_{t+1} H_{t+1};  dC_t = h_t^T dy_t;  dB_t = dt_t H_t^T x_t;
//   dx_t = dt_t H_t B_t + d dy_t;  da_t = <H_t, h_{t-1}>;
//   d dt_t = x_t^T H_t B_t + da_t a_t (-A), A = exp(a_log);  da_log = sum of da_t a_t (-A dt_t);
//   the raw dt through softplus' = sigmoid.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/elements.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {
namespace {

using State = std::vector<double>;  // [head_size, state_size]

// What one (sequence, head) reads.
struct Head {
  const MambaShape& shape;
  const Matrix& xbc;
  const Matrix& projected;
  int64_t first_row;
  int64_t head;
  double dt_bias, a;

  int64_t x_column() const { return head * shape.head_size; }
  int64_t b_column() const {
    return shape.inner() + head / (shape.heads / shape.groups) * shape.state_size;
  }
  int64_t c_column() const { return b_column() + shape.groups * shape.state_size; }
  double X(int64_t t, int64_t i) const { return Load(xbc, first_row + t, x_column() + i); }
  double B(int64_t t, int64_t j) const { return Load(xbc, first_row + t, b_column() + j); }
  double C(int64_t t, int64_t j) const { return Load(xbc, first_row + t, c_column() + j); }
  double RawDt(int64_t t) const {
    return Load(projected, first_row + t, shape.dt_column() + head) + dt_bias;
  }
  double Dt(int64_t t) const {
    const double raw = RawDt(t);
    return raw > 30 ? raw : std::log1p(std::exp(raw));
  }
  double Decay(int64_t t) const { return std::exp(-a * Dt(t)); }
};

// The states after each token, from `before` (null: zero).
std::vector<State> States(const Head& head, const float* before = nullptr) {
  const int64_t rows = head.shape.head_size, cols = head.shape.state_size;
  std::vector<State> states;
  State state(rows * cols, 0.0);
  if (before != nullptr) state.assign(before, before + rows * cols);
  for (int64_t t = 0; t < head.shape.sequence_length; ++t) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        double& h = state[i * cols + j];
        h = head.Decay(t) * h + head.Dt(t) * head.X(t, i) * head.B(t, j);
      }
    }
    states.push_back(state);
  }
  return states;
}

// Gradients of one head's parameters.
struct HeadGradient {
  double dt_bias = 0, a_log = 0, d = 0;
};

// Writes the head's columns of d_xbc's x and of d_projected's dt, adds to d_bc [length, 2,
// state_size] and to `gradient`.
void BackwardHead(const ScanBackwardArgs& args, const Head& head, HeadGradient* gradient,
                  std::vector<double>* d_bc) {
  const int64_t rows = head.shape.head_size, cols = head.shape.state_size;
  const std::vector<State> states = States(head);
  State d_state(rows * cols, 0.0);
  for (int64_t t = head.shape.sequence_length - 1; t >= 0; --t) {
    const double dt = head.Dt(t), decay = head.Decay(t);
    double d_decay = 0, d_dt = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const double dy = Load(args.d_out, head.first_row + t, head.x_column() + i);
      double d_x = args.d[head.head] * dy;
      gradient->d += dy * head.X(t, i);
      for (int64_t j = 0; j < cols; ++j) {
        double& d_h = d_state[i * cols + j];
        d_h += dy * head.C(t, j);
        (*d_bc)[(2 * t + 1) * cols + j] += dy * states[t][i * cols + j];
        (*d_bc)[2 * t * cols + j] += d_h * dt * head.X(t, i);
        d_x += d_h * dt * head.B(t, j);
        d_dt += d_h * head.X(t, i) * head.B(t, j);
        if (t > 0) d_decay += d_h * states[t - 1][i * cols + j];
        d_h *= decay;
      }
      Store(args.d_xbc, head.first_row + t, head.x_column() + i, d_x);
    }
    d_dt -= d_decay * decay * head.a;
    gradient->a_log -= d_decay * decay * head.a * dt;
    const double d_raw = d_dt / (1 + std::exp(-head.RawDt(t)));
    gradient->dt_bias += d_raw;
    Store(args.d_projected, head.first_row + t, head.shape.dt_column() + head.head, d_raw);
  }
}

void BackwardGroup(const ScanBackwardArgs& args, int64_t sequence, int64_t group,
                   std::vector<HeadGradient>* gradients) {
  const MambaShape& shape = args.shape;
  const int64_t first_row = sequence * shape.sequence_length, state = shape.state_size;
  std::vector<double> d_bc(shape.sequence_length * 2 * state, 0.0);
  const int64_t heads = shape.heads / shape.groups;
  for (int64_t h = group * heads; h < (group + 1) * heads; ++h) {
    const Head head{shape, args.xbc,        args.projected,         first_row,
                    h,     args.dt_bias[h], std::exp(args.a_log[h])};
    BackwardHead(args, head, &(*gradients)[h], &d_bc);
  }
  for (int64_t t = 0; t < shape.sequence_length; ++t) {
    for (int64_t j = 0; j < state; ++j) {
      const int64_t column = shape.inner() + group * state + j;
      Store(args.d_xbc, first_row + t, column, d_bc[2 * t * state + j]);
      Store(args.d_xbc, first_row + t, column + shape.groups * state,
            d_bc[(2 * t + 1) * state + j]);
    }
  }
}

}  // namespace

void ScanForward(const ScanArgs& args) {
  const MambaShape& shape = args.shape;
  for (int64_t s = 0; s < shape.sequences; ++s) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const Head head{shape, args.xbc,        args.projected,         s * shape.sequence_length,
                      h,     args.dt_bias[h], std::exp(args.a_log[h])};
      const int64_t size = shape.head_size * shape.state_size;
      float* state = args.state == nullptr ? nullptr : args.state + (s * shape.heads + h) * size;
      const std::vector<State> states = States(head, state);
      if (state != nullptr) std::copy(states.back().begin(), states.back().end(), state);
      for (int64_t t = 0; t < shape.sequence_length; ++t) {
        for (int64_t i = 0; i < shape.head_size; ++i) {
          double y = args.d[h] * head.X(t, i);
          for (int64_t j = 0; j < shape.state_size; ++j) {
            y += states[t][i * shape.state_size + j] * head.C(t, j);
          }
          Store(args.out, head.first_row + t, head.x_column() + i, y);
        }
      }
    }
  }
}

void ScanBackward(const ScanBackwardArgs& args) {
  const MambaShape& shape = args.shape;
  std::vector<HeadGradient> gradients(shape.heads);
  for (int64_t s = 0; s < shape.sequences; ++s) {
    for (int64_t g = 0; g < shape.groups; ++g) BackwardGroup(args, s, g, &gradients);
  }
  for (int64_t h = 0; h < shape.heads; ++h) {
    args.d_dt_bias[h] = static_cast<float>(args.d_dt_bias[h] + gradients[h].dt_bias);
    args.d_a_log[h] = static_cast<float>(args.d_a_log[h] + gradients[h].a_log);
    args.d_d[h] = static_cast<float>(args.d_d[h] + gradients[h].d);
  }
}

}  // namespace nibble::kernels::reference
