// Bounds are to first order in u = 2^-24, the rounding unit of float32 (Higham, Accuracy and Stability of Numerical
// Algorithms, chapter 3: a sum of n terms is off by at most n u times the sum of magnitudes, in any order), those of
// tests/support/bounds.py. Nothing is tuned: each term is named.
#include "attention_reference.h"

#include <cfloat>

#include "cpu/microkernel.h"

namespace ascendspeed::test {
namespace {

constexpr double kU = 0x1p-24;
constexpr double kFlush = 2.0 * FLT_MIN;          // exp gives 0 where its result would be denormal
constexpr double kDenormal = 2.0 * FLT_MIN * kU;  // what a product that underflows may lose
constexpr double kExpUlps = 4.0;                  // exp is within 2 ulp = 4 u
// Products of bfloat16 round P and dS to bfloat16 first, and take for 0 what lies below the smallest normal number.
// Sums of them round to nearest on x86, to odd on Arm, which is off by up to two units.
constexpr double kWeightU = 0x1p-8, kLost = FLT_MIN, kProductU = 2 * kU;
constexpr int64_t kKeysPerStep = 16;  // of the online softmax, at least

bool visible(const AttentionCase& c, int64_t b, int64_t n, int64_t i, int64_t j) {
  if (!c.masked) return true;
  const int64_t off = c.kv_lens[b] - c.q_lens[b];
  const auto mask_keeps = [&] {
    return c.mask.at(c.mask.sizes[0] == 1 ? 0 : b, c.mask.sizes[1] == 1 ? 0 : n, i)[j] == 0.0;
  };
  // Tokens may be as large as int64 goes.
  const auto within = [&](int64_t from) {
    const __int128 distance = j - from;
    return distance >= -static_cast<__int128>(c.pre_tockens) && distance <= static_cast<__int128>(c.next_tockens);
  };
  int64_t band = -1;
  for (int64_t s = 0; s < c.batch(); ++s) {
    if (c.q_lens[s] > 0 && (band < 0 || c.sparse_mode == 7)) band = s;
  }
  switch (c.sparse_mode) {
    case 0:
      return mask_keeps() && within(i);
    case 1:
    case 5:
      return mask_keeps();
    case 2:
      return j <= i;
    case 3:
      return j <= i + off;
    case 4:
      return within(i + off);
    case 6:
      return j < c.prefix[b] || j <= i + off;
    case 7:
      return b == band ? within(i + off) : j <= i + off;
    default:
      return b == band ? within(i + off) : j <= i;
  }
}

// Index of a pse number in c.pse, and of its gradient; types 0 and 1.
int64_t pse_index(const AttentionCase& c, int64_t b, int64_t n, int64_t i, int64_t j) {
  const int64_t rows = c.q_lens[b], keys = c.kv_lens[b];
  if (c.pse_flat && c.pse_form == PseForm::kRows) return c.heads * c.scores_before(b) + (n * rows + i) * keys + j;
  if (c.pse_flat) return c.heads * c.kv_begin(b) + n * keys + j;
  int64_t row = c.pse_form == PseForm::kOneRow ? 0 : i, column = j;
  if (c.pse_form == PseForm::kCompressed) {
    // The last 1024 rows; an earlier row continues row 0 along its diagonals.
    row = std::max<int64_t>(i - (rows - 1024), 0);
    column = j + std::max<int64_t>(rows - 1024 - i, 0);
  }
  return c.pse.at(c.pse.sizes[0] == 1 ? 0 : b, n, row) - c.pse.at(0, 0, 0) + column;
}

// What is added to scale * q.k.
double shift(const AttentionCase& c, int64_t b, int64_t n, int64_t i, int64_t j) {
  if (c.pse_form == PseForm::kNone) return 0.0;
  if (c.pse_form == PseForm::kSlopes) {
    const bool starts = !(c.sparse_mode == 8 && c.masked) || b == 0;
    const double distance = std::abs(static_cast<double>(j - i + (starts ? c.kv_start - c.q_start : 0)));
    return -c.pse.at(c.pse.sizes[0] == 1 ? 0 : b, n, 0)[0] * (c.pse_type == 2 ? distance : std::sqrt(distance));
  }
  const double number = c.pse.values[static_cast<size_t>(pse_index(c, b, n, i, j))];
  return c.pse_type == 1 ? c.scale * number : number;
}

// What dropout multiplies a probability with.
double dropout_factor(const AttentionCase& c, int64_t b, int64_t n, int64_t i, int64_t j) {
  if (c.dropout == DropoutForm::kNone) return 1.0;
  const int64_t element = c.heads * c.scores_before(b) + (n * c.q_lens[b] + i) * c.kv_lens[b] + j;
  const bool kept = c.dropout == DropoutForm::kBits
                        ? (c.drop_bits[static_cast<size_t>(element / 8)] >> (element % 8) & 1) != 0
                        : generator_keeps(c.seed, c.offset, c.keep_prob, static_cast<uint64_t>(element));
  return kept ? 1.0 / c.keep_prob : 0.0;
}

struct Dot {
  double sum = 0.0, magnitude = 0.0;
  double terms = 0.0;  // of numbers and products that may each be lost
  void add(const double* a, const double* b, int64_t count) {
    for (int64_t d = 0; d < count; ++d) {
      sum += a[d] * b[d];
      magnitude += std::abs(a[d] * b[d]);
      terms += std::abs(a[d]) + std::abs(b[d]) + 1.0;
    }
  }
};

// Adds factor * x to the gradient, and error * |x| and what a product may lose to its bound.
void accumulate(Bounded& to, const double* at, double factor, double error, double lost, const double* x) {
  const int64_t first = at - to.value.values.data();
  double* const value = to.value.values.data() + first;
  double* const bound = to.error.values.data() + first;
  for (int64_t d = 0; d < to.value.sizes[3]; ++d) {
    value[d] += factor * x[d];
    bound[d] += error * std::abs(x[d]) + kDenormal + lost * (1.0 + std::abs(factor) + std::abs(x[d]));
  }
}

// Adds rounding `value` +- `error` once to `dtype`.
void round_once(Bounded& result, DType dtype) {
  const FloatFormat& format = format_of(dtype);
  for (size_t i = 0; i < result.value.values.size(); ++i) {
    double& error = result.error.values[i];
    const double value = std::abs(result.value.values[i]);
    if (value == 0.0 && error == 0.0) continue;  // 0 is exact
    error += format.epsilon() / 2 * (value + error) + format.smallest_denormal();
  }
}

class Reference {
 public:
  explicit Reference(const AttentionCase& problem) : c(problem) {
    if (c.dtype == DType::kBFloat16 && cpu::active_microkernel().bfloat16 != nullptr) {
      weight_u = kWeightU;
      lost = kLost;
      product_u = kProductU;
    }
    const int64_t stats = (c.packed ? c.q_total() : c.rows_before(c.batch())) * c.heads;
    e.attention_out = Bounded(c.dy.sizes);
    e.softmax_max = e.softmax_sum = Bounded({1, 1, 1, stats});
    e.dq = Bounded(c.query.sizes);
    e.dk = Bounded(c.key.sizes);
    e.dv = Bounded(c.value.sizes);
    e.dq_rope = Bounded(c.query_rope.sizes);
    e.dk_rope = Bounded(c.key_rope.sizes);
    e.dpse = Bounded(c.pse.sizes);
    e.dsink = Bounded({1, 1, 1, static_cast<int64_t>(c.sink.size())});
    for (Bounded* result : {&e.attention_out, &e.dq, &e.dq_rope}) skip_tail(result->value, c.q_tail);
    for (Bounded* result : {&e.dk, &e.dv, &e.dk_rope}) skip_tail(result->value, c.kv_tail);
    for (Bounded* result : {&e.softmax_max, &e.softmax_sum}) {
      std::fill_n(result->value.values.end() - c.q_tail * c.heads, c.q_tail * c.heads, std::nan(""));
    }
  }

  Expected run() {
    for (int64_t b = 0; b < c.batch(); ++b) {
      if (c.kv_lens[b] == 0) continue;  // its rows are 0, stats too
      for (int64_t n = 0; n < c.heads; ++n) {
        for (int64_t i = 0; i < c.q_lens[b]; ++i) row(b, n, i);
      }
    }
    for (Bounded* result : {&e.attention_out, &e.dq, &e.dk, &e.dv, &e.dq_rope, &e.dk_rope, &e.dpse}) {
      round_once(*result, c.dtype);
    }
    return std::move(e);
  }

 private:
  static void skip_tail(Tensor& tensor, int64_t tail) {
    for (int64_t n = 0; n < tensor.sizes[1] && tail > 0; ++n) {
      std::fill_n(tensor.at(0, n, tensor.sizes[2] - tail), tail * tensor.sizes[3], std::nan(""));
    }
  }

  struct Score {
    int64_t j;
    double score, factor;  // factor: of dropout
    double p;
  };

  // Value and bound of one row, and its share of every gradient.
  void row(int64_t b, int64_t n, int64_t i) {
    const int64_t keys = c.kv_lens[b], kv_head = n / c.group(), tb = c.tensor_batch(b), q_row = c.q_begin(b) + i;
    const auto key_at = [&](const Tensor& t, int64_t j) { return t.at(tb, kv_head, c.kv_begin(b) + j); };
    const double *q = c.query.at(tb, n, q_row), *q_rope = c.query_rope.at(tb, n, q_row), *dy = c.dy.at(tb, n, q_row);
    double* const out = e.attention_out.value.at(tb, n, q_row);
    double* const out_error = e.attention_out.error.at(tb, n, q_row);

    std::vector<Score> seen;
    double magnitude = 0.0, lost_in_score = 0.0;
    double max = c.has_sink ? c.sink[n] : -std::numeric_limits<double>::infinity();
    for (int64_t j = 0; j < keys; ++j) {
      if (!visible(c, b, n, i, j)) continue;
      Dot qk;
      qk.add(q, key_at(c.key, j), c.qk_dim);
      qk.add(q_rope, key_at(c.key_rope, j), c.rope_dim);
      const double added = shift(c, b, n, i, j);
      seen.push_back({j, c.scale * qk.sum + added, dropout_factor(c, b, n, i, j), 0.0});
      magnitude = std::max(magnitude, std::abs(c.scale) * qk.magnitude + std::abs(added));
      lost_in_score = std::max(lost_in_score, std::abs(c.scale) * lost * qk.terms);
      max = std::max(max, seen.back().score);
    }
    const int64_t stat =
        c.stats_by_position ? (c.rows_before(b) + i) * c.heads + n : c.rows_before(b) * c.heads + n * c.q_lens[b] + i;
    if (seen.empty()) {
      e.softmax_max.value.values[stat] = c.has_sink ? max : -FLT_MAX;
      e.softmax_sum.value.values[stat] = c.has_sink ? 1.0 : FLT_MAX;
      return;
    }

    double sum = c.has_sink ? std::exp(c.sink[n] - max) : 0.0;
    for (Score& s : seen) sum += s.p = std::exp(s.score - max);
    // A score: products summed, a shift (distance, root, slope: three roundings) added, then scaled.
    const double score_error = static_cast<double>(c.qk_dim + c.rope_dim + 6) * product_u * magnitude + lost_in_score;
    // exp(score - max): errors of both, rounding of the subtraction, exp. The rescaling factors of the online softmax
    // multiply up to exp(total rise of the maximum), with one exp and one product for each step.
    const double spread = 2 * magnitude + (c.has_sink ? 2 * std::abs(c.sink[n]) : 0.0);
    const double steps = static_cast<double>(keys) / kKeysPerStep + 1;
    const double weight_error = std::expm1(2 * score_error + 2 * kU * spread + (kExpUlps + 2) * kU * (steps + 1));
    const double sum_error = weight_error + static_cast<double>(keys + 1) * kU;
    e.softmax_max.value.values[stat] = max;
    e.softmax_max.error.values[stat] = score_error + 2 * kU * std::abs(max);
    e.softmax_sum.value.values[stat] = sum;
    e.softmax_sum.error.values[stat] = sum_error * sum;

    for (Score& s : seen) {
      s.p /= sum;
      const double* v = key_at(c.value, s.j);
      for (int64_t d = 0; d < c.v_dim; ++d) {
        out[d] += s.p * s.factor * v[d];
        const double weight =
            2 * sum_error + 5 * kU + static_cast<double>(keys + 1) * (product_u - kU) + weight_u * (1 + 2 * sum_error);
        out_error[d] += (weight * s.p + kFlush) * s.factor * std::abs(v[d]) + kDenormal +
                        lost * (1.0 + s.p * s.factor + std::abs(v[d]));
      }
    }

    // The backward reads attention_out as it was rounded.
    double delta = 0.0, delta_error = 0.0;
    const FloatFormat& format = format_of(c.dtype);
    for (int64_t d = 0; d < c.v_dim; ++d) {
      const double rounded =
          out_error[d] + format.epsilon() / 2 * (std::abs(out[d]) + out_error[d]) + format.smallest_denormal();
      delta += dy[d] * out[d];
      delta_error += std::abs(dy[d]) * (rounded + static_cast<double>(c.v_dim + 1) * kU * std::abs(out[d]));
    }
    const double p_error = weight_error + sum_error + (kExpUlps + 3) * kU;
    const double summed_rows = static_cast<double>(c.q_lens[b] * c.group());
    const double rows_of_batch = static_cast<double>(c.rows_before(c.batch()));
    for (const Score& s : seen) {
      const double *k = key_at(c.key, s.j), *k_rope = key_at(c.key_rope, s.j), *v = key_at(c.value, s.j);
      Dot dyv;
      dyv.add(dy, v, c.v_dim);
      const double difference = dyv.sum * s.factor - delta, ds = s.p * difference;
      const double dp_error = static_cast<double>(c.v_dim + 4) * product_u * dyv.magnitude + lost * dyv.terms;
      const double ds_error = s.p * (dp_error * s.factor + delta_error) + std::abs(ds) * (p_error + 4 * kU) +
                              kFlush * std::abs(difference) + 2 * kDenormal;
      const double packed = ds_error + weight_u * (std::abs(ds) + ds_error);
      const double by_row = std::abs(c.scale) * (packed + static_cast<double>(keys + 2) * product_u * std::abs(ds));
      const double by_key = std::abs(c.scale) * (packed + (summed_rows + 2) * product_u * std::abs(ds));
      accumulate(e.dq, e.dq.value.at(tb, n, q_row), c.scale * ds, by_row, lost, k);
      accumulate(e.dq_rope, e.dq_rope.value.at(tb, n, q_row), c.scale * ds, by_row, lost, k_rope);
      accumulate(e.dk, key_at(e.dk.value, s.j), c.scale * ds, by_key, lost, q);
      accumulate(e.dk_rope, key_at(e.dk_rope.value, s.j), c.scale * ds, by_key, lost, q_rope);
      const double z = s.p * s.factor, z_error = p_error + (summed_rows + 4) * product_u + weight_u * (1 + p_error);
      accumulate(e.dv, key_at(e.dv.value, s.j), z, z * z_error + kFlush * s.factor, lost, dy);
      if (c.pse.count() > 0 && c.pse_type < 2) {
        const double by = c.pse_type == 1 ? c.scale : 1.0;
        const size_t index = static_cast<size_t>(pse_index(c, b, n, i, s.j));
        e.dpse.value.values[index] += by * ds;
        e.dpse.error.values[index] += std::abs(by) * (ds_error + (rows_of_batch + 1) * kU * std::abs(ds)) + kDenormal;
      }
    }
    if (c.has_sink) {
      const double weight = std::exp(c.sink[n] - max) / sum;
      e.dsink.value.values[n] -= weight * delta;
      e.dsink.error.values[n] +=
          std::abs(weight * delta) * (p_error + (rows_of_batch + 4) * kU) + weight * delta_error + 2 * kDenormal;
    }
  }

  const AttentionCase& c;
  double weight_u = 0.0, lost = 0.0, product_u = kU;
  Expected e;
};

}  // namespace

bool generator_keeps(uint64_t seed, uint64_t offset, double keep_prob, uint64_t element) {
  uint32_t x[4] = {static_cast<uint32_t>(element / 4), static_cast<uint32_t>(element / 4 >> 32),
                   static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32)};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53} * x[0], right = uint64_t{0xCD9E8D57} * x[2];
    x[0] = static_cast<uint32_t>(right >> 32) ^ x[1] ^ key[0];
    x[1] = static_cast<uint32_t>(right);
    x[2] = static_cast<uint32_t>(left >> 32) ^ x[3] ^ key[1];
    x[3] = static_cast<uint32_t>(left);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return static_cast<double>(x[element % 4]) < std::ceil(keep_prob * 0x1p32);
}

Expected expected_of(const AttentionCase& c) { return Reference(c).run(); }

}  // namespace ascendspeed::test
