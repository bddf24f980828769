// Events: a point in a stream that the host, or another stream, waits for.
//
// Each record makes a new point, and who waits takes the newest one at the time of the call, so that an event can be
// recorded again while somebody still waits for it.
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "hostcann/acl/options.h"
#include "hostcann/acl/stream.h"
#include "hostcann/acl/stream_calls.h"

namespace {

using namespace hostcann;

struct Event {
  bool reusable;  // of the Ex kind: waiting for it before the first record is no wait
  bool timed;
  std::mutex mutex;
  bool recorded = false;
  // The newest record, or before the first one the point that it will reach.
  std::shared_ptr<Completion> point = std::make_shared<Completion>();
  std::shared_ptr<std::atomic<int>> waits = std::make_shared<std::atomic<int>>(0);  // of streams, not over yet
};

struct Registry {
  std::mutex mutex;
  std::unordered_map<void*, std::shared_ptr<Event>> events;
};
Registry& registry() {
  static Registry* const living = new Registry;
  return *living;
}

aclError create(const char* function, aclrtEvent* handle, bool reusable, bool timed) {
  if (handle == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, std::string(function) + ": event is null");
  *handle = nullptr;
  if (current_context() == nullptr) return no_context(function);
  auto event = std::make_shared<Event>();
  event->reusable = reusable;
  event->timed = timed;
  *handle = event.get();
  const std::lock_guard lock(registry().mutex);
  registry().events[event.get()] = std::move(event);
  return ACL_SUCCESS;
}

aclError create_with_flag(const char* function, aclrtEvent* handle, uint32_t flag, bool reusable) {
  if (handle != nullptr) *handle = nullptr;
  constexpr uint32_t kHonoured =
      ACL_EVENT_SYNC | ACL_EVENT_CAPTURE_STREAM_PROGRESS | ACL_EVENT_TIME_LINE | ACL_EVENT_DEVICE_USE_ONLY;
  if ((flag & ~kHonoured) != 0) {
    return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
                  std::string(function) + ": flag=" + std::to_string(flag) + " has bits that host CANN lacks");
  }
  return create(function, handle, reusable, (flag & ACL_EVENT_TIME_LINE) != 0);
}

aclError find(const char* function, aclrtEvent handle, std::shared_ptr<Event>* event) {
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().events.find(handle);
  if (found == registry().events.end()) {
    return refuse(ACL_ERROR_RT_INVALID_HANDLE, std::string(function) + ": event is not an event that is alive");
  }
  *event = found->second;
  return ACL_SUCCESS;
}

// The newest record, or null when there is nothing to wait for.
std::shared_ptr<Completion> awaited(Event& event) {
  const std::lock_guard lock(event.mutex);
  return event.recorded || !event.reusable ? event.point : nullptr;
}

// What the stream does that waits.
void wait_in_stream(const Completion& point, uint32_t timeout_seconds) {
  const Deadline deadline = timeout_seconds == 0 ? Deadline() : in_milliseconds(int64_t{timeout_seconds} * 1000);
  if (!wait_in_work(point, deadline)) {
    if (stream_is_cancelled()) return;
    fail_stream(ACL_ERROR_RT_WAIT_TIMEOUT, "aclrtStreamWaitEvent: the event was not reached within the " +
                                               std::to_string(timeout_seconds) +
                                               " s of aclrtSetOpWaitTimeout [107019]");
  } else if (point.failure().code != 0) {
    // What comes next on this stream reads what the other one should have written.
    fail_stream(point.failure().code, point.failure().message);
  }
}

}  // namespace

aclError aclrtCreateEvent(aclrtEvent* event) { return create("aclrtCreateEvent", event, false, true); }

aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t flag) {
  return create_with_flag("aclrtCreateEventWithFlag", event, flag, false);
}

aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t flag) {
  return create_with_flag("aclrtCreateEventExWithFlag", event, flag, true);
}

aclError aclrtDestroyEvent(aclrtEvent event) {
  const std::lock_guard lock(registry().mutex);
  if (registry().events.erase(event) == 1) return ACL_SUCCESS;
  return refuse(ACL_ERROR_RT_INVALID_HANDLE, "aclrtDestroyEvent: event is not an event that is alive");
}

aclError aclrtRecordEvent(aclrtEvent handle, aclrtStream stream_handle) {
  std::shared_ptr<Event> event;
  if (const aclError code = find("aclrtRecordEvent", handle, &event)) return code;
  std::shared_ptr<Stream> stream;
  if (const aclError code = find_stream("aclrtRecordEvent", stream_handle, true, &stream)) return code;
  const std::lock_guard lock(event->mutex);
  auto point = event->recorded ? std::make_shared<Completion>() : event->point;
  // Reached even by a stream that failed: who waits shall hear of the failure, not wait for ever.
  const aclError code = push("aclrtRecordEvent", *stream, [point] { point->reach(failure_of_this_worker()); }, true);
  if (code != ACL_SUCCESS) return code;
  event->point = std::move(point);
  event->recorded = true;
  return ACL_SUCCESS;
}

aclError aclrtResetEvent(aclrtEvent handle, aclrtStream stream_handle) {
  std::shared_ptr<Event> event;
  if (const aclError code = find("aclrtResetEvent", handle, &event)) return code;
  std::shared_ptr<Stream> stream;
  if (const aclError code = find_stream("aclrtResetEvent", stream_handle, true, &stream)) return code;
  const std::lock_guard lock(event->mutex);
  if (event->recorded) event->point = std::make_shared<Completion>();
  event->recorded = false;
  return ACL_SUCCESS;
}

aclError aclrtStreamWaitEvent(aclrtStream stream_handle, aclrtEvent handle) {
  std::shared_ptr<Event> event;
  if (const aclError code = find("aclrtStreamWaitEvent", handle, &event)) return code;
  std::shared_ptr<Stream> stream;
  if (const aclError code = find_stream("aclrtStreamWaitEvent", stream_handle, true, &stream)) return code;
  const auto point = awaited(*event);
  if (point == nullptr) return ACL_SUCCESS;
  ++*event->waits;
  aclError code =
      push("aclrtStreamWaitEvent", *stream, [point, seconds = op_wait_timeout()] { wait_in_stream(*point, seconds); });
  // Also when the wait itself is dropped.
  if (code == ACL_SUCCESS) {
    code = push("aclrtStreamWaitEvent", *stream, [waits = event->waits] { --*waits; }, true);
  }
  if (code != ACL_SUCCESS) --*event->waits;
  return code;
}

aclError aclrtQueryEventStatus(aclrtEvent handle, aclrtEventRecordedStatus* status) {
  if (status == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtQueryEventStatus: status is null");
  *status = ACL_EVENT_RECORDED_STATUS_NOT_READY;
  std::shared_ptr<Event> event;
  if (const aclError code = find("aclrtQueryEventStatus", handle, &event)) return code;
  const auto point = awaited(*event);
  if (point == nullptr || point->reached()) *status = ACL_EVENT_RECORDED_STATUS_COMPLETE;
  return ACL_SUCCESS;
}

aclError aclrtQueryEvent(aclrtEvent event, aclrtEventStatus* status) {
  if (status == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtQueryEvent: status is null");
  aclrtEventRecordedStatus recorded = ACL_EVENT_RECORDED_STATUS_NOT_READY;
  const aclError code = aclrtQueryEventStatus(event, &recorded);
  *status = recorded == ACL_EVENT_RECORDED_STATUS_COMPLETE ? ACL_EVENT_STATUS_COMPLETE : ACL_EVENT_STATUS_NOT_READY;
  return code;
}

aclError aclrtQueryEventWaitStatus(aclrtEvent handle, aclrtEventWaitStatus* status) {
  if (status == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtQueryEventWaitStatus: status is null");
  *status = ACL_EVENT_WAIT_STATUS_NOT_READY;
  std::shared_ptr<Event> event;
  if (const aclError code = find("aclrtQueryEventWaitStatus", handle, &event)) return code;
  if (*event->waits == 0) *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
  return ACL_SUCCESS;
}

aclError aclrtSynchronizeEventWithTimeout(aclrtEvent handle, int32_t timeout) {
  std::shared_ptr<Event> event;
  if (const aclError code = find("aclrtSynchronizeEvent", handle, &event)) return code;
  if (timeout < -1) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID,
                  "aclrtSynchronizeEventWithTimeout: timeout=" + std::to_string(timeout) + " must be at least -1");
  }
  std::shared_ptr<Completion> point;
  {
    const std::lock_guard lock(event->mutex);
    if (!event->recorded && event->reusable) return ACL_SUCCESS;
    if (!event->recorded) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "aclrtSynchronizeEvent: event was not recorded before");
    }
    point = event->point;
  }
  if (!point->wait(in_milliseconds(timeout))) {
    return refuse(
        ACL_ERROR_RT_EVENT_SYNC_TIMEOUT,
        "aclrtSynchronizeEventWithTimeout: the event is not reached within " + std::to_string(timeout) + " ms");
  }
  if (point->failure().code != 0) set_error(point->failure().message);
  return point->failure().code;
}

aclError aclrtSynchronizeEvent(aclrtEvent event) { return aclrtSynchronizeEventWithTimeout(event, -1); }

aclError aclrtEventElapsedTime(float* ms, aclrtEvent startEvent, aclrtEvent endEvent) {
  if (ms == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtEventElapsedTime: ms is null");
  *ms = 0;
  Clock::time_point times[2];
  for (int i = 0; i < 2; ++i) {
    const std::string name = i == 0 ? "startEvent" : "endEvent";
    std::shared_ptr<Event> event;
    if (const aclError code = find("aclrtEventElapsedTime", i == 0 ? startEvent : endEvent, &event)) return code;
    if (!event->timed) {
      return refuse(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
                    "aclrtEventElapsedTime: " + name + " was created without ACL_EVENT_TIME_LINE");
    }
    const std::lock_guard lock(event->mutex);
    if (!event->recorded || !event->point->reached()) {
      return refuse(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID,
                    "aclrtEventElapsedTime: " + name + " has no timestamp: it is not recorded, or not reached yet");
    }
    times[i] = event->point->time();
  }
  if (times[1] < times[0]) {
    return refuse(ACL_ERROR_RT_EVENT_TIMESTAMP_REVERSAL, "aclrtEventElapsedTime: endEvent came before startEvent");
  }
  *ms = std::chrono::duration<float, std::milli>(times[1] - times[0]).count();
  return ACL_SUCCESS;
}
