#include "hostcann/aclnn/executor.h"

#include <memory>
#include <mutex>
#include <unordered_map>

#include "cpu/microkernel.h"
#include "hostcann/acl/fault.h"
#include "hostcann/aclnn/status.h"
#include "hostcann/aclnn/trace.h"

namespace hostcann {
namespace {

struct Planned {
  const char* api;
  std::shared_ptr<const Plan> plan;
  bool repeatable = false;
};

// Handles are numbers that are never used again, so that one which was consumed is known as such.
class Executors {
 public:
  aclOpExecutor* add(Planned planned) {
    const std::lock_guard lock(mutex_);
    last_ += 1;
    planned_.emplace(last_, std::move(planned));
    return reinterpret_cast<aclOpExecutor*>(last_);
  }

  // The plan of `api`, which is over with that unless it is repeatable.
  std::shared_ptr<const Plan> take(const std::string& api, aclOpExecutor* executor) {
    const std::lock_guard lock(mutex_);
    const auto found = find(executor);
    if (api != found->second.api) {
      throw Refusal{ACLNN_ERR_INNER_NULLPTR, std::string("executor: made by the first phase of ") + found->second.api};
    }
    std::shared_ptr<const Plan> plan = found->second.plan;
    if (!found->second.repeatable) planned_.erase(found);
    return plan;
  }

  void make_repeatable(aclOpExecutor* executor) {
    const std::lock_guard lock(mutex_);
    find(executor)->second.repeatable = true;
  }

  void remove(aclOpExecutor* executor) {
    const std::lock_guard lock(mutex_);
    planned_.erase(find(executor));
  }

 private:
  std::unordered_map<uintptr_t, Planned>::iterator find(aclOpExecutor* executor) {
    if (executor == nullptr) refuse_null("executor");
    const auto found = planned_.find(reinterpret_cast<uintptr_t>(executor));
    if (found != planned_.end()) return found;
    throw Refusal{ACLNN_ERR_INNER_NULLPTR,
                  "executor: no first phase made it, or a second phase has consumed it; each needs a first of its own"};
  }

  std::mutex mutex_;
  std::unordered_map<uintptr_t, Planned> planned_;
  uintptr_t last_ = 0;
};

// Never destroyed: streams may still work when the process ends.
Executors& executors() {
  static Executors& all = *new Executors;
  return all;
}

std::string first_name(const Api& api) { return std::string(api.name) + "GetWorkspaceSize"; }

void check_product(const Api& api) {
  const char* soc = aclrtGetSocName();
  if (soc == nullptr)
    throw Refusal{ACLNN_ERR_RUNTIME_ERROR, "ASCENDSPEED_HOSTCANN_SOC names no product of the operator"};
  if (api.only_950 && std::string(soc).rfind("Ascend950", 0) != 0) {
    refuse_value(std::string("not supported on ") + soc + ", only on Ascend950");
  }
}

// The kernel of this machine, or CANN's code for not having found one.
void check_kernel() {
  try {
    ascendspeed::cpu::active_microkernel();
  } catch (const std::exception& error) {
    throw Refusal{ACLNN_ERR_INNER_FIND_KERNEL_ERROR, error.what()};
  }
}

void check_memory(const MemoryRange& range) {
  if (range.bytes == 0 || is_device_pointer(range.begin, range.bytes)) return;
  throw Refusal{ACLNN_ERR_RUNTIME_ERROR, range.name + ": its " + std::to_string(range.bytes) +
                                             " bytes do not lie in one block of device memory"};
}

// The plan's work, or a failure in its place.
std::function<void()> work_on_stream(const Api& api, int32_t device, const std::shared_ptr<const Plan>& plan,
                                     void* workspace) {
  const auto fault = strike(FaultPoint::kOnStream, api.name, device);
  if (!fault) return [plan, workspace] { plan->run(workspace); };
  constexpr aclError kAicoreException = 507015;  // CANN's ACL_ERROR_RT_AICORE_EXCEPTION: a kernel has failed
  const std::string code = std::to_string(kAicoreException);
  return [message = std::string(api.name) + ": " + fault->message + " [" + code + "]"] {
    fail_stream(kAicoreException, message);
  };
}

}  // namespace

aclnnStatus first_phase(const Api& api, const Arguments& arguments, uint64_t* workspace_size, aclOpExecutor** executor,
                        Plan (*make)(const Api&, const Arguments&)) {
  return first_phase(
      api, [&] { return json(arguments); }, workspace_size, executor, [&] { return make(api, arguments); });
}

aclnnStatus first_phase(const Api& api, const std::function<std::string()>& arguments, uint64_t* workspace_size,
                        aclOpExecutor** executor, const std::function<Plan()>& make) {
  if (workspace_size != nullptr) *workspace_size = 0;
  if (executor != nullptr) *executor = nullptr;
  const std::string name = first_name(api);
  std::string message;
  aclnnStatus status = guarded(
      name,
      [&] {
        if (workspace_size == nullptr) refuse_null("workspaceSize");
        if (executor == nullptr) refuse_null("executor");
        check_product(api);
        check_kernel();
        auto plan = std::make_shared<const Plan>(make());
        if (const auto fault = strike(FaultPoint::kFirstPhase, api.name, device_of_stream(nullptr))) {
          throw Refusal{ACLNN_ERR_INNER_NULLPTR, fault->message};
        }
        *workspace_size = static_cast<uint64_t>(plan->workspace_bytes);
        *executor = executors().add({api.name, std::move(plan)});
      },
      &message);
  const aclnnStatus traced = guarded(name, [&] {
    trace_first_phase(name, arguments, status, message, workspace_size == nullptr ? 0 : *workspace_size);
  });
  if (status != ACLNN_SUCCESS || traced == ACLNN_SUCCESS) return status;
  executors().remove(*executor);
  *workspace_size = 0;
  *executor = nullptr;
  return traced;
}

aclnnStatus second_phase(const Api& api, void* workspace, uint64_t workspace_size, aclOpExecutor* executor,
                         aclrtStream stream) {
  std::string message;
  const aclnnStatus status = guarded(
      api.name,
      [&] {
        const std::shared_ptr<const Plan> plan = executors().take(api.name, executor);
        const auto needed = static_cast<uint64_t>(plan->workspace_bytes);
        if (workspace_size < needed) {
          refuse_value("workspaceSize=" + std::to_string(workspace_size) + " is below the " + std::to_string(needed) +
                       " bytes that the first phase asked for");
        }
        if (needed > 0 && workspace == nullptr) refuse_null("workspace");
        check_memory({"workspace", workspace, needed});
        for (const MemoryRange& range : plan->memory) check_memory(range);
        const int32_t device = device_of_stream(stream);
        if (const auto fault = strike(FaultPoint::kSecondPhase, api.name, device)) {
          throw Refusal{ACLNN_ERR_RUNTIME_ERROR, fault->message};
        }
        const aclError queued = enqueue(stream, work_on_stream(api, device, plan, workspace));
        if (queued == ACL_SUCCESS) return;
        const char* reason = aclGetRecentErrMsg();
        throw Refusal{ACLNN_ERR_RUNTIME_ERROR, "stream: error " + std::to_string(queued) +
                                                   (reason == nullptr ? "" : std::string(", ") + reason)};
      },
      &message);
  const aclnnStatus traced = guarded(api.name, [&] { trace_second_phase(api.name, status, message, workspace_size); });
  return status == ACLNN_SUCCESS ? traced : status;
}

}  // namespace hostcann

using namespace hostcann;

aclnnStatus aclSetAclOpExecutorRepeatable(aclOpExecutor* executor) {
  return guarded("aclSetAclOpExecutorRepeatable", [&] { executors().make_repeatable(executor); });
}

aclnnStatus aclDestroyAclOpExecutor(aclOpExecutor* executor) {
  return guarded("aclDestroyAclOpExecutor", [&] { executors().remove(executor); });
}
