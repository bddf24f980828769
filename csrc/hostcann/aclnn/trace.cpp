#include "hostcann/aclnn/trace.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "hostcann/aclnn/objects.h"
#include "hostcann/aclnn/status.h"

namespace hostcann {
namespace {

using hostcann::json;

std::string json(const char* text) {
  if (text == nullptr) return "null";
  std::string quoted = "\"";
  for (; *text != '\0'; ++text) {
    const auto letter = static_cast<unsigned char>(*text);
    if (letter == '"' || letter == '\\') {
      quoted += {'\\', *text};
    } else if (letter < 0x20) {
      constexpr char kHex[] = "0123456789abcdef";
      quoted += std::string("\\u00") + kHex[letter / 16] + kHex[letter % 16];
    } else {
      quoted += *text;
    }
  }
  return quoted + '"';
}

std::string json(const std::vector<int64_t>& values) {
  std::string list = "[";
  for (size_t i = 0; i < values.size(); ++i) list += (i == 0 ? "" : ", ") + json(values[i]);
  return list + "]";
}

std::string json(const std::optional<int64_t>& value) { return value ? json(*value) : "null"; }

const char* trace_file() {
  const char* name = std::getenv("ASCENDSPEED_HOSTCANN_TRACE");
  return name == nullptr || *name == '\0' ? nullptr : name;
}

std::string outcome(const std::string& function, aclnnStatus status, const std::string& message,
                    uint64_t workspace_size) {
  return "{\"function\": " + json(function) + ", \"status\": " + std::to_string(status) +
         ", \"message\": " + json(message) + ", \"workspace_size\": " + std::to_string(workspace_size);
}

// One write, so that lines of several threads and processes do not mix.
void append(const char* file, const std::string& line) {
  const int descriptor = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const ssize_t written = descriptor < 0 ? -1 : write(descriptor, line.data(), line.size());
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  if (written == static_cast<ssize_t>(line.size())) return;
  throw Refusal{ACLNN_ERR_INNER, std::string("ASCENDSPEED_HOSTCANN_TRACE=") + file + ": " +
                                     (written < 0 ? std::strerror(error) : "the file takes no more")};
}

}  // namespace

std::string json(int64_t value) { return std::to_string(value); }

std::string json(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";  // as Python's
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
}

std::string json(const std::string& text) { return json(text.c_str()); }

std::string json(const aclIntArray* array) { return array == nullptr ? "null" : json(array->values); }

std::string json(const aclTensor* tensor) {
  if (tensor == nullptr) return "null";
  return json_object({{"shape", json(tensor->sizes)},
                      {"strides", json(tensor->strides)},
                      {"offset", json(tensor->offset)},
                      {"dtype", json(dtype_name(tensor->dtype))},
                      {"format", json(format_name(tensor->format))},
                      {"storage_shape", json(tensor->storage_sizes)}});
}

std::string json_object(const std::vector<std::pair<std::string, std::string>>& members) {
  std::string object = "{";
  const char* separator = "";
  for (const auto& [name, value] : members) {
    object += separator + json(name) + ": " + value;
    separator = ", ";
  }
  return object + "}";
}

std::string json(const Arguments& arguments) {
  std::vector<std::pair<std::string, std::string>> members;
  arguments.for_each([&](const char* name, const auto& value) { members.emplace_back(name, json(value)); });
  return json_object(members);
}

void trace_first_phase(const std::string& function, const std::function<std::string()>& arguments, aclnnStatus status,
                       const std::string& message, uint64_t workspace_size) {
  const char* file = trace_file();
  if (file == nullptr) return;
  append(file, outcome(function, status, message, workspace_size) + ", \"arguments\": " + arguments() + "}\n");
}

void trace_second_phase(const std::string& function, aclnnStatus status, const std::string& message,
                        uint64_t workspace_size) {
  if (const char* file = trace_file()) append(file, outcome(function, status, message, workspace_size) + "}\n");
}

}  // namespace hostcann
