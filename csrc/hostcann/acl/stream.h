// What libopapi.so and libhccl.so need of the runtime: work on a stream, the error message, what is device memory.
//
// Exported by libascendcl.so beside CANN's own symbols, to our libraries only: programs include acl/acl.h.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "acl/acl_rt.h"

namespace hostcann {

// Run `work` on the stream's worker thread, after everything that was put on the stream before it. A null stream is the
// default stream of the calling thread's context (107002 without one). Returns at once; a stream that is not alive is
// 107017. `work` must own what it reads: the caller's handles may be destroyed as soon as this returned. An exception
// out of `work` fails the stream: std::bad_alloc with 207001, any other with 507000.
ACL_FUNC_VISIBILITY aclError enqueue(aclrtStream stream, std::function<void()> work);

// The device of a stream, or of the calling thread's context for null; -1 where there is none.
ACL_FUNC_VISIBILITY int32_t device_of_stream(aclrtStream stream);

// Called within enqueued work: the stream has failed. From then on every synchronisation with it returns `code` and
// sets `message`; work behind it runs on, or is dropped when the stream's failure mode is ACL_STOP_ON_FAILURE. The
// first failure of a stream stays. Outside of enqueued work, does nothing but set_error.
ACL_FUNC_VISIBILITY void fail_stream(aclError code, const std::string& message);

// Within enqueued work: whether the stream is being destroyed by force or the process ends, so that a long wait in the
// work should give up.
ACL_FUNC_VISIBILITY bool stream_is_cancelled();

// What aclGetRecentErrMsg says next on this thread.
ACL_FUNC_VISIBILITY void set_error(const std::string& message);

// set_error, and `code` back: return refuse(ACL_ERROR_INVALID_PARAM, "aclrtMalloc: size=0 must be above 0").
ACL_FUNC_VISIBILITY aclError refuse(aclError code, const std::string& message);

// Whether [pointer, pointer + bytes) lies within one live block of device memory, of any device of this process.
// A null pointer is none; bytes may be 0 for a pointer within or at the end of a block.
ACL_FUNC_VISIBILITY bool is_device_pointer(const void* pointer, std::size_t bytes);

}  // namespace hostcann
