// Steps that the programs about streams and events share.
#pragma once

#include <future>

#include "check.h"
#include "hostcann/acl/stream.h"

namespace steps {

inline void start() {
  OK(aclInit(nullptr));
  OK(aclrtSetDevice(0));
}

inline aclrtStream stream() {
  aclrtStream made = nullptr;
  OK(aclrtCreateStream(&made));
  return made;
}

inline aclrtEvent event() {
  aclrtEvent made = nullptr;
  OK(aclrtCreateEvent(&made));
  return made;
}

inline aclrtEvent event_ex() {
  aclrtEvent made = nullptr;
  OK(aclrtCreateEventExWithFlag(&made, ACL_EVENT_SYNC));
  return made;
}

inline int event_status(aclrtEvent each) {
  aclrtEventRecordedStatus status{};
  OK(aclrtQueryEventStatus(each, &status));
  return status;
}

inline int wait_status(aclrtEvent each) {
  aclrtEventWaitStatus status{};
  OK(aclrtQueryEventWaitStatus(each, &status));
  return status;
}

inline int stream_status(aclrtStream each) {
  aclrtStreamStatus status{};
  OK(aclrtStreamQuery(each, &status));
  return status;
}

// Work that lasts until open() is called.
struct Gate {
  std::promise<void> opened;
  std::shared_future<void> future = opened.get_future().share();
  void close(aclrtStream on) {
    OK(hostcann::enqueue(on, [wait = future] { wait.wait(); }));
  }
  void open() { opened.set_value(); }
};

}  // namespace steps
