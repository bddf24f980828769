// The rules of single arguments, in files of their own; rules.cpp calls them in order.
#pragma once

#include <cstdio>
#include <string>

#include "attention/layout.h"
#include "attention/problem.h"
#include "attention/status.h"

namespace ascendspeed {

// "pse [2, 4] float32"
inline std::string of(const char* name, const TensorInfo& tensor) {
  return std::string(name) + " " + shape_text(tensor.sizes) + " " + tensor.dtype_name;
}

// "0.5", "1e-40"
inline std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

// How a message names a sequence's lengths: "Sq=3, Skv=4", in a packed batch with " of sequence 2".
inline std::string lengths_of(const Geometry& g, const Sequence& s) {
  std::string text = "Sq=" + std::to_string(s.q_len) + ", Skv=" + std::to_string(s.kv_len);
  return g.sequences == nullptr ? text : text + " of sequence " + std::to_string(s.index);
}

// rule(sequence) for every sequence that has rows and keys; stops at the first refusal. Those without are never
// refused. A batch that is a dimension counts once: its sequences are alike.
template <typename Rule>
Status check_sequences(const Geometry& g, Rule&& rule) {
  const int64_t count = g.sequences == nullptr ? 1 : g.batch;
  for (int64_t b = 0; b < count; ++b) {
    const Sequence s = g.sequence(b);
    if (s.empty()) continue;
    if (Status status = rule(s); !status.ok()) return status;
  }
  return {};
}

// atten_mask, and sparse_mode, pre_tockens, next_tockens and prefix, which mean something only beside it.
Status check_mask(const Attributes& attributes, const Geometry& geometry);

// pse by pse_type.
Status check_pse(const Attributes& attributes, const TensorInfo& query, const Geometry& geometry);

}  // namespace ascendspeed
