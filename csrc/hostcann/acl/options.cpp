#include "hostcann/acl/options.h"

#include <atomic>
#include <map>
#include <mutex>
#include <string>

#include "hostcann/acl/context.h"
#include "hostcann/acl/stream.h"

namespace {

using namespace hostcann;

std::mutex mutex;  // of every option here, the contexts' too
// torch_npu reads them before anything sets them, and takes an error for one.
std::map<aclSysParamOpt, int64_t> process_options = {
    {ACL_OPT_DETERMINISTIC, 0}, {ACL_OPT_ENABLE_DEBUG_KERNEL, 0}, {ACL_OPT_STRONG_CONSISTENCY, 0}};
std::atomic<uint32_t> wait_timeout = 0;

// Deterministic results and strong consistency are what the host does anyhow, and a debug kernel is the kernel: 0 and 1
// are both true to what is asked for.
aclError check(const char* function, aclSysParamOpt opt, int64_t value) {
  if (opt < ACL_OPT_DETERMINISTIC || opt > ACL_OPT_STRONG_CONSISTENCY) {
    return refuse(ACL_ERROR_INVALID_PARAM, std::string(function) + ": opt=" + std::to_string(opt) + " is unknown");
  }
  if (value != 0 && value != 1) {
    return refuse(ACL_ERROR_INVALID_PARAM,
                  std::string(function) + ": value=" + std::to_string(value) + " must be 0 or 1");
  }
  return ACL_SUCCESS;
}

}  // namespace

uint32_t hostcann::op_wait_timeout() { return wait_timeout; }

aclError aclrtSetSysParamOpt(aclSysParamOpt opt, int64_t value) {
  if (const aclError code = check("aclrtSetSysParamOpt", opt, value)) return code;
  const std::lock_guard lock(mutex);
  process_options[opt] = value;
  return ACL_SUCCESS;
}

aclError aclrtGetSysParamOpt(aclSysParamOpt opt, int64_t* value) {
  if (value == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtGetSysParamOpt: value is null");
  *value = 0;
  if (const aclError code = check("aclrtGetSysParamOpt", opt, 0)) return code;
  const std::lock_guard lock(mutex);
  *value = process_options.at(opt);
  return ACL_SUCCESS;
}

aclError aclrtCtxSetSysParamOpt(aclSysParamOpt opt, int64_t value) {
  if (const aclError code = check("aclrtCtxSetSysParamOpt", opt, value)) return code;
  const auto context = current_context();
  if (context == nullptr) return no_context("aclrtCtxSetSysParamOpt");
  const std::lock_guard lock(mutex);
  context->options[opt] = value;
  return ACL_SUCCESS;
}

aclError aclrtCtxGetSysParamOpt(aclSysParamOpt opt, int64_t* value) {
  if (value == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtCtxGetSysParamOpt: value is null");
  *value = 0;
  if (const aclError code = check("aclrtCtxGetSysParamOpt", opt, 0)) return code;
  const auto context = current_context();
  if (context == nullptr) return no_context("aclrtCtxGetSysParamOpt");
  const std::lock_guard lock(mutex);
  const auto found = context->options.find(opt);
  if (found == context->options.end()) {
    return refuse(ACL_ERROR_RT_SYSPARAMOPT_NOT_SET,
                  "aclrtCtxGetSysParamOpt: opt=" + std::to_string(opt) + " was not set in this context");
  }
  *value = found->second;
  return ACL_SUCCESS;
}

aclError aclrtSetOpWaitTimeout(uint32_t timeout) {
  wait_timeout = timeout;
  return ACL_SUCCESS;
}

// A limit that stops a hanging kernel on a card. A kernel of the host ends, and cannot be stopped.
aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
