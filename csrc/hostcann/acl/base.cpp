// What needs no device: element sizes, float16, the log.
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "acl/acl_base.h"

size_t aclDataTypeSize(aclDataType dataType) {
  switch (dataType) {
    case ACL_INT8:
    case ACL_UINT8:
    case ACL_BOOL:
    case ACL_HIFLOAT8:
    case ACL_FLOAT8_E5M2:
    case ACL_FLOAT8_E4M3FN:
    case ACL_FLOAT8_E8M0:
      return 1;
    case ACL_FLOAT16:
    case ACL_BF16:
    case ACL_INT16:
    case ACL_UINT16:
      return 2;
    case ACL_FLOAT:
    case ACL_INT32:
    case ACL_UINT32:
    case ACL_COMPLEX32:
      return 4;
    case ACL_DOUBLE:
    case ACL_INT64:
    case ACL_UINT64:
    case ACL_COMPLEX64:
      return 8;
    case ACL_COMPLEX128:
      return 16;
    default:
      return 0;
  }
}

aclFloat16 aclFloatToFloat16(float value) { return std::bit_cast<aclFloat16>(static_cast<_Float16>(value)); }

float aclFloat16ToFloat(aclFloat16 value) { return static_cast<float>(std::bit_cast<_Float16>(value)); }

void aclAppLog(aclLogLevel logLevel, const char* func, const char* file, uint32_t line, const char* fmt, ...) {
  const char* wanted = std::getenv("ASCEND_GLOBAL_LOG_LEVEL");
  if (static_cast<int>(logLevel) < (wanted == nullptr ? static_cast<int>(ACL_ERROR) : std::atoi(wanted))) return;
  if (logLevel < ACL_DEBUG || logLevel > ACL_ERROR || fmt == nullptr) return;
  static constexpr const char* kNames[] = {"DEBUG", "INFO", "WARNING", "ERROR"};
  char text[2048];
  va_list arguments;
  va_start(arguments, fmt);
  std::vsnprintf(text, sizeof text, fmt, arguments);
  va_end(arguments);
  std::fprintf(stderr, "[%s] %s:%u %s: %s\n", kNames[logLevel], file == nullptr ? "" : file, line,
               func == nullptr ? "" : func, text);
}
