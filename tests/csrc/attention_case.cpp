// Random problems that the rules would accept, at and around the sizes where tiles, vectors and bytes end.
#include "attention_case.h"

#include <limits>

namespace ascendspeed::test {
namespace {

constexpr int64_t kDenseModes[] = {0, 1, 2, 3, 4, 5, 6}, kPackedModes[] = {0, 1, 2, 7, 8, 3, 4, 6, 7, 8};
constexpr int kCompressedEvery = 40;    // the compressed pse needs 1024 rows, which is slow
constexpr int64_t kMostWork = 400'000;  // scores x sizes of heads

int64_t random_length(Random& random) {
  if (random.one_in(3)) return random.whole(1, 210);
  return random.pick<int64_t>({1,  2,  3,  5,  7,  8,  12,  15,  16,  17,  31,  33,  48,  63, 65,
                               71, 72, 73, 95, 96, 97, 100, 127, 143, 144, 145, 191, 192, 193});
}

int64_t random_dim(Random& random) {
  return random.pick<int64_t>({1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 64, 65, 130});
}

// Nothing to attend to at all is not the kernels' business.
void keep_one(std::vector<int64_t>& lens, int64_t least) {
  if (*std::max_element(lens.begin(), lens.end()) == 0) lens.back() = least;
}

void draw_lengths(Random& random, AttentionCase& c) {
  const int64_t batch = c.packed ? random.whole(1, 6) : random.whole(1, 3);
  for (int64_t b = 0; b < batch; ++b) {
    c.q_lens.push_back(c.packed || b == 0 ? random_length(random) : c.q_lens[0]);
    c.kv_lens.push_back(c.packed || b == 0 ? random_length(random) : c.kv_lens[0]);
    if (random.one_in(4)) c.kv_lens[b] = c.q_lens[b] = c.packed ? c.q_lens[b] : c.q_lens[0];
  }
  if (!c.packed) c.kv_lens.assign(batch, c.kv_lens[0]);
  if (random.one_in(8) && !c.packed) {  // more rows than the blocks one thread holds at once
    c.q_lens.assign(batch, random.whole(285, 330));
    c.kv_lens.assign(batch, random.whole(1, 30));
    c.heads = 4;
    c.kv_heads = random.pick<int64_t>({1, 2, 4});
  }
  if (!c.packed) return;
  for (int64_t b = 0; b < batch; ++b) {
    if (random.one_in(5)) c.q_lens[b] = 0;
    if (random.one_in(6)) c.kv_lens[b] = 0;
  }
  if (random.one_in(3)) c.q_tail = random.whole(1, 9);
  if (random.one_in(3)) c.kv_tail = random.whole(1, 9);
  c.stats_by_position = random.one_in(2);
}

void shrink(Random& random, AttentionCase& c) {
  const auto work = [&] { return c.heads * c.scores_before(c.batch()) * (c.qk_dim + c.v_dim + c.rope_dim); };
  while (work() > kMostWork) {
    if (c.qk_dim > 8 && random.one_in(2)) {
      c.qk_dim /= 2;
      c.v_dim = std::max<int64_t>(c.v_dim / 2, 1);
      c.rope_dim /= 2;
    } else if (c.batch() > 1) {
      c.q_lens.pop_back();
      c.kv_lens.pop_back();
    } else {
      c.q_lens[0] = std::max<int64_t>(c.q_lens[0] * 3 / 4, 1);
    }
  }
}

int64_t random_tokens(Random& random, int64_t least, int64_t length) {
  constexpr auto kLimits = std::numeric_limits<int64_t>{};
  if (random.one_in(5)) return random.pick<int64_t>({2147483647, kLimits.max(), kLimits.max() - 1, int64_t{1} << 40});
  return random.whole(least, length + 3);
}

// Mode, and lengths and tokens as the mode wants them.
void draw_mode(Random& random, AttentionCase& c) {
  const int64_t batch = c.batch(), mode = c.sparse_mode;
  int64_t band = -1;  // of modes 7 and 8
  for (int64_t b = 0; b < batch; ++b) {
    if (c.q_lens[b] > 0 && (band < 0 || mode == 7)) band = b;
  }
  if (c.packed && (mode == 3 || mode == 7)) {
    for (int64_t b = 0; b < batch; ++b) {
      if (c.q_lens[b] > c.kv_lens[b] && c.kv_lens[b] > 0) std::swap(c.q_lens[b], c.kv_lens[b]);
    }
  }
  const int64_t q = c.longest_q(), kv = c.longest_kv();
  const int64_t off = mode == 4 ? kv - q : 0;
  // Some limits exclude every key of some rows, or of all: a row without keys has a documented result.
  c.pre_tockens = random_tokens(random, std::min<int64_t>(off, 0), kv);
  c.next_tockens = random_tokens(random, -2, kv);
  if (mode == 7 || mode == 8) {
    const int64_t rows = c.q_lens[band], keys = c.kv_lens[band];
    c.pre_tockens = random.pick<int64_t>({keys, keys + 5, 2147483647});
    c.next_tockens = mode == 7 ? -random.whole(0, std::max<int64_t>(keys - rows, 0))
                               : rows - keys + random.whole(0, 6) * random.whole(0, 6);
  }
  if (mode != 6) return;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t least = std::max<int64_t>(c.kv_lens[b] - c.q_lens[b], 0);
    c.prefix.push_back(random.pick({random.whole(std::min(least, c.kv_lens[b]), c.kv_lens[b]), least, c.kv_lens[b]}));
  }
}

void draw_mask(Random& random, AttentionCase& c) {
  if (c.sparse_mode != 0 && c.sparse_mode != 1 && c.sparse_mode != 5) return;
  const bool per_batch = !c.packed && random.one_in(2), per_head = per_batch && random.one_in(2);
  const int64_t rows = c.longest_q(), keys = c.longest_kv();
  c.mask = Tensor({per_batch ? c.batch() : 1, per_head ? c.heads : 1, rows, keys});
  const double density = random.pick({0.0, 0.1, 0.5, 0.9, 1.0});
  const bool causal = random.one_in(3), blocks = random.one_in(3);
  const double truth = random.pick({1.0, 255.0, 128.0});  // any byte but 0 excludes
  for (int64_t b = 0; b < c.mask.sizes[0]; ++b) {
    for (int64_t n = 0; n < c.mask.sizes[1]; ++n) {
      const int64_t first_row = random.whole(0, rows), first_key = random.whole(0, keys);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < keys; ++j) {
          const bool out = causal   ? j > i + keys - rows
                           : blocks ? i >= first_row || j >= first_key
                                    : random.unit() < density;
          c.mask.at(b, n, i)[j] = out ? truth : 0.0;
        }
      }
    }
  }
}

void draw_pse(Random& random, AttentionCase& c) {
  if (c.packed) {  // without a shift of their own, CANN refuses empty sequences beside it
    for (int64_t b = 0; b < c.batch(); ++b) {
      if (c.q_lens[b] == 0 || c.kv_lens[b] == 0) return;
    }
    if (c.sparse_mode == 7) return;
  }
  c.pse_type = random.whole(0, 3);
  const int64_t batches = c.packed || random.one_in(2) ? 1 : c.batch();
  if (c.pse_type >= 2) {
    c.pse_form = PseForm::kSlopes;
    c.pse = random_tensor(random, {random.one_in(2) ? c.batch() : 1, c.heads, 1, 1}, DType::kFloat32, 0.2);
    if (random.one_in(2)) {
      c.q_start = random.whole(0, 300);
      c.kv_start = random.one_in(6) ? (int64_t{1} << 24) + 1 : random.whole(0, 300);
    }
    return;
  }
  c.pse_form = random.one_in(2) ? PseForm::kRows : PseForm::kOneRow;
  c.pse_flat = c.packed;
  const int64_t rows = c.pse_form == PseForm::kRows ? c.q_lens[0] : 1;
  const int64_t flat = c.heads * (c.pse_form == PseForm::kRows ? c.scores_before(c.batch()) : c.kv_total() - c.kv_tail);
  c.pse = random_tensor(random,
                        c.pse_flat ? std::array{int64_t{1}, int64_t{1}, int64_t{1}, flat}
                                   : std::array{batches, c.heads, rows, c.kv_lens[0]},
                        c.dtype, 1.0);
}

// 1024 rows that stand for more: a causal mask, as many keys as rows, small otherwise.
void draw_compressed(Random& random, AttentionCase& c) {
  const int64_t batch = c.packed ? 2 : 1;
  for (int64_t b = 0; b < batch; ++b) c.q_lens.push_back(1024 + random.whole(0, 100) * random.whole(0, 1));
  c.kv_lens = c.q_lens;
  c.qk_dim = 2;
  c.masked = true;
  c.sparse_mode = random.pick<int64_t>({2, 3});
  c.pse_form = PseForm::kCompressed;
  c.pse_type = random.whole(0, 1);
  c.pse = random_tensor(random, {random.one_in(2) ? batch : 1, c.heads, 1024, c.longest_kv()}, c.dtype, 1.0);
}

void draw_dropout(Random& random, AttentionCase& c) {
  c.dropout = random.pick({DropoutForm::kNone, DropoutForm::kNone, DropoutForm::kBits, DropoutForm::kSeed});
  if (c.dropout == DropoutForm::kNone) return;
  c.keep_prob = random.pick({0.9, 0.5, 0.3, 0.05, 1.0});
  c.seed = random.bits();
  c.offset = random.bits();
  if (c.dropout != DropoutForm::kBits) return;
  c.drop_bits.resize(static_cast<size_t>((c.heads * c.scores_before(c.batch()) + 7) / 8));
  for (uint8_t& byte : c.drop_bits) byte = static_cast<uint8_t>(random.bits() & random.bits());
}

void draw_tensors(Random& random, AttentionCase& c) {
  const int64_t batches = c.packed ? 1 : c.batch();
  const auto draw = [&](int64_t heads, int64_t total, int64_t tail, int64_t dim) {
    Tensor tensor = random_tensor(random, {batches, heads, total, dim}, c.dtype, 1.0);
    for (int64_t n = 0; n < heads && tail > 0; ++n) {
      std::fill_n(tensor.at(0, n, total - tail), tail * dim, std::nan(""));
    }
    return tensor;
  };
  c.query = draw(c.heads, c.q_total(), c.q_tail, c.qk_dim);
  c.key = draw(c.kv_heads, c.kv_total(), c.kv_tail, c.qk_dim);
  c.value = draw(c.kv_heads, c.kv_total(), c.kv_tail, c.v_dim);
  c.dy = draw(c.heads, c.q_total(), c.q_tail, c.v_dim);
  c.query_rope = draw(c.heads, c.q_total(), c.q_tail, c.rope_dim);
  c.key_rope = draw(c.kv_heads, c.kv_total(), c.kv_tail, c.rope_dim);
}

}  // namespace

AttentionCase random_case(uint64_t number) {
  Random random(number);
  AttentionCase c;
  c.number = number;
  c.packed = number % 2 == 1;
  c.dtype = random.pick({DType::kFloat32, DType::kFloat16, DType::kBFloat16});
  c.kv_heads = random.whole(1, 3);
  c.heads = c.kv_heads * random.whole(1, 3);
  if (number % kCompressedEvery / 2 == kCompressedEvery / 4) {
    c.heads = c.kv_heads = 1;
    draw_compressed(random, c);
  } else {
    c.qk_dim = random_dim(random);
    c.v_dim = std::min(c.qk_dim, random.one_in(2) ? random_dim(random) : c.qk_dim);
    if (random.one_in(4)) c.rope_dim = std::min(c.qk_dim, random_dim(random));
    draw_lengths(random, c);
    shrink(random, c);
    keep_one(c.q_lens, 5);
    keep_one(c.kv_lens, 9);
    c.masked = !random.one_in(8);
    c.sparse_mode = c.packed ? kPackedModes[number / 2 % std::size(kPackedModes)]
                             : kDenseModes[number / 2 % std::size(kDenseModes)];
    draw_mode(random, c);
    if (c.masked) draw_mask(random, c);
    if (random.one_in(2)) draw_pse(random, c);
  }
  c.scale = static_cast<float>(random.pick({1.0 / std::sqrt(static_cast<double>(c.qk_dim)), 1.0, 0.3, -0.5}));
  c.has_sink = random.one_in(4);
  for (int64_t n = 0; c.has_sink && n < c.heads; ++n) c.sink.push_back(kFloat32Format.round(2.0 * random.normal()));
  draw_dropout(random, c);
  draw_tensors(random, c);
  return c;
}

std::string AttentionCase::text() const {
  const auto list = [](const std::vector<int64_t>& values) {
    std::string out = "[";
    for (size_t i = 0; i < values.size(); ++i) out += (i == 0 ? "" : ",") + std::to_string(values[i]);
    return out + "]";
  };
  std::string out = "case " + std::to_string(number) + (packed ? ": packed" : ": dense");
  out += " Sq=" + list(q_lens) + " Skv=" + list(kv_lens) + " tails=" + list({q_tail, kv_tail});
  out += " N=" + std::to_string(heads) + " Nkv=" + std::to_string(kv_heads) + " D=" + std::to_string(qk_dim) +
         " Dv=" + std::to_string(v_dim) + " Drope=" + std::to_string(rope_dim);
  out += dtype == DType::kFloat32 ? " float32" : dtype == DType::kFloat16 ? " float16" : " bfloat16";
  if (masked) {
    out += " mode=" + std::to_string(sparse_mode) + " pre=" + std::to_string(pre_tockens) +
           " next=" + std::to_string(next_tockens) + " prefix=" + list(prefix);
  }
  if (pse_form != PseForm::kNone) {
    out += " pse_form=" + std::to_string(static_cast<int>(pse_form)) + " pse_type=" + std::to_string(pse_type) +
           " start=" + list({q_start, kv_start});
  }
  if (dropout != DropoutForm::kNone) {
    out += std::string(dropout == DropoutForm::kBits ? " bits" : " seed") + " keep_prob=" + std::to_string(keep_prob);
  }
  return out + (has_sink ? " sink" : "") + (stats_by_position ? " stats=[T,N,8]" : "");
}

}  // namespace ascendspeed::test
