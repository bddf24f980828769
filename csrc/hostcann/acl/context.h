// Contexts and their streams: which are alive, and which context is the calling thread's.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "acl/acl_rt.h"
#include "hostcann/acl/worker.h"

namespace hostcann {

struct Context;

// What an aclrtStream points to.
struct Stream {
  Context* context;  // may have ended: to be compared only
  int32_t device;
  Worker worker;
};

// What an aclrtContext points to.
struct Context {
  int32_t device;
  bool is_default;  // made by aclrtSetDevice, ended by aclrtResetDevice
  std::shared_ptr<Stream> default_stream;
  std::map<aclSysParamOpt, int64_t> options;
};

// The context of this thread, or null when it has none or that one has ended.
std::shared_ptr<Context> current_context();

// 107002 for a thread without context, in the name of `function`.
aclError no_context(const char* function);

// 0 when the device is there and the runtime may be used; `function` names the call that wants it.
aclError check_device(const char* function, int32_t device);

// The living stream behind a handle, or the default stream of this thread's context for null. `same_context` demands
// that it belongs to this thread's context (107003), as CANN does wherever a program uses a stream.
aclError find_stream(const char* function, aclrtStream handle, bool same_context, std::shared_ptr<Stream>* stream);

aclError add_stream(const char* function, aclrtStream* handle);
// Ends a stream that a program made: after its work, or with `cancel` without.
aclError remove_stream(const char* function, aclrtStream handle, bool cancel);

std::vector<std::shared_ptr<Stream>> streams_of_device(int32_t device);

// End every context and stream, after their work.
void end_all_contexts();

}  // namespace hostcann
