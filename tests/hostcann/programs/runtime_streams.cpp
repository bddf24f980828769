// Streams: order, asynchrony, failures, ends.
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "hostcann/acl/stream.h"
#include "runtime_steps.h"

using hostcann::enqueue;
using std::chrono::milliseconds;
using namespace steps;

CASE(work_of_a_stream_runs_in_order) {
  start();
  const aclrtStream s = stream();
  std::vector<int> order;
  for (int i = 0; i < 2000; ++i) OK(enqueue(s, [&order, i] { order.push_back(i); }));
  OK(aclrtSynchronizeStream(s));
  EQUAL(order.size(), 2000u);
  for (int i = 0; i < 2000; ++i) EQUAL(order[i], i);
}

CASE(work_runs_on_another_thread_while_the_caller_goes_on) {
  start();
  const aclrtStream s = stream();
  EQUAL(stream_status(s), ACL_STREAM_STATUS_COMPLETE);
  Gate gate;
  gate.close(s);
  std::thread::id worker;
  OK(enqueue(s, [&] { worker = std::this_thread::get_id(); }));
  EQUAL(stream_status(s), ACL_STREAM_STATUS_NOT_READY);
  EQUAL(aclrtSynchronizeStreamWithTimeout(s, 0), ACL_ERROR_RT_STREAM_SYNC_TIMEOUT);
  EQUAL(aclrtSynchronizeStreamWithTimeout(s, 20), ACL_ERROR_RT_STREAM_SYNC_TIMEOUT);
  ERROR_SAYS("20 ms");
  EQUAL(aclrtSynchronizeDeviceWithTimeout(20), ACL_ERROR_RT_STREAM_SYNC_TIMEOUT);
  EQUAL(aclrtSynchronizeStreamWithTimeout(s, -2), ACL_ERROR_RT_PARAM_INVALID);
  gate.open();
  OK(aclrtSynchronizeStreamWithTimeout(s, -1));
  EQUAL(stream_status(s), ACL_STREAM_STATUS_COMPLETE);
  EQUAL(worker != std::thread::id(), true);
  EQUAL(worker != std::this_thread::get_id(), true);
}

CASE(streams_run_side_by_side) {
  start();
  const aclrtStream first = stream(), second = stream();
  std::promise<void> reached;
  bool heard = false;
  OK(enqueue(first,
             [&] { heard = reached.get_future().wait_for(std::chrono::seconds(30)) == std::future_status::ready; }));
  OK(enqueue(second, [&] { reached.set_value(); }));
  OK(aclrtSynchronizeDevice());
  EQUAL(heard, true);
}

CASE(a_null_stream_is_the_default_stream_of_the_context) {
  EQUAL(enqueue(nullptr, [] {}), ACL_ERROR_RT_CONTEXT_NULL);
  start();
  Gate gate;
  gate.close(nullptr);
  int value = 0;
  OK(enqueue(nullptr, [&] { value = 1; }));
  EQUAL(stream_status(nullptr), ACL_STREAM_STATUS_NOT_READY);
  gate.open();
  OK(aclrtSynchronizeStream(nullptr));
  EQUAL(value, 1);
  EQUAL(aclrtDestroyStream(nullptr), ACL_ERROR_RT_INVALID_HANDLE);
}

CASE(a_stream_is_destroyed_after_its_work) {
  start();
  const aclrtStream s = stream();
  std::atomic<bool> ran = false;
  OK(enqueue(s, [&] {
    std::this_thread::sleep_for(milliseconds(50));
    ran = true;
  }));
  OK(aclrtDestroyStream(s));
  EQUAL(ran, true);
  EQUAL(enqueue(s, [] {}), ACL_ERROR_RT_INVALID_HANDLE);
  EQUAL(aclrtSynchronizeStream(s), ACL_ERROR_RT_INVALID_HANDLE);
  EQUAL(aclrtDestroyStream(s), ACL_ERROR_RT_INVALID_HANDLE);
}

CASE(destroying_by_force_drops_the_work_and_leaves_a_wait) {
  start();
  const aclrtStream s = stream(), other = stream();
  std::atomic<bool> ran = false, asked = false;
  const aclrtEvent behind = event();
  std::promise<void> begun;
  OK(enqueue(s, [&] {
    begun.set_value();
    while (!hostcann::stream_is_cancelled()) std::this_thread::sleep_for(milliseconds(1));
    asked = true;
  }));
  OK(aclrtStreamWaitEvent(s, event()));
  OK(enqueue(s, [&] { ran = true; }));
  OK(aclrtRecordEvent(behind, s));
  OK(aclrtStreamWaitEvent(other, behind));
  begun.get_future().wait();
  OK(aclrtDestroyStreamForce(s));
  EQUAL(asked, true);
  EQUAL(ran, false);
  OK(aclrtSynchronizeStream(other));  // nobody waits for ever for a stream that is gone
  const aclrtStream waiting = stream();
  OK(aclrtStreamWaitEvent(waiting, event()));
  EQUAL(aclrtSynchronizeStreamWithTimeout(waiting, 20), ACL_ERROR_RT_STREAM_SYNC_TIMEOUT);
  OK(aclrtDestroyStreamForce(waiting));
}

CASE(a_failure_comes_with_every_synchronisation_that_follows) {
  start();
  const aclrtStream s = stream(), other = stream();
  const aclrtEvent e = event();
  std::atomic<int> after = 0;
  OK(enqueue(s, [] { throw std::runtime_error("the kernel is broken"); }));
  OK(enqueue(s, [&] { ++after; }));
  OK(enqueue(s, [] { hostcann::fail_stream(507035, "a later failure"); }));
  OK(aclrtRecordEvent(e, s));
  OK(aclrtStreamWaitEvent(other, e));
  EQUAL(aclrtSynchronizeStream(s), ACL_ERROR_RT_INTERNAL_ERROR);
  ERROR_SAYS("the kernel is broken");
  EQUAL(after, 1);
  EQUAL(aclrtSynchronizeEvent(e), ACL_ERROR_RT_INTERNAL_ERROR);
  ERROR_SAYS("the kernel is broken");
  EQUAL(aclrtSynchronizeStream(other), ACL_ERROR_RT_INTERNAL_ERROR);
  EQUAL(aclrtSynchronizeDevice(), ACL_ERROR_RT_INTERNAL_ERROR);
  EQUAL(aclrtSynchronizeStream(s), ACL_ERROR_RT_INTERNAL_ERROR);
  const aclrtStream small = stream();
  OK(enqueue(small, [] { throw std::bad_alloc(); }));
  EQUAL(aclrtSynchronizeStream(small), ACL_ERROR_RT_MEMORY_ALLOCATION);
  OK(aclrtDestroyStream(small));
}

CASE(a_stream_that_stops_on_failure_drops_the_rest_but_reaches_its_events) {
  start();
  const aclrtStream s = stream();
  const aclrtEvent e = event();
  std::atomic<int> after = 0;
  EQUAL(aclrtSetStreamFailureMode(s, 2), ACL_ERROR_INVALID_PARAM);
  OK(aclrtSetStreamFailureMode(s, ACL_STOP_ON_FAILURE));
  OK(enqueue(s, [] { hostcann::fail_stream(507014, "the kernel hangs"); }));
  OK(enqueue(s, [&] { ++after; }));
  OK(aclrtRecordEvent(e, s));
  EQUAL(aclrtSynchronizeEvent(e), 507014);
  ERROR_SAYS("the kernel hangs");
  EQUAL(aclrtSynchronizeStream(s), 507014);
  EQUAL(after, 0);
}

CASE(work_may_not_wait_for_its_own_stream) {
  start();
  const aclrtStream s = stream();
  aclrtContext context = nullptr;
  OK(aclrtGetCurrentContext(&context));
  int synchronized = 0, destroyed = 0;
  OK(enqueue(s, [&] {
    OK(aclrtSetCurrentContext(context));
    synchronized = aclrtSynchronizeStream(s);
    destroyed = aclrtDestroyStream(s);
  }));
  OK(aclrtSynchronizeStream(s));
  EQUAL(synchronized, ACL_ERROR_RT_PARAM_INVALID);
  EQUAL(destroyed, ACL_ERROR_RT_PARAM_INVALID);
}

CASE(what_work_owns_is_gone_when_the_stream_is_done) {
  start();
  const aclrtStream s = stream();
  auto owned = std::make_shared<int>(1);
  OK(enqueue(s, [owned] {}));
  OK(aclrtSynchronizeStream(s));
  EQUAL(owned.use_count(), 1);
  // Its end may itself put work on the stream.
  bool ran = false;
  OK(enqueue(s, [last = std::shared_ptr<void>(nullptr, [&](void*) { OK(enqueue(s, [&] { ran = true; })); })] {}));
  OK(aclrtSynchronizeStream(s));
  OK(aclrtSynchronizeStream(s));
  EQUAL(ran, true);
}

CASE(the_process_ends_with_work_on_its_streams) {
  start();
  const aclrtStream s = stream();
  OK(aclrtStreamWaitEvent(s, event()));
  OK(enqueue(s, [] { std::cerr << "ran" << std::endl; }));
  const aclrtStream busy = stream();
  OK(enqueue(busy, [] { std::this_thread::sleep_for(milliseconds(100)); }));
}

CASE(finalizing_works_off_every_stream) {
  start();
  int value = 0;
  const aclrtStream s = stream();
  OK(enqueue(s, [&] {
    std::this_thread::sleep_for(milliseconds(50));
    value = 1;
  }));
  OK(aclFinalize());
  EQUAL(value, 1);
  EQUAL(enqueue(s, [] {}), ACL_ERROR_RT_INVALID_HANDLE);
  EQUAL(aclrtSynchronizeStream(s), ACL_ERROR_RT_CONTEXT_NULL);
  EQUAL(aclrtSetDevice(0), ACL_ERROR_UNINITIALIZE);
}
