#include "npu/library.h"

#include <ATen/Context.h>
#include <c10/core/Allocator.h>

#include <algorithm>
#include <iterator>

#include "torch_npu/csrc/core/npu/NPUFormat.h"
#include "torch_npu/csrc/core/npu/NPUFunctions.h"
#include "torch_npu/csrc/core/npu/NPUStream.h"
#include "torch_npu/csrc/framework/OpCommand.h"
#include "torch_npu/csrc/framework/OpParamMaker.h"

// Of op_plugin/utils/op_api_common_base.h, which drags all of op-plugin along.
TORCH_NPU_API void* GetOpApiFuncAddr(const char* name);

namespace ascendspeed::npu {
namespace {

std::string recent_message() {
  const char* message = aclGetRecentErrMsg();
  return message == nullptr || *message == '\0' ? "CANN gave no message" : message;
}

// What the first phase leaves to the second, which consumes it.
class Executor {
 public:
  explicit Executor(aclOpExecutor* executor) : executor_(executor) {}
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  ~Executor() {
    // Not run: no memory for its workspace. Only a repeatable one may be destroyed.
    if (executor_ == nullptr) return;
    const auto make_repeatable = address_of("aclSetAclOpExecutorRepeatable");
    const auto destroy = address_of("aclDestroyAclOpExecutor");
    if (make_repeatable == nullptr || destroy == nullptr) return;  // a CANN before 8.0: lost, as torch_npu loses it
    if (reinterpret_cast<decltype(&aclSetAclOpExecutorRepeatable)>(make_repeatable)(executor_) != ACLNN_SUCCESS) return;
    reinterpret_cast<decltype(&aclDestroyAclOpExecutor)>(destroy)(executor_);
  }
  aclOpExecutor* release() { return std::exchange(executor_, nullptr); }

 private:
  aclOpExecutor* executor_;
};

}  // namespace

void* address_of(const std::string& name) { return GetOpApiFuncAddr(name.c_str()); }

void* required_address_of(const std::string& name) {
  void* address = address_of(name);
  TORCH_CHECK(address != nullptr, name, " is in none of CANN's operator libraries (libopapi.so)");
  return address;
}

Api find_api(const std::string& name) {
  return {name, address_of(name + "GetWorkspaceSize"), reinterpret_cast<decltype(Api::second_phase)>(address_of(name))};
}

std::string soc_name() {
  const char* name = aclrtGetSocName();
  TORCH_CHECK(name != nullptr, "aclrtGetSocName: ", recent_message());
  return name;
}

void check_format(const char* name, const at::Tensor& tensor) {
  constexpr int64_t kPlain[] = {ACL_FORMAT_ND,  ACL_FORMAT_NCHW,  ACL_FORMAT_NHWC,
                                ACL_FORMAT_NCL, ACL_FORMAT_NCDHW, ACL_FORMAT_NDHWC};
  const int64_t format = at_npu::native::get_npu_format(tensor);
  TORCH_CHECK_VALUE(std::find(std::begin(kPlain), std::end(kPlain), format) != std::end(kPlain), name, ": format ",
                    format, " is private to the device; torch_npu.npu_format_cast(", name,
                    ", 2) gives one with strides", " [161002]");
}

void check_made(const void* object, const char* by) { TORCH_CHECK(object != nullptr, by, ": ", recent_message()); }

void execute(const Api& api, const FirstPhase& first_phase, std::shared_ptr<Handles> handles) {
  at_npu::native::ApplyDeterministicLevel(c10_npu::GetDeterministicLevel(),
                                          at::globalContext().deterministicAlgorithms(), true);
  uint64_t size = 0;
  aclOpExecutor* planned = nullptr;
  const aclnnStatus status = first_phase(&size, &planned);
  TORCH_CHECK(status == ACLNN_SUCCESS, api.name, "GetWorkspaceSize returned ", status, ": ", recent_message());
  Executor executor(planned);

  // Given back before the task has run: whoever gets it next on this stream comes after the task.
  c10::DataPtr workspace;
  if (size > 0) workspace = c10::GetAllocator(c10::DeviceType::PrivateUse1)->allocate(size);
  const c10_npu::NPUStream stream = c10_npu::getCurrentNPUStream();
  at_npu::native::OpCommand::RunOpApiV2(
      api.name,
      [second_phase = api.second_phase, memory = workspace.get(), size, executor = executor.release(),
       stream = stream.stream(/*need_empty=*/false), handles = std::move(handles)]() mutable -> int {
        const aclnnStatus status = second_phase(memory, size, executor, stream);
        handles.reset();
        return status;
      });
}

}  // namespace ascendspeed::npu
