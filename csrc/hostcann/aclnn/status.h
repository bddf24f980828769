// From a refusal somewhere below to what a C caller gets: a code, and the sentence that aclGetRecentErrMsg tells.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include "aclnn/aclnn_base.h"
#include "attention/status.h"
#include "hostcann/acl/stream.h"

namespace hostcann {

// Ends a call with a code; `message` names the argument, its value and the rule.
struct Refusal {
  aclnnStatus code;
  std::string message;  // without the code
};

[[noreturn]] inline void refuse_null(const std::string& name) {
  throw Refusal{ACLNN_ERR_PARAM_NULLPTR, name + " is null"};
}
[[noreturn]] inline void refuse_value(const std::string& what) { throw Refusal{ACLNN_ERR_PARAM_INVALID, what}; }

// What the rules said. Their message brings its code along.
inline void require(const ascendspeed::Status& status) {
  if (status.ok()) return;
  const std::string& message = status.message;
  throw Refusal{static_cast<aclnnStatus>(status.verdict), message.substr(0, message.rfind(" ["))};
}

// work(), with every exception turned into its code and message; nothing leaves the C interface as an exception.
// `told` gets a copy of the message.
template <typename Work>
aclnnStatus guarded(const std::string& function, Work&& work, std::string* told = nullptr) {
  const auto refused = [&](aclnnStatus code, const std::string& what) -> aclnnStatus {
    const std::string message = function + ": " + what + " [" + std::to_string(code) + "]";
    set_error(message);
    if (told != nullptr) *told = message;
    return code;
  };
  try {
    work();
    return ACLNN_SUCCESS;
  } catch (const Refusal& refusal) {
    return refused(refusal.code, refusal.message);
  } catch (const std::exception& error) {
    return refused(ACLNN_ERR_INNER, error.what());
  }
}

}  // namespace hostcann
