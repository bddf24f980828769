#include "hostcann/acl/completion.h"

#include <condition_variable>
#include <mutex>

namespace hostcann {
namespace {

// Never destroyed: worker threads may outlive main.
struct Waiting {
  std::mutex mutex;
  std::condition_variable changed;
};
Waiting& waiting() {
  static Waiting* const lock = new Waiting;
  return *lock;
}

}  // namespace

void Completion::reach(const Failure& failure) {
  const std::lock_guard lock(waiting().mutex);
  time_ = Clock::now();
  failure_ = failure;
  reached_ = true;
  waiting().changed.notify_all();
}

bool Completion::wait(Deadline deadline, const std::atomic<bool>* cancelled) const {
  std::unique_lock lock(waiting().mutex);
  const auto over = [&] { return reached_ || (cancelled != nullptr && *cancelled); };
  if (deadline) {
    waiting().changed.wait_until(lock, *deadline, over);
  } else {
    waiting().changed.wait(lock, over);
  }
  return reached_;
}

void wake_all() {
  const std::lock_guard lock(waiting().mutex);
  waiting().changed.notify_all();
}

Deadline in_milliseconds(int64_t timeout) {
  if (timeout < 0) return std::nullopt;
  return Clock::now() + std::chrono::milliseconds(timeout);
}

}  // namespace hostcann
