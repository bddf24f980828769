// Every block of memory has exactly the size that the kernels are promised; outputs and scratch start as NaN.
#include "attention_call.h"

#include <stdexcept>
#include <thread>

#include "cpu/flash_backward.h"
#include "cpu/flash_forward.h"

namespace ascendspeed::test {
namespace {

Image image_of(const Tensor& tensor, DType dtype, Random& random) {
  Image image(dtype, tensor.sizes, random_strides(random, tensor.sizes, false));
  image.write(tensor);
  return image;
}

template <typename T>
ExactMemory memory_of(const std::vector<T>& values) {
  ExactMemory memory(static_cast<int64_t>(values.size() * sizeof(T)));
  if (!values.empty()) std::memcpy(memory.data(), values.data(), values.size() * sizeof(T));
  return memory;
}

ExactMemory sequences_of(const AttentionCase& c) {
  std::vector<Sequence> sequences;
  for (int64_t b = 0; c.packed && b < c.batch(); ++b) {
    sequences.push_back(
        {b, c.q_lens[b], c.kv_lens[b], c.q_begin(b), c.kv_begin(b), c.rows_before(b), c.scores_before(b)});
  }
  return memory_of(sequences);
}

ExactMemory mask_of(const AttentionCase& c, std::array<int64_t, 4>* strides, Random& random) {
  const auto& sizes = c.mask.sizes;
  *strides = random_strides(random, sizes, random.one_in(2));
  int64_t extent = c.mask.count() == 0 ? 0 : 1;
  for (int axis = 0; axis < 4 && extent > 0; ++axis) extent += (sizes[axis] - 1) * (*strides)[axis];
  ExactMemory memory(extent);
  for (int64_t b = 0; b < sizes[0]; ++b) {
    for (int64_t n = 0; n < sizes[1]; ++n) {
      for (int64_t i = 0; i < sizes[2]; ++i) {
        for (int64_t j = 0; j < sizes[3]; ++j) {
          const int64_t byte = b * (*strides)[0] + n * (*strides)[1] + i * (*strides)[2] + j * (*strides)[3];
          memory.data()[byte] = static_cast<uint8_t>(c.mask.at(b, n, i)[j]);
        }
      }
    }
  }
  for (int axis : {0, 1}) {
    if (sizes[axis] == 1) (*strides)[axis] = 0;
  }
  return memory;
}

std::vector<float> floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

// The tensor's own strides, 0 along the axes it has one of.
PsePlanes planes_of(const AttentionCase& c, const Image& pse) {
  const auto stride = [&](int axis) { return pse.sizes[axis] == 1 ? 0 : pse.strides[axis]; };
  if (c.pse_flat) return {0, 0, c.pse_form == PseForm::kOneRow ? 0 : 1, pse.strides[3], true};
  if (c.pse_form == PseForm::kSlopes) return {stride(0), stride(1), 0, 0, false};
  return {stride(0), stride(1), c.pse_form == PseForm::kOneRow ? 0 : pse.strides[2], pse.strides[3], false};
}

void fill(const Inputs& in, AttentionParams* p) {
  const AttentionCase& c = in.c;
  Geometry& g = p->geometry;
  g.batch = c.batch();
  g.heads = c.heads;
  g.kv_heads = c.kv_heads;
  g.q_len = c.longest_q();
  g.kv_len = c.longest_kv();
  g.qk_dim = c.qk_dim;
  g.v_dim = c.v_dim;
  g.rope_dim = c.rope_dim;
  g.q_total = c.q_total();
  g.kv_total = c.kv_total();
  g.sequences = c.packed ? in.sequences.as<const Sequence>() : nullptr;
  p->dtype = c.dtype;
  p->scale = c.scale;
  p->sparsity.masked = c.masked;
  p->sparsity.mode = c.sparse_mode;
  p->sparsity.pre_tockens = c.pre_tockens;
  p->sparsity.next_tockens = c.next_tockens;
  p->sparsity.prefix = in.prefix.as<const int64_t>();
  if (c.sparse_mode == 7 || c.sparse_mode == 8) {
    for (int64_t b = 0; b < c.batch(); ++b) {
      const bool first = p->sparsity.band < 0;
      if (c.q_lens[b] > 0 && (first || c.sparse_mode == 7)) p->sparsity.band = b;
    }
  }
  if (c.mask.count() > 0) {
    p->mask = {in.mask.data(), in.mask_strides[0], in.mask_strides[1], in.mask_strides[2], in.mask_strides[3]};
  }
  if (in.pse) {
    p->pse.data = in.pse->memory.data();
    p->pse.dtype = in.pse->dtype;
    p->pse.type = c.pse_type;
    p->pse.planes = planes_of(c, *in.pse);
    p->pse.shift = c.kv_start - c.q_start;
    p->pse.shifts_first_only = c.masked && c.sparse_mode == 8;
    p->pse.compressed = c.pse_form == PseForm::kCompressed;
  }
  if (c.has_sink) p->sink = in.sink.as<const float>();
  if (c.dropout != DropoutForm::kNone) {
    p->dropout = {true,
                  static_cast<float>(1.0 / c.keep_prob),
                  c.dropout == DropoutForm::kBits ? in.drop_bits.data() : nullptr,
                  c.seed,
                  c.offset,
                  most_of_keep_prob(c.keep_prob)};
  }
  const auto view = [&](const Image& image) {
    ConstView result = image.view();
    if (c.packed) result.strides.batch = 0;
    return result;
  };
  p->query = view(in.query);
  p->key = view(in.key);
  p->value = view(in.value);
  if (c.rope_dim > 0) {
    p->query_rope = view(in.query_rope);
    p->key_rope = view(in.key_rope);
  }
  p->stats_by_position = c.stats_by_position;
}

// Runs `body` with scratch of `bytes` bytes, which must not write beyond them.
template <typename Body>
void with_scratch(const char* kernel, int64_t bytes, Body&& body) {
  const ExactMemory scratch(bytes);
  body(scratch.data());
  if (!scratch.margins_intact()) throw std::runtime_error(std::string(kernel) + " wrote outside its scratch");
}

}  // namespace

cpu::Parallel std_threads(int threads) {
  return {threads, [](int count, void (*body)(void*, int), void* state) {
            std::vector<std::thread> others;
            for (int thread = 1; thread < count; ++thread) others.emplace_back(body, state, thread);
            body(state, 0);
            for (std::thread& other : others) other.join();
          }};
}

cpu::Parallel serial_threads(int threads) {
  return {threads, [](int count, void (*body)(void*, int), void* state) {
            for (int thread = count - 1; thread >= 0; --thread) body(state, thread);
          }};
}

Inputs::Inputs(const AttentionCase& problem) : Inputs(problem, Random(problem.number + 1'000'003)) {}

Inputs::Inputs(const AttentionCase& problem, Random random)
    : c(problem),
      query(image_of(c.query, c.dtype, random)),
      key(image_of(c.key, c.dtype, random)),
      value(image_of(c.value, c.dtype, random)),
      query_rope(image_of(c.query_rope, c.dtype, random)),
      key_rope(image_of(c.key_rope, c.dtype, random)),
      dy(image_of(c.dy, c.dtype, random)),
      mask(mask_of(c, &mask_strides, random)),
      sink(memory_of(floats(c.sink))),
      prefix(memory_of(c.prefix)),
      drop_bits(memory_of(c.drop_bits)),
      sequences(sequences_of(c)) {
  if (c.pse_form == PseForm::kNone) return;
  const DType dtype = c.pse_form == PseForm::kSlopes ? DType::kFloat32 : c.dtype;
  pse = std::make_unique<Image>(image_of(c.pse, dtype, random));
}

std::vector<Output> call_kernels(const Inputs& in, const cpu::Parallel& parallel, int64_t sum_bytes, int64_t missing) {
  const AttentionCase& c = in.c;
  Random random(c.number + 2'000'003);  // the same memory layout in every call for one case
  std::vector<Output> outputs;
  const auto output = [&](const char* name, DType dtype, const std::array<int64_t, 4>& sizes, bool contiguous) {
    auto image =
        std::make_unique<Image>(dtype, sizes, random_strides(random, sizes, contiguous), outputs.empty() ? missing : 0);
    View view = image->mutable_view();
    if (c.packed) view.strides.batch = 0;
    outputs.push_back({name, std::move(image)});
    return view;
  };
  const int64_t stats = (c.packed ? c.q_total() : c.rows_before(c.batch())) * c.heads * kStatLanes;

  ForwardParams forward;
  fill(in, &forward);
  forward.attention_out = output("attention_out", c.dtype, c.dy.sizes, false);
  forward.softmax_max = static_cast<float*>(output("softmax_max", DType::kFloat32, {1, 1, 1, stats}, true).data);
  forward.softmax_sum = static_cast<float*>(output("softmax_sum", DType::kFloat32, {1, 1, 1, stats}, true).data);
  with_scratch("flash_forward", cpu::forward_scratch_bytes(forward, parallel.threads),
               [&](void* scratch) { cpu::flash_forward(forward, parallel, scratch); });

  BackwardParams backward;
  backward.sum_bytes_per_thread = sum_bytes;
  fill(in, &backward);
  backward.dy = in.dy.view();
  backward.attention_in = outputs[0].image->view();
  if (c.packed) backward.dy.strides.batch = backward.attention_in.strides.batch = 0;
  backward.softmax_max = forward.softmax_max;
  backward.softmax_sum = forward.softmax_sum;
  backward.dq = output("dq", c.dtype, c.query.sizes, false);
  backward.dk = output("dk", c.dtype, c.key.sizes, false);
  backward.dv = output("dv", c.dtype, c.value.sizes, false);
  if (c.rope_dim > 0) {
    backward.dq_rope = output("dq_rope", c.dtype, c.query_rope.sizes, false);
    backward.dk_rope = output("dk_rope", c.dtype, c.key_rope.sizes, false);
  }
  if (c.pse.count() > 0 && c.pse_type < 2) {  // slopes have no gradient
    backward.dpse.data = output("dpse", c.dtype, c.pse.sizes, true).data;
    backward.dpse.planes = planes_of(c, *outputs.back().image);
  }
  if (c.has_sink) {
    backward.dsink = static_cast<float*>(output("dsink", DType::kFloat32, {1, 1, 1, c.heads}, true).data);
  }
  with_scratch("flash_backward", cpu::backward_scratch_bytes(backward, parallel.threads),
               [&](void* scratch) { cpu::flash_backward(backward, parallel, scratch); });

  for (const Output& written : outputs) {
    if (!written.image->gaps_intact()) throw std::runtime_error(written.name + ": memory around it was written");
  }
  return outputs;
}

}  // namespace ascendspeed::test
