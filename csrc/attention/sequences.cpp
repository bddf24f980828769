#include "attention/sequences.h"

#include <algorithm>

namespace ascendspeed {
namespace {

constexpr size_t kMaxSequences = 20000;

// Accepts an ascending list, which may end in zeros: a sequence that ends before it begins counts as empty in CANN,
// but only zeros are documented to do so.
Status check_list(const char* name, const OptionalInts& list) {
  if (!list) return null_pointer(std::string(name) + " is None, input_layout TND needs it");
  if (list->empty()) return invalid(std::string(name) + " is empty, input_layout TND needs a number for each sequence");
  if (list->size() > kMaxSequences) {
    return invalid(std::string(name) + " has " + std::to_string(list->size()) + " entries, above the limit of " +
                   std::to_string(kMaxSequences));
  }
  int64_t last = 0;
  bool in_tail = false;
  for (size_t b = 0; b < list->size(); ++b) {
    const int64_t end = (*list)[b];
    in_tail = in_tail || (end == 0 && last > 0);
    if (in_tail ? end != 0 : end < last) {
      return invalid(std::string(name) + "[" + std::to_string(b) + "]=" + std::to_string(end) +
                     (in_tail ? " follows the zeros that end the list"
                              : " is below " + std::to_string(last) + " before it: lengths are cumulative"));
    }
    last = end;
  }
  return {};
}

Status check_total(const char* name, const char* tensor, int64_t sum, int64_t total) {
  if (sum <= total) return {};
  return invalid(std::string(name) + ": the sequences end at " + std::to_string(sum) + ", " + tensor +
                 " has T=" + std::to_string(total));
}

}  // namespace

Status resolve_sequences(const Attributes& a, Resolved* resolved) {
  for (const Status& status :
       {check_list("actual_seq_qlen", a.actual_seq_qlen), check_list("actual_seq_kvlen", a.actual_seq_kvlen)}) {
    if (!status.ok()) return status;
  }
  const std::vector<int64_t>&q_ends = *a.actual_seq_qlen, &kv_ends = *a.actual_seq_kvlen;
  if (q_ends.size() != kv_ends.size()) {
    return invalid("actual_seq_kvlen has " + std::to_string(kv_ends.size()) + " entries, actual_seq_qlen has " +
                   std::to_string(q_ends.size()));
  }
  Geometry& g = resolved->geometry;
  const int64_t q_sum = *std::max_element(q_ends.begin(), q_ends.end());
  const int64_t kv_sum = *std::max_element(kv_ends.begin(), kv_ends.end());
  for (const Status& status : {check_total("actual_seq_qlen", "query", q_sum, g.q_total),
                               check_total("actual_seq_kvlen", "key", kv_sum, g.kv_total)}) {
    if (!status.ok()) return status;
  }
  if (q_sum < g.q_total && kv_sum < g.kv_total && (q_ends.back() != 0 || kv_ends.back() != 0)) {
    return invalid("actual_seq_qlen: the sequences end at " + std::to_string(q_sum) +
                   " of T=" + std::to_string(g.q_total) + " and at " + std::to_string(kv_sum) +
                   " of T=" + std::to_string(g.kv_total) + " of key; to leave out a tail, both lists must end in 0");
  }

  g.batch = static_cast<int64_t>(q_ends.size());
  g.q_len = g.kv_len = 0;
  Sequence next;
  for (int64_t b = 0; b < g.batch; ++b) {
    next.index = b;
    next.q_len = std::max<int64_t>(q_ends[b] - next.q_begin, 0);
    next.kv_len = std::max<int64_t>(kv_ends[b] - next.kv_begin, 0);
    resolved->sequences.push_back(next);
    g.q_len = std::max(g.q_len, next.q_len);
    g.kv_len = std::max(g.kv_len, next.kv_len);
    next.q_begin = next.rows_before += next.q_len;
    next.kv_begin += next.kv_len;
    next.scores_before += next.q_len * next.kv_len;
  }
  g.sequences = resolved->sequences.data();
  return {};
}

}  // namespace ascendspeed
