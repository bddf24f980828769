// The queue of one stream and the thread that works it off, in order.
#pragma once

#include <functional>
#include <memory>

#include "hostcann/acl/completion.h"

namespace hostcann {

class Worker {
 public:
  Worker();
  ~Worker();  // waits for nothing: the thread leaves by itself after the work that runs; see finish()
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Put work behind all other. `always`: also run when the stream failed or was cancelled, for what others wait for.
  // The thread starts with the first work; std::system_error when it cannot. False when the worker is ending.
  bool push(std::function<void()> work, bool always = false);

  // Wait until everything that was pushed before this call is done. False when `deadline` came first.
  bool drain(Deadline deadline);
  bool idle();

  // Run what is left, or with `cancel` drop it and let a waiting work leave, and end the thread.
  void finish(bool cancel);

  void stop_on_failure(bool stop);
  Failure failure();

  // Whether the calling thread is this worker's.
  bool is_this_thread() const;

  struct State;

 private:
  std::shared_ptr<State> state_;
};

// Of the worker whose thread this is: wait for a point, give up when the worker is cancelled.
bool wait_in_work(const Completion& point, Deadline deadline);
Failure failure_of_this_worker();

}  // namespace hostcann
