// check_forward and check_backward on nonsense: always a verdict with a sentence, whatever the numbers are.
//
// A problem starts legal, so that the later rules are reached too, and then some of its values are replaced.
#include "attention/rules.h"

#include <cmath>
#include <limits>
#include <stdexcept>

#include "checks.h"
#include "random.h"

namespace ascendspeed::test {
namespace {

constexpr int64_t kLeast = std::numeric_limits<int64_t>::min(), kMost = std::numeric_limits<int64_t>::max();

int64_t nonsense(Random& random) {
  if (random.one_in(4)) return static_cast<int64_t>(random.bits());
  return random.pick<int64_t>({kLeast,
                               kLeast + 1,
                               -(int64_t{1} << 62),
                               -2147483648,
                               -2,
                               -1,
                               0,
                               1,
                               2,
                               3,
                               4,
                               5,
                               6,
                               7,
                               8,
                               9,
                               16,
                               128,
                               768,
                               769,
                               1023,
                               1024,
                               1025,
                               2047,
                               2048,
                               3072,
                               20001,
                               1 << 20,
                               (1 << 20) + 1,
                               2147483647,
                               int64_t{1} << 31,
                               int64_t{1} << 32,
                               int64_t{1} << 62,
                               kMost - 1,
                               kMost});
}

std::vector<int64_t> nonsense_list(Random& random, int64_t most) {
  std::vector<int64_t> list(static_cast<size_t>(random.whole(0, most)));
  for (int64_t& value : list) value = nonsense(random);
  return list;
}

struct NamedDType {
  DType dtype;
  const char* name;
};
constexpr NamedDType kDTypes[] = {{DType::kFloat32, "float32"},   {DType::kFloat16, "float16"},
                                  {DType::kBFloat16, "bfloat16"}, {DType::kBool, "bool"},
                                  {DType::kUInt8, "uint8"},       {DType::kOther, "complex64"}};

TensorInfo tensor(std::vector<int64_t> sizes, DType dtype) {
  return {std::move(sizes), dtype, kDTypes[static_cast<int>(dtype)].name};
}

// A legal problem of a random layout and mode, with or without each optional argument.
BackwardProblem legal(Random& random) {
  BackwardProblem p;
  Attributes& a = p.attributes;
  const int64_t batch = random.whole(1, 3), q = random.pick<int64_t>({1, 4, 7, 1024, 1100});
  const int64_t kv = random.one_in(2) ? q : q + random.whole(0, 5), kv_heads = random.whole(1, 3);
  const int64_t heads = kv_heads * random.whole(1, 3), dim = random.whole(1, 16), v_dim = random.whole(1, dim);
  const DType dtype = random.pick({DType::kFloat16, DType::kBFloat16});
  a.head_num = heads;
  a.input_layout = random.pick({"BSH", "SBH", "BSND", "BNSD", "TND", "tnd"});
  const bool packed = a.input_layout == "TND" || a.input_layout == "tnd";
  const auto shape = [&](int64_t length, int64_t n, int64_t d) -> std::vector<int64_t> {
    if (packed) return {batch * length, n, d};
    if (a.input_layout == "BSH") return {batch, length, n * d};
    if (a.input_layout == "SBH") return {length, batch, n * d};
    if (a.input_layout == "BSND") return {batch, length, n, d};
    return {batch, n, length, d};
  };
  p.query = tensor(shape(q, heads, dim), dtype);
  p.key = tensor(shape(kv, kv_heads, dim), dtype);
  p.value = tensor(shape(kv, kv_heads, v_dim), dtype);
  p.dy = tensor(shape(q, heads, v_dim), dtype);
  p.attention_in = p.dy;
  const TensorInfo stats = tensor(
      packed ? std::vector{batch * q, heads, int64_t{8}} : std::vector{batch, heads, q, int64_t{8}}, DType::kFloat32);
  p.softmax_max = p.softmax_sum = stats;
  if (packed) {
    a.actual_seq_qlen.emplace();
    a.actual_seq_kvlen.emplace();
    for (int64_t b = 1; b <= batch; ++b) {
      a.actual_seq_qlen->push_back(b * q);
      a.actual_seq_kvlen->push_back(b * kv);
    }
    a.softmax_layout = random.pick({"", "TND", "same_as_input"});
  }
  if (!random.one_in(4)) {
    a.sparse_mode = packed ? random.pick<int64_t>({0, 1, 2, 3, 4, 6, 7, 8}) : random.whole(0, 6);
    const bool full = a.sparse_mode < 2 || a.sparse_mode == 5;
    a.atten_mask = tensor(full ? std::vector{q, kv} : std::vector<int64_t>{a.sparse_mode == 6 ? 3072 : 2048, 2048},
                          random.pick({DType::kBool, DType::kUInt8}));
    if (a.sparse_mode == 5) a.atten_mask->sizes = {batch, 1, q, kv};
    if (a.sparse_mode == 6) a.prefix.emplace(static_cast<size_t>(batch), kv);
    if (a.sparse_mode == 7) a.next_tockens = -random.whole(0, kv - q);
    if (a.sparse_mode == 4) a.pre_tockens = a.next_tockens = random.whole(0, 9);
  }
  if (random.one_in(3) && !(a.atten_mask && (a.sparse_mode == 7 || (a.sparse_mode == 8 && q != kv)))) {
    a.pse_type = q == kv ? random.whole(0, 3) : random.whole(0, 1);
    a.pse = a.pse_type >= 2 ? tensor({heads}, DType::kFloat32)
            : packed        ? tensor({heads * batch * kv}, dtype)
                            : tensor({1, heads, random.one_in(2) ? q : 1, kv}, dtype);
    a.q_start_idx = a.kv_start_idx = std::vector<int64_t>{nonsense(random)};
  }
  if (random.one_in(3)) a.sink = tensor({heads}, DType::kFloat32);
  if (random.one_in(3)) {
    a.keep_prob = 0.5;
    a.drop_mask = tensor({(batch * heads * q * kv + 7) / 8}, DType::kUInt8);
  }
  return p;
}

void spoil(Random& random, TensorInfo& t) {
  switch (random.whole(0, 3)) {
    case 0:
      t.sizes = nonsense_list(random, 6);
      break;
    case 1:
      if (t.sizes.empty()) break;
      [[fallthrough]];
    case 2:
      if (!t.sizes.empty()) t.sizes[static_cast<size_t>(random.whole(0, t.sizes.size() - 1))] = nonsense(random);
      break;
    default:
      t = tensor(t.sizes, static_cast<DType>(random.whole(0, 5)));
  }
}

void spoil(Random& random, OptionalTensor& t) {
  if (random.one_in(4)) {
    t.reset();
  } else {
    if (!t) t = tensor(nonsense_list(random, 5), static_cast<DType>(random.whole(0, 5)));
    spoil(random, *t);
  }
}

void spoil(Random& random, OptionalInts& list) {
  if (random.one_in(5)) {
    list.reset();
  } else if (!list || list->empty() || random.one_in(3)) {
    list = nonsense_list(random, random.one_in(50) ? 20001 : 5);
  } else {
    (*list)[static_cast<size_t>(random.whole(0, list->size() - 1))] = nonsense(random);
  }
}

void spoil(Random& random, double& value) {
  constexpr auto kLimits = std::numeric_limits<double>{};
  value = random.pick({0.0, -0.0, 1.0, -1.0, 0.5, 1e308, -1e308, kLimits.infinity(), -kLimits.infinity(),
                       kLimits.quiet_NaN(), kLimits.denorm_min(), 1.0 + 0x1p-52});
}

void spoil(Random& random, std::string& text) {
  text = random.pick({std::string(), std::string("TND"), std::string("BSH"), std::string("bsnd"), std::string("SBH"),
                      std::string("BNSD"), std::string("same_as_input"), std::string("B\0SH", 4),
                      std::string("\xff\x80\n"), std::string(5000, 'B')});
}

void spoil(Random& random, BackwardProblem& p) {
  Attributes& a = p.attributes;
  OptionalTensor* tensors[] = {&p.query, &p.key, &p.value, &p.dy};
  OptionalTensor* optionals[] = {&p.softmax_max, &p.softmax_sum, &p.softmax_in,   &p.attention_in,
                                 &a.pse,         &a.drop_mask,   &a.padding_mask, &a.atten_mask,
                                 &a.sink,        &a.query_rope,  &a.key_rope};
  OptionalInts* lists[] = {&a.prefix, &a.actual_seq_qlen, &a.actual_seq_kvlen, &a.q_start_idx, &a.kv_start_idx};
  int64_t* numbers[] = {&a.head_num, &a.pre_tockens, &a.next_tockens, &a.inner_precise, &a.sparse_mode, &a.pse_type};
  switch (random.whole(0, 5)) {
    case 0:
      return spoil(random, *tensors[random.whole(0, std::size(tensors) - 1)]);
    case 1:
      return spoil(random, *optionals[random.whole(0, std::size(optionals) - 1)]);
    case 2:
      return spoil(random, *lists[random.whole(0, std::size(lists) - 1)]);
    case 3:
      *numbers[random.whole(0, std::size(numbers) - 1)] = nonsense(random);
      return;
    case 4:
      return spoil(random, random.one_in(2) ? a.scale : a.keep_prob);
    default:
      return spoil(random, random.one_in(2) ? a.input_layout : a.softmax_layout);
  }
}

void check_status(const Status& status, const Resolved& resolved) {
  const auto fail = [&](const std::string& what) {
    throw std::runtime_error("rules: " + what + ": " + status.message);
  };
  const std::string code = status.verdict == Verdict::kNullPointer    ? " [161001]"
                           : status.verdict == Verdict::kInvalidParam ? " [161002]"
                                                                      : "";
  if (!status.ok()) {
    if (!status.message.ends_with(code) || status.message.size() < code.size() + 8)
      fail("a refusal without a sentence");
    return;
  }
  const Geometry& g = resolved.geometry;
  for (int64_t size : {g.batch, g.heads, g.kv_heads, g.q_len, g.kv_len, g.qk_dim, g.v_dim, g.rope_dim}) {
    if (size < 0)
      fail("a negative size was accepted: B, N, Nkv, Sq, Skv, D, Dv, Drope = " +
           shape_text({g.batch, g.heads, g.kv_heads, g.q_len, g.kv_len, g.qk_dim, g.v_dim, g.rope_dim}));
  }
  for (const Sequence& s : resolved.sequences) {
    if (s.q_len < 0 || s.kv_len < 0 || s.q_begin + s.q_len > g.q_total || s.kv_begin + s.kv_len > g.kv_total) {
      fail("sequence " + std::to_string(s.index) + " is not inside its tensors");
    }
  }
}

}  // namespace

bool check_rules(uint64_t number) {
  Random random(number);
  BackwardProblem p = legal(random);
  const int64_t spoilt = number % 8 == 0 ? 0 : random.whole(1, 4);
  for (int64_t i = 0; i < spoilt; ++i) spoil(random, p);
  Resolved forward, backward;
  const Status forwards = check_forward({p.query, p.key, p.value, p.attributes}, &forward);
  check_status(forwards, forward);
  const Status backwards = check_backward(p, &backward);
  check_status(backwards, backward);
  if (spoilt == 0 && !backwards.ok())
    throw std::runtime_error("rules: a legal problem is refused: " + backwards.message);
  if (backwards.ok() && !forwards.ok())
    throw std::runtime_error("rules: only the forward refuses: " + forwards.message);
  return forwards.ok();
}

}  // namespace ascendspeed::test
