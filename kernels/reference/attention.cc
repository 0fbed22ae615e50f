// Causal grouped-query attention, one query row at a time.
//
// With scores s_tj = q_t . k_j / sqrt(head_size) for j <= t, p_tj = exp(s_tj - lse_t):
//   out_t = sum_j p_tj v_j;  dp_tj = do_t . v_j;  delta_t = do_t . out_t;
//   ds_tj = p_tj (dp_tj - delta_t) / sqrt(head_size);
//   dq_t = sum_j ds_tj k_j;  dk_j = sum_t ds_tj q_t;  dv_j = sum_t p_tj do_t,
// dk and dv summed over the query heads that share the key head.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/elements.h"
#include "kernels/reference/ops.h"

namespace nibble::kernels::reference {
namespace {

// One (sequence, query head) of the packed rows.
struct Head {
  const AttentionShape& shape;
  int64_t first_row;
  int64_t head;

  int64_t kv_head() const { return head / (shape.heads / shape.kv_heads); }
  int64_t q_col() const { return head * shape.head_size; }
  int64_t k_col() const { return (shape.heads + kv_head()) * shape.head_size; }
  int64_t v_col() const { return (shape.heads + shape.kv_heads + kv_head()) * shape.head_size; }
};

double Dot(const Head& head, const Matrix& a, int64_t a_row, int64_t a_col, const Matrix& b,
           int64_t b_row, int64_t b_col) {
  double sum = 0;
  for (int64_t i = 0; i < head.shape.head_size; ++i) {
    sum += Load(a, head.first_row + a_row, a_col + i) * Load(b, head.first_row + b_row, b_col + i);
  }
  return sum;
}

double Score(const Head& head, const Matrix& qkv, int64_t t, int64_t j) {
  return Dot(head, qkv, t, head.q_col(), qkv, j, head.k_col()) /
         std::sqrt(static_cast<double>(head.shape.head_size));
}

// `out_row`: where the row's result goes.
void ForwardRow(const Head& head, const AttentionArgs& args, int64_t t, int64_t out_row,
                float* log_sum_exp) {
  std::vector<double> scores(t + 1);
  for (int64_t j = 0; j <= t; ++j) scores[j] = Score(head, args.qkv, t, j);
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - max);
  *log_sum_exp = static_cast<float>(max + std::log(sum));
  for (int64_t i = 0; i < args.shape.head_size; ++i) {
    double value = 0;
    for (int64_t j = 0; j <= t; ++j) {
      value +=
          std::exp(scores[j] - max) / sum * Load(args.qkv, head.first_row + j, head.v_col() + i);
    }
    Store(args.out, out_row, head.q_col() + i, value);
  }
}

// Adds the head's gradients to `d_qkv` [sequence_length, qkv_width].
void BackwardRow(const Head& head, const AttentionBackwardArgs& args, int64_t t, double log_sum_exp,
                 std::vector<double>& d_qkv) {
  const int64_t width = args.shape.qkv_width();
  const double scale = 1 / std::sqrt(static_cast<double>(args.shape.head_size));
  const double delta = Dot(head, args.d_out, t, head.q_col(), args.out, t, head.q_col());
  for (int64_t j = 0; j <= t; ++j) {
    const double p = std::exp(Score(head, args.qkv, t, j) - log_sum_exp);
    const double dp = Dot(head, args.d_out, t, head.q_col(), args.qkv, j, head.v_col());
    const double ds = p * (dp - delta) * scale;
    for (int64_t i = 0; i < args.shape.head_size; ++i) {
      const int64_t t_row = head.first_row + t;
      const int64_t j_row = head.first_row + j;
      d_qkv[t * width + head.q_col() + i] += ds * Load(args.qkv, j_row, head.k_col() + i);
      d_qkv[j * width + head.k_col() + i] += ds * Load(args.qkv, t_row, head.q_col() + i);
      d_qkv[j * width + head.v_col() + i] += p * Load(args.d_out, t_row, head.q_col() + i);
    }
  }
}

}  // namespace

void AttentionForward(const AttentionArgs& args) {
  const AttentionShape& shape = args.shape;
  const int64_t queries = shape.sequence_length - args.first_query;
  for (int64_t sequence = 0; sequence < shape.sequences; ++sequence) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const Head head{shape, sequence * shape.sequence_length, h};
      for (int64_t i = 0; i < queries; ++i) {
        ForwardRow(head, args, args.first_query + i, sequence * queries + i,
                   &args.log_sum_exp[(sequence * shape.heads + h) * queries + i]);
      }
    }
  }
}

void AttentionBackward(const AttentionBackwardArgs& args) {
  const AttentionShape& shape = args.shape;
  for (int64_t sequence = 0; sequence < shape.sequences; ++sequence) {
    const int64_t first_row = sequence * shape.sequence_length;
    std::vector<double> d_qkv(shape.sequence_length * shape.qkv_width(), 0.0);
    for (int64_t h = 0; h < shape.heads; ++h) {
      const Head head{shape, first_row, h};
      for (int64_t t = 0; t < shape.sequence_length; ++t) {
        BackwardRow(head, args, t,
                    args.log_sum_exp[(sequence * shape.heads + h) * shape.sequence_length + t],
                    d_qkv);
      }
    }
    for (int64_t t = 0; t < shape.sequence_length; ++t) {
      for (int64_t c = 0; c < shape.qkv_width(); ++c) {
        Store(args.d_qkv, first_row + t, c, d_qkv[t * shape.qkv_width() + c]);
      }
    }
  }
}

}  // namespace nibble::kernels::reference
