#include "hostcann/aclnn/problem.h"

#include <omp.h>

#include "attention/layout.h"
#include "hostcann/aclnn/checks.h"
#include "hostcann/aclnn/status.h"

namespace hostcann {
namespace {

void check_pointers(const Arguments& a, bool backward) {
  struct Required {
    const char* name;
    const void* pointer;
    bool needed;
  };
  const Required required[] = {
      {"query", a.query, true},
      {"key", a.key, true},
      {"value", a.value, true},
      {"dy", a.dy, backward},
      {"input_layout", a.input_layout, true},
      {"softmax_max", a.softmax_max, true},
      {"softmax_sum", a.softmax_sum, true},
      {"attention_in", a.attention_in, backward},
      {"attention_out", a.attention_out, !backward},
      {"dq", a.dq, backward},
      {"dk", a.dk, backward},
      {"dv", a.dv, backward},
      {"dq_rope", a.dq_rope, backward && a.query_rope != nullptr},
      {"dk_rope", a.dk_rope, backward && a.key_rope != nullptr},
      {"dsink", a.dsink, backward && a.sink != nullptr && !is_empty(*a.sink)},
  };
  for (const auto& [name, pointer, needed] : required) {
    if (needed && pointer == nullptr) refuse_null(name);
  }
}

void check_layout(const Api& api, const std::string& layout) {
  if (api.layouts == Api::kPacked && layout != "TND") {
    refuse_value("input_layout='" + layout + "': this call takes 'TND' only");
  }
  ascendspeed::Layout parsed;
  require(ascendspeed::parse_layout(layout, &parsed));
  if (api.layouts == Api::kDense && parsed == ascendspeed::Layout::kTND) {
    refuse_value("input_layout='" + layout + "': packed batches have a call of their own");
  }
}

void check_absent(const Arguments& a) {
  const struct {
    const char* name;
    const aclTensor* tensor;
  } scales[] = {{"d_scale_q", a.d_scale_q},
                {"d_scale_k", a.d_scale_k},
                {"d_scale_v", a.d_scale_v},
                {"d_scale_dy", a.d_scale_dy},
                {"d_scale_o", a.d_scale_o}};
  for (const auto& [name, tensor] : scales) {
    if (tensor != nullptr) refuse_value(of(name, *tensor) + ": quantised inputs are not implemented, must be null");
  }
  if (a.out_dtype.value_or(0) != 0) {
    refuse_value("out_dtype=" + std::to_string(*a.out_dtype) + ": quantised inputs are not implemented, must be 0");
  }
  if (a.softmax_out != nullptr && !is_empty(*a.softmax_out)) {
    refuse_value(of("softmax_out", *a.softmax_out) + ": reserved by CANN, must be null or empty");
  }
}

// Lists that a caller without them passes empty, as torch_npu does.
ascendspeed::OptionalInts given(const aclIntArray* array) {
  return array == nullptr || array->values.empty() ? std::nullopt : describe(array);
}

}  // namespace

void check_arguments(const Api& api, const Arguments& a, bool backward) {
  check_pointers(a, backward);
  a.for_each_tensor(check_tensor);
  check_layout(api, a.input_layout);
  check_absent(a);
}

ascendspeed::Attributes attributes_of(const Arguments& a) {
  ascendspeed::Layout layout;
  require(ascendspeed::parse_layout(a.input_layout, &layout));
  const bool packed = layout == ascendspeed::Layout::kTND;
  ascendspeed::Attributes attributes;
  attributes.head_num = a.head_num;
  attributes.input_layout = a.input_layout;
  attributes.pse = describe(a.pse);
  attributes.drop_mask = describe(a.drop_mask);
  attributes.padding_mask = describe(a.padding_mask);
  attributes.atten_mask = describe(a.atten_mask);
  attributes.sink = describe(a.sink);
  attributes.query_rope = describe(a.query_rope);
  attributes.key_rope = describe(a.key_rope);
  attributes.prefix = given(a.prefix);
  attributes.actual_seq_qlen = packed ? describe(a.actual_seq_qlen) : given(a.actual_seq_qlen);
  attributes.actual_seq_kvlen = packed ? describe(a.actual_seq_kvlen) : given(a.actual_seq_kvlen);
  attributes.q_start_idx = given(a.q_start_idx);
  attributes.kv_start_idx = given(a.kv_start_idx);
  attributes.scale = a.scale;
  attributes.keep_prob = a.keep_prob;
  attributes.pre_tockens = a.pre_tockens;
  attributes.next_tockens = a.next_tockens;
  attributes.inner_precise = a.inner_precise;
  attributes.sparse_mode = a.sparse_mode;
  attributes.pse_type = a.pse_type.value_or(ascendspeed::kInsideScale);
  attributes.softmax_layout = a.softmax_layout == nullptr ? "" : a.softmax_layout;
  return attributes;
}

Inputs::Inputs(const Arguments& a, Workspace* workspace)
    : query(a.query),
      key(a.key),
      value(a.value),
      pse(a.pse),
      atten_mask(a.atten_mask),
      query_rope(a.query_rope),
      key_rope(a.key_rope),
      sink(a.sink, workspace),
      drop_mask(a.drop_mask, workspace),
      seed(static_cast<uint64_t>(a.seed.value_or(0))),
      offset(static_cast<uint64_t>(a.offset.value_or(0))) {}

void Inputs::copy_in(char* workspace) const {
  sink.copy_in(workspace);
  drop_mask.copy_in(workspace);
}

ascendspeed::InputMemory Inputs::memory(char* workspace) const {
  const bool has_sink = sink.original().count() > 0;
  return {query.memory(),
          key.memory(),
          value.memory(),
          pse.memory(),
          atten_mask.memory(),
          query_rope.memory(),
          key_rope.memory(),
          has_sink ? reinterpret_cast<const float*>(sink.data(workspace)) : nullptr,
          reinterpret_cast<const uint8_t*>(drop_mask.data(workspace)),
          seed,
          offset};
}

std::vector<MemoryRange> ranges_of(const Arguments& arguments) {
  std::vector<MemoryRange> ranges;
  arguments.for_each_tensor([&](const char* name, const aclTensor* tensor) {
    if (tensor != nullptr && !is_empty(*tensor)) ranges.push_back(range_of(name, tensor));
  });
  return ranges;
}

ascendspeed::cpu::Parallel host_threads() {
  return {omp_get_max_threads(), [](int threads, void (*body)(void*, int), void* state) {
#pragma omp parallel num_threads(threads)
            for (int thread = omp_get_thread_num(); thread < threads; thread += omp_get_num_threads()) {
              body(state, thread);
            }
          }};
}

}  // namespace hostcann
