// Events: waiting on another stream, on the host, and the time between them.
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"
#include "hostcann/acl/stream.h"
#include "runtime_steps.h"

using hostcann::enqueue;
using std::chrono::milliseconds;
using namespace steps;

CASE(a_stream_waits_for_an_event_of_another) {
  start();
  const aclrtStream first = stream(), second = stream();
  const aclrtEvent e = event();
  EQUAL(event_status(e), ACL_EVENT_RECORDED_STATUS_NOT_READY);
  Gate gate;
  std::atomic<int> order = 0, at_first = 0, at_second = 0;
  gate.close(first);
  OK(enqueue(first, [&] { at_first = ++order; }));
  OK(aclrtRecordEvent(e, first));
  OK(aclrtStreamWaitEvent(second, e));
  OK(enqueue(second, [&] { at_second = ++order; }));
  EQUAL(aclrtSynchronizeStreamWithTimeout(second, 50), ACL_ERROR_RT_STREAM_SYNC_TIMEOUT);
  EQUAL(at_second, 0);
  EQUAL(event_status(e), ACL_EVENT_RECORDED_STATUS_NOT_READY);
  EQUAL(wait_status(e), ACL_EVENT_WAIT_STATUS_NOT_READY);
  EQUAL(aclrtSynchronizeEventWithTimeout(e, 0), ACL_ERROR_RT_EVENT_SYNC_TIMEOUT);
  gate.open();
  OK(aclrtSynchronizeStream(second));
  EQUAL(at_first, 1);
  EQUAL(at_second, 2);
  EQUAL(event_status(e), ACL_EVENT_RECORDED_STATUS_COMPLETE);
  EQUAL(wait_status(e), ACL_EVENT_WAIT_STATUS_COMPLETE);
  OK(aclrtSynchronizeEvent(e));
  OK(aclrtDestroyEvent(e));
  EQUAL(aclrtDestroyEvent(e), ACL_ERROR_RT_INVALID_HANDLE);
  EQUAL(aclrtRecordEvent(e, first), ACL_ERROR_RT_INVALID_HANDLE);
}

CASE(waiting_for_an_event_that_was_never_recorded_lasts_until_it_is) {
  start();
  const aclrtStream first = stream(), second = stream();
  const aclrtEvent e = event();
  std::atomic<bool> passed = false;
  OK(aclrtStreamWaitEvent(second, e));
  OK(enqueue(second, [&] { passed = true; }));
  EQUAL(aclrtSynchronizeStreamWithTimeout(second, 50), ACL_ERROR_RT_STREAM_SYNC_TIMEOUT);
  EQUAL(passed, false);
  EQUAL(aclrtSynchronizeEvent(e), ACL_ERROR_RT_PARAM_INVALID);
  OK(aclrtRecordEvent(e, first));
  OK(aclrtSynchronizeStream(second));
  EQUAL(passed, true);
  // Reset, it is as if it had never been recorded.
  OK(aclrtResetEvent(e, first));
  EQUAL(event_status(e), ACL_EVENT_RECORDED_STATUS_NOT_READY);
  OK(aclrtStreamWaitEvent(second, e));
  EQUAL(aclrtSynchronizeStreamWithTimeout(second, 50), ACL_ERROR_RT_STREAM_SYNC_TIMEOUT);
  OK(aclrtRecordEvent(e, first));
  OK(aclrtSynchronizeStream(second));
}

CASE(an_event_of_the_ex_kind_that_was_never_recorded_is_no_wait) {
  start();
  const aclrtStream s = stream();
  const aclrtEvent e = event_ex();
  OK(aclrtStreamWaitEvent(s, e));
  OK(aclrtSynchronizeStream(s));
  OK(aclrtSynchronizeEvent(e));
  EQUAL(event_status(e), ACL_EVENT_RECORDED_STATUS_COMPLETE);
  aclrtEvent none = e;
  EQUAL(aclrtCreateEventWithFlag(&none, ACL_EVENT_IPC), ACL_ERROR_RT_FEATURE_NOT_SUPPORT);
  EQUAL(none, nullptr);
}

CASE(the_newest_record_is_the_one_that_is_waited_for) {
  start();
  const aclrtStream first = stream(), second = stream();
  const aclrtEvent e = event_ex();
  OK(aclrtRecordEvent(e, first));
  OK(aclrtSynchronizeStream(first));
  Gate gate;
  gate.close(first);
  std::atomic<bool> written = false, seen = false;
  OK(enqueue(first, [&] { written = true; }));
  OK(aclrtRecordEvent(e, first));
  OK(aclrtStreamWaitEvent(second, e));
  OK(enqueue(second, [&] { seen = written.load(); }));
  // An event may be destroyed while streams still wait for it.
  OK(aclrtDestroyEvent(e));
  EQUAL(aclrtSynchronizeStreamWithTimeout(second, 50), ACL_ERROR_RT_STREAM_SYNC_TIMEOUT);
  gate.open();
  OK(aclrtSynchronizeStream(second));
  EQUAL(seen, true);
}

CASE(events_measure_the_time_between_them) {
  start();
  const aclrtStream s = stream();
  const aclrtEvent before = event(), after = event();
  float ms = -1;
  EQUAL(aclrtEventElapsedTime(&ms, before, after), ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID);
  EQUAL(ms, 0.0f);
  const auto host = std::chrono::steady_clock::now();
  OK(aclrtRecordEvent(before, s));
  OK(enqueue(s, [] { std::this_thread::sleep_for(milliseconds(50)); }));
  OK(aclrtRecordEvent(after, s));
  OK(aclrtSynchronizeStream(s));
  const float upper = std::chrono::duration<float, std::milli>(std::chrono::steady_clock::now() - host).count();
  OK(aclrtEventElapsedTime(&ms, before, after));
  EQUAL(ms >= 50.0f && ms <= upper, true);
  EQUAL(aclrtEventElapsedTime(&ms, after, before), ACL_ERROR_RT_EVENT_TIMESTAMP_REVERSAL);
  aclrtEvent plain = event_ex();
  OK(aclrtRecordEvent(plain, s));
  OK(aclrtSynchronizeStream(s));
  EQUAL(aclrtEventElapsedTime(&ms, before, plain), ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID);
  ERROR_SAYS("endEvent was created without ACL_EVENT_TIME_LINE");
}

CASE(a_wait_ends_after_the_time_that_was_set) {
  start();
  OK(aclrtSetOpWaitTimeout(1));
  const aclrtStream s = stream();
  OK(aclrtStreamWaitEvent(s, event()));
  EQUAL(aclrtSynchronizeStreamWithTimeout(s, 500), ACL_ERROR_RT_STREAM_SYNC_TIMEOUT);
  EQUAL(aclrtSynchronizeStream(s), ACL_ERROR_RT_WAIT_TIMEOUT);
  ERROR_SAYS("within the 1 s of aclrtSetOpWaitTimeout");
}

CASE(many_threads_use_streams_and_events_at_once) {
  start();
  aclrtContext context = nullptr;
  OK(aclrtGetCurrentContext(&context));
  std::vector<std::thread> threads;
  std::atomic<int> done = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      OK(aclrtSetCurrentContext(context));
      for (int round = 0; round < 20; ++round) {
        const aclrtStream first = stream(), second = stream();
        const aclrtEvent e = event();
        int value = 0;
        OK(enqueue(first, [&] { value = 7; }));
        OK(aclrtRecordEvent(e, first));
        OK(aclrtStreamWaitEvent(second, e));
        OK(enqueue(second, [&] { done += value == 7; }));
        OK(aclrtSynchronizeStream(second));
        OK(aclrtDestroyStream(second));
        OK(aclrtDestroyStream(first));
        OK(aclrtDestroyEvent(e));
      }
    });
  }
  for (auto& each : threads) each.join();
  EQUAL(done, 160);
}
