#include "hostcann/acl/worker.h"

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "hostcann/acl/stream.h"

namespace hostcann {

struct Worker::State {
  struct Task {
    std::function<void()> work;
    bool always;
  };

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Task> queue;
  uint64_t pushed = 0, done = 0;
  bool started = false, ending = false, ended = false, stop_on_failure = false;
  std::atomic<bool> cancelled = false;
  Failure failure;
};

namespace {

using State = Worker::State;

thread_local State* this_worker = nullptr;

void fail(State& state, const Failure& failure) {
  const std::lock_guard lock(state.mutex);
  if (state.failure.code == 0) state.failure = failure;
}

void run(State& state, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::bad_alloc&) {
    fail(state, {ACL_ERROR_RT_MEMORY_ALLOCATION, "work on the stream ran out of host memory [207001]"});
  } catch (const std::exception& error) {
    fail(state, {ACL_ERROR_RT_INTERNAL_ERROR, std::string("work on the stream failed: ") + error.what() + " [507000]"});
  }
}

void work_off(const std::shared_ptr<State>& state) {
  this_worker = state.get();
  std::unique_lock lock(state->mutex);
  while (true) {
    state->changed.wait(lock, [&] { return !state->queue.empty() || state->ending; });
    if (state->queue.empty()) break;
    State::Task task = std::move(state->queue.front());
    state->queue.pop_front();
    const bool dropped = state->cancelled || (state->stop_on_failure && state->failure.code != 0);
    lock.unlock();
    if (task.always || !dropped) run(*state, task.work);
    task.work = nullptr;  // what it owns ends before anybody hears of it, and without the lock: it may use the stream
    lock.lock();
    ++state->done;
    state->changed.notify_all();
  }
  state->ended = true;
  state->changed.notify_all();
}

void cancel(State& state) {
  {
    const std::lock_guard lock(state.mutex);
    state.cancelled = true;
  }
  wake_all();
}

// Every worker, so that none runs on while the process's static objects are destroyed.
struct All {
  std::mutex mutex;
  std::vector<std::weak_ptr<State>> states;
  bool closed = false;
};
All& all() {
  static All* const workers = new All;
  return *workers;
}

void stop_all_at_exit() {
  std::vector<std::shared_ptr<State>> living;
  {
    const std::lock_guard lock(all().mutex);
    all().closed = true;
    for (const auto& each : all().states) {
      if (auto state = each.lock(); state && state.get() != this_worker) living.push_back(std::move(state));
    }
  }
  for (const auto& state : living) {
    cancel(*state);
    const std::lock_guard state_lock(state->mutex);
    state->ending = true;
    state->changed.notify_all();
  }
  // Work that neither ends nor asks stream_is_cancelled must not keep the process from ending.
  const auto deadline = Clock::now() + std::chrono::seconds(5);
  for (const auto& state : living) {
    std::unique_lock state_lock(state->mutex);
    state->changed.wait_until(state_lock, deadline, [&] { return !state->started || state->ended; });
  }
}

// False when the process is ending.
bool remember(const std::shared_ptr<State>& state) {
  // Registered with the first worker, thus run before the destructors of whatever was loaded before it.
  static const int registered = std::atexit(stop_all_at_exit);
  static_cast<void>(registered);
  const std::lock_guard lock(all().mutex);
  std::erase_if(all().states, [](const auto& each) { return each.expired(); });
  if (!all().closed) all().states.push_back(state);
  return !all().closed;
}

}  // namespace

Worker::Worker() : state_(std::make_shared<State>()) {}

Worker::~Worker() {
  const std::lock_guard lock(state_->mutex);
  state_->ending = true;
  state_->changed.notify_all();
}

bool Worker::push(std::function<void()> work, bool always) {
  const std::lock_guard lock(state_->mutex);
  if (state_->ending) return false;
  if (!state_->started) {
    if (!remember(state_)) return false;
    std::thread([state = state_] { work_off(state); }).detach();
    state_->started = true;
  }
  state_->queue.push_back({std::move(work), always});
  ++state_->pushed;
  state_->changed.notify_all();
  return true;
}

bool Worker::drain(Deadline deadline) {
  std::unique_lock lock(state_->mutex);
  const auto over = [&, goal = state_->pushed] { return state_->done >= goal; };
  if (deadline) return state_->changed.wait_until(lock, *deadline, over);
  state_->changed.wait(lock, over);
  return true;
}

bool Worker::idle() {
  const std::lock_guard lock(state_->mutex);
  return state_->done == state_->pushed;
}

void Worker::finish(bool cancel_rest) {
  if (cancel_rest) cancel(*state_);
  std::unique_lock lock(state_->mutex);
  state_->ending = true;
  state_->changed.notify_all();
  if (!is_this_thread()) state_->changed.wait(lock, [&] { return !state_->started || state_->ended; });
}

void Worker::stop_on_failure(bool stop) {
  const std::lock_guard lock(state_->mutex);
  state_->stop_on_failure = stop;
}

Failure Worker::failure() {
  const std::lock_guard lock(state_->mutex);
  return state_->failure;
}

bool Worker::is_this_thread() const { return this_worker == state_.get(); }

bool wait_in_work(const Completion& point, Deadline deadline) {
  return point.wait(deadline, this_worker == nullptr ? nullptr : &this_worker->cancelled);
}

Failure failure_of_this_worker() {
  if (this_worker == nullptr) return {};
  const std::lock_guard lock(this_worker->mutex);
  return this_worker->failure;
}

void fail_stream(aclError code, const std::string& message) {
  set_error(message);
  if (this_worker != nullptr) fail(*this_worker, {code, message});
}

bool stream_is_cancelled() { return this_worker != nullptr && this_worker->cancelled; }

}  // namespace hostcann
