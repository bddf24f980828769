// The recent error message, one per thread.
#include <optional>
#include <string>

#include "hostcann/acl/stream.h"

namespace {

thread_local std::optional<std::string> recent;
thread_local std::string handed_out;  // what the caller of aclGetRecentErrMsg reads, until its next question

}  // namespace

namespace hostcann {

void set_error(const std::string& message) { recent = message; }

aclError refuse(aclError code, const std::string& message) {
  set_error(message + " [" + std::to_string(code) + "]");
  return code;
}

}  // namespace hostcann

const char* aclGetRecentErrMsg() {
  if (!recent) return nullptr;
  handed_out = std::move(*recent);
  recent.reset();
  return handed_out.c_str();
}
