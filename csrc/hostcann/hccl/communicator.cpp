#include "hostcann/hccl/communicator.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <new>

#include "hostcann/acl/stream.h"

namespace hostcann::hccl {
namespace {

constexpr uint32_t kCollectiveLane = 0;
uint32_t send_lane(uint32_t peer) { return 1 + 2 * peer; }
uint32_t receive_lane(uint32_t peer) { return 2 + 2 * peer; }

// What the stream's synchronisation returns.
aclError stream_code(HcclResult code) {
  switch (code) {
    case HCCL_E_TIMEOUT:
      return ACL_ERROR_RT_FFTS_PLUS_TIMEOUT;  // what waiting for another device ends in
    case HCCL_E_REMOTE:
      return ACL_ERROR_RT_SUSPECT_REMOTE_ERROR;
    case HCCL_E_SUSPENDING:
      return ACL_ERROR_RT_STREAM_ABORT;
    default:
      return ACL_ERROR_RT_INTERNAL_ERROR;
  }
}

}  // namespace

// The place of one call in its lanes. It ends with the work on the stream, run or not.
struct Communicator::Turn {
  Turn(std::shared_ptr<Communicator> communicator, Function function)
      : communicator(std::move(communicator)), function(function) {}
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  const std::shared_ptr<Communicator> communicator;
  const Function function;
  std::optional<Strike> fault;
  std::vector<std::pair<uint32_t, uint64_t>> tickets;  // lane, ticket
  bool settled = false;                                // has run, or never got on the stream

  ~Turn() {
    if (!settled) {
      communicator->segment_->fail(Error(HCCL_E_SUSPENDING, std::string(name_of(function)) + ": rank " +
                                                                std::to_string(communicator->rank()) +
                                                                " has dropped it with the failed stream it was on"));
    }
    communicator->finish(*this);
  }
};

Communicator::Communicator(const Membership& member, const Settings& settings)
    : member_(member),
      name_(settings.name.empty() ? member.name : settings.name),
      exec_timeout_(settings.exec_timeout),
      segment_(Segment::attach(member, settings.connect_timeout)),
      lanes_(1 + 2 * member.ranks) {}

bool Communicator::claim_sub_communicator(uint64_t id) {
  const std::lock_guard lock(mutex_);
  return sub_communicators_.insert(id).second;
}

void Communicator::collective(aclrtStream stream, Agreement agreement, std::function<void(Exchange&)> run) {
  const auto function = static_cast<Function>(agreement.header.function);
  issue(function, name_of(function), {kCollectiveLane}, Channel::kCollective, stream,
        [agreement = std::move(agreement), run = std::move(run)](Exchange& exchange) {
          agree(exchange, agreement.header, agreement.sends, agreement.expects);
          run(exchange);
        });
}

void Communicator::point_to_point(const char* called, aclrtStream stream, std::vector<Message> messages,
                                  std::function<void()> local) {
  std::vector<uint32_t> lanes;
  for (const Message& message : messages) {
    lanes.push_back(message.send ? send_lane(message.peer) : receive_lane(message.peer));
  }
  issue(Function::kPointToPoint, called, std::move(lanes), Channel::kPointToPoint, stream,
        [messages = std::move(messages), local = std::move(local)](Exchange& exchange) {
          local();
          exchange.run(messages);
        });
}

void Communicator::issue(Function function, const char* called, std::vector<uint32_t> lanes, Channel channel,
                         aclrtStream stream, std::function<void(Exchange&)> run) {
  if (const auto error = failure()) throw *error;
  const auto turn = std::make_shared<Turn>(shared_from_this(), function);
  const std::lock_guard one_at_a_time(issuing_);
  {
    const std::lock_guard lock(mutex_);
    for (const uint32_t lane : lanes) turn->tickets.emplace_back(lane, lanes_[lane].next++);
  }
  turn->fault = strike(FaultPoint::kCollective, called, device());
  const aclError code = enqueue(stream, [this, turn, channel, run = std::move(run)] { execute(*turn, channel, run); });
  if (code == ACL_SUCCESS) return;
  turn->settled = true;
  throw Error(HCCL_E_RUNTIME, "stream: the runtime refuses work on it, code " + std::to_string(code));
}

void Communicator::execute(Turn& turn, Channel channel, const std::function<void(Exchange&)>& run) {
  turn.settled = true;
  try {
    await(turn);
    if (turn.fault) suffer(turn, *turn.fault);
    Exchange exchange(*segment_, channel, name_of(turn.function), exec_timeout_);
    run(exchange);
  } catch (const Error& error) {
    report(error);
  } catch (const std::bad_alloc&) {
    report(Error(HCCL_E_MEMORY, std::string(name_of(turn.function)) + ": no host memory for its buffers"));
  }
}

void Communicator::await(const Turn& turn) {
  wait(turn, [&] {
    return std::all_of(turn.tickets.begin(), turn.tickets.end(), [&](const auto& each) {
      const auto& [lane, ticket] = each;
      return lanes_[lane].serving == ticket;
    });
  });
}

// A slow rank is not slower than the communicator: once that has failed it leaves.
void Communicator::suffer(const Turn& turn, const Strike& fault) {
  if (fault.die) std::raise(SIGKILL);
  const auto end = std::chrono::steady_clock::now() + fault.delay;
  wait(turn, [&] { return std::chrono::steady_clock::now() >= end; });
}

// Until over(), which is asked with the lock held; throws when the communicator has failed or the stream is cancelled.
template <typename Over>
void Communicator::wait(const Turn& turn, Over over) {
  std::unique_lock lock(mutex_);
  while (true) {
    if (const auto error = failure()) throw *error;
    if (turned_.wait_for(lock, std::chrono::milliseconds(20), over)) return;
    if (stream_is_cancelled()) {
      throw Error(HCCL_E_SUSPENDING, std::string(name_of(turn.function)) + ": rank " + std::to_string(rank()) +
                                         " has destroyed the stream before it ran");
    }
  }
}

void Communicator::finish(const Turn& turn) {
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [index, ticket] : turn.tickets) {
      Lane& lane = lanes_[index];
      lane.finished_early.insert(ticket);
      while (lane.finished_early.erase(lane.serving) > 0) ++lane.serving;
    }
  }
  turned_.notify_all();
}

// The first error of any rank is the communicator's; it is on stderr once for each rank.
void Communicator::report(const Error& error) {
  segment_->fail(error);
  const Error first = failure().value_or(error);
  const std::string message = "HCCL communicator " + name_ + ", rank " + std::to_string(rank()) + " of " +
                              std::to_string(ranks()) + ": " + first.what();
  {
    const std::lock_guard lock(mutex_);
    if (!reported_) std::fprintf(stderr, "[host CANN] %s\n", message.c_str());
    reported_ = true;
  }
  fail_stream(stream_code(first.code), message);
}

}  // namespace hostcann::hccl
