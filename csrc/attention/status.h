// The outcome of a rule: accepted, or which CANN code, about which argument, and a sentence saying why.
//
// Plain C++ so that the CPU operator, the fake kernel and the aclnn bindings share one verdict.
#pragma once

#include <string>

namespace ascendspeed {

enum class Verdict {
  kOk = 0,
  kNullPointer = 161001,   // ACLNN_ERR_PARAM_NULLPTR
  kInvalidParam = 161002,  // ACLNN_ERR_PARAM_INVALID
};

struct Status {
  Verdict verdict = Verdict::kOk;
  std::string message;  // names the argument, its value and the rule; ends with the CANN code in brackets

  bool ok() const { return verdict == Verdict::kOk; }
};

inline Status null_pointer(const std::string& what) { return {Verdict::kNullPointer, what + " [161001]"}; }
inline Status invalid(const std::string& what) { return {Verdict::kInvalidParam, what + " [161002]"}; }

}  // namespace ascendspeed
