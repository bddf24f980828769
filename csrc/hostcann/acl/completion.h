// A point in a stream that others wait for: reached once, with the time it was reached at.
//
// All points share one lock. Recording and waiting are rare beside the work between them, and one place to wake lets a
// stream that is destroyed by force leave whatever point it waits for.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "acl/acl_base.h"

namespace hostcann {

using Clock = std::chrono::steady_clock;
using Deadline = std::optional<Clock::time_point>;  // nothing: wait for ever

// The failure of a stream: its code and what it says.
struct Failure {
  aclError code = 0;
  std::string message;
};

class Completion {
 public:
  // Reached now. `failure` is that of the stream that reached it.
  void reach(const Failure& failure);

  // Wait until it is reached, `deadline`, or `cancelled` becomes true (then call wake_all). False if it is not reached.
  bool wait(Deadline deadline, const std::atomic<bool>* cancelled = nullptr) const;

  bool reached() const { return wait(Clock::now()); }

  // Of a point that is reached.
  Clock::time_point time() const { return time_; }
  const Failure& failure() const { return failure_; }

 private:
  bool reached_ = false;
  Clock::time_point time_;
  Failure failure_;
};

// Make every waiting thread look at its `cancelled` again.
void wake_all();

// Milliseconds from now; negative is for ever, as in CANN.
Deadline in_milliseconds(int64_t timeout);

}  // namespace hostcann
