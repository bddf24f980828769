// Messages between the ranks of a communicator, over the rings of its segment.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "hostcann/hccl/segment.h"

namespace hostcann::hccl {

// What a rank says it is doing before it moves data. Both sides of a message must say the same, or every rank fails.
struct Header {
  uint32_t function;  // Function, in description.h
  uint32_t data_type;
  uint32_t op;
  uint32_t root;
  uint64_t count;  // elements
  bool operator==(const Header&) const = default;
};

struct Message {
  bool send;
  uint32_t peer;
  bool has_header;
  Header header;  // sent, or expected of the peer
  char* data;     // only read where send
  uint64_t bytes;
  bool until_taken = false;  // a send: completes when the receiver has read everything

  // Progress, kept by exchange.
  Header received = {};
  uint64_t header_moved = 0;
  uint64_t moved = 0;
};

inline Message send_data(uint32_t peer, const char* data, uint64_t bytes) {
  return {true, peer, false, {}, const_cast<char*>(data), bytes};
}
inline Message receive_data(uint32_t peer, char* data, uint64_t bytes) { return {false, peer, false, {}, data, bytes}; }

// Moves all messages, whichever can move; those of one direction between one pair keep their order. Throws Error when
// headers differ, when a peer that is needed has died or left, when nothing has moved for `timeout` (0: never), and
// when another rank has made the communicator fail.
class Exchange {
 public:
  Exchange(Segment& segment, Channel channel, const char* function, std::chrono::seconds timeout)
      : segment_(segment), channel_(channel), function_(function), timeout_(timeout) {}

  uint32_t ranks() const { return segment_.ranks(); }
  uint32_t rank() const { return segment_.rank(); }

  void run(std::vector<Message> messages);

 private:
  bool step(std::vector<Message>& messages, bool* done);
  bool move(Message& message);
  bool complete(const Message& message) const;
  void check_header(const Message& message) const;
  void check_peers(const std::vector<Message>& messages) const;

  Segment& segment_;
  const Channel channel_;
  const char* const function_;
  const std::chrono::seconds timeout_;
};

}  // namespace hostcann::hccl
