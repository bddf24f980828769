#include "hostcann/hccl/exchange.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "hostcann/acl/stream.h"
#include "hostcann/hccl/description.h"

namespace hostcann::hccl {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kSpins = 20;  // yields before a thread sleeps: a peer that is just writing needs a few
constexpr milliseconds kNap(20);
constexpr milliseconds kBetweenPeerChecks(100);

std::string rank_name(const Segment& segment, uint32_t rank) {
  return "rank " + std::to_string(rank) + " (process " + std::to_string(segment.process(rank)) + ")";
}

// Bytes into or out of the ring, as many as fit.
uint64_t copy_part(Ring& ring, uint64_t capacity, bool send, char* data, uint64_t bytes) {
  const uint64_t head = ring.head.load(std::memory_order_acquire), tail = ring.tail.load(std::memory_order_acquire);
  const uint64_t at = (send ? head : tail) % capacity;
  const uint64_t part = std::min({bytes, send ? capacity - (head - tail) : head - tail, capacity - at});
  if (part == 0) return 0;
  if (send) {
    std::memcpy(ring.bytes() + at, data, part);
    ring.head.store(head + part, std::memory_order_release);
  } else {
    std::memcpy(data, ring.bytes() + at, part);
    ring.tail.store(tail + part, std::memory_order_release);
  }
  return part;
}

}  // namespace

void Exchange::run(std::vector<Message> messages) {
  Clock::time_point last_move = Clock::now(), last_check = last_move;
  int idle = 0;
  bool peers_are_gone = false;
  while (true) {
    const uint32_t seen = segment_.doorbell();
    bool done = false;
    const bool moved = step(messages, &done);
    if (done) return;
    if (moved) {
      last_move = Clock::now();
      idle = 0;
      continue;
    }
    if (const auto error = segment_.failure()) throw *error;
    if (peers_are_gone) check_peers(messages);  // after one more step: a peer may have left with everything written
    if (++idle <= kSpins) {
      sched_yield();
      continue;
    }
    const Clock::time_point now = Clock::now();
    if (timeout_.count() > 0 && now - last_move > timeout_) {
      std::string waiting_for;
      for (const Message& message : messages) {
        if (!complete(message)) waiting_for += (waiting_for.empty() ? "" : ", ") + rank_name(segment_, message.peer);
      }
      throw Error(HCCL_E_TIMEOUT, std::string(function_) + ": " + rank_name(segment_, rank()) + " has waited " +
                                      std::to_string(timeout_.count()) + " s (HCCL_EXEC_TIMEOUT) for " + waiting_for);
    }
    if (stream_is_cancelled()) {
      throw Error(HCCL_E_SUSPENDING, std::string(function_) + ": " + rank_name(segment_, rank()) +
                                         " has destroyed the stream or ended while it waited");
    }
    if (now - last_check > kBetweenPeerChecks) {
      last_check = now;
      peers_are_gone = std::any_of(messages.begin(), messages.end(), [&](const Message& message) {
        return !complete(message) && segment_.peer(message.peer) != Peer::kAlive;
      });
      if (peers_are_gone) continue;
    }
    segment_.wait(seen, kNap);
  }
}

// One attempt at every message; the first unfinished one of a direction and peer holds up those behind it.
bool Exchange::step(std::vector<Message>& messages, bool* done) {
  std::vector<bool> busy(2 * ranks());
  bool moved = false;
  *done = true;
  for (Message& message : messages) {
    if (complete(message)) continue;
    const size_t lane = 2 * message.peer + message.send;
    if (!busy[lane]) moved |= move(message);
    busy[lane] = busy[lane] || !complete(message);
    *done &= complete(message);
  }
  return moved;
}

bool Exchange::move(Message& message) {
  Ring& ring =
      message.send ? segment_.ring(channel_, rank(), message.peer) : segment_.ring(channel_, message.peer, rank());
  const uint64_t capacity = segment_.ring_bytes();
  uint64_t moved = 0;
  if (message.has_header && message.header_moved < sizeof(Header)) {
    Header& header = message.send ? message.header : message.received;
    moved = copy_part(ring, capacity, message.send, reinterpret_cast<char*>(&header) + message.header_moved,
                      sizeof(Header) - message.header_moved);
    message.header_moved += moved;
    if (moved > 0 && message.header_moved == sizeof(Header) && !message.send) check_header(message);
  } else if (message.moved < message.bytes) {
    moved = copy_part(ring, capacity, message.send, message.data + message.moved, message.bytes - message.moved);
    message.moved += moved;
  }
  if (moved > 0) segment_.ring_doorbell(message.peer);
  return moved > 0;
}

bool Exchange::complete(const Message& message) const {
  if (message.moved < message.bytes || (message.has_header && message.header_moved < sizeof(Header))) return false;
  if (!message.send || !message.until_taken) return true;
  const Ring& ring = segment_.ring(channel_, rank(), message.peer);
  return ring.tail.load(std::memory_order_acquire) == ring.head.load(std::memory_order_relaxed);
}

void Exchange::check_header(const Message& message) const {
  if (message.received == message.header) return;
  throw Error(HCCL_E_PARA, rank_name(segment_, message.peer) + " calls " + describe(message.received) + " where " +
                               rank_name(segment_, rank()) + " expects " + describe(message.header));
}

void Exchange::check_peers(const std::vector<Message>& messages) const {
  for (const Message& message : messages) {
    const Peer peer = segment_.peer(message.peer);
    if (complete(message) || peer == Peer::kAlive) continue;
    throw Error(HCCL_E_REMOTE, std::string(function_) + ": " + rank_name(segment_, message.peer) +
                                   (peer == Peer::kDead ? " has died" : " has destroyed the communicator"));
  }
}

}  // namespace hostcann::hccl
