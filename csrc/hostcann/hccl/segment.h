// The shared memory of one communicator: who is in it, whether it has failed, and a ring of bytes per pair of ranks.
//
// The name of a segment is gone as soon as every rank has attached, so that no crash after that leaves anything behind.
// While ranks are attaching each holds a shared lock on it: what nobody holds is left over from a crash, and the next
// communicator's root removes it. What the bytes mean is exchange.h's.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "hostcann/hccl/error.h"

namespace hostcann::hccl {

// One writer, one reader. head and tail count bytes since the beginning; both are free running.
struct Ring {
  alignas(64) std::atomic<uint64_t> head;  // written so far
  alignas(64) std::atomic<uint64_t> tail;  // read so far
  char* bytes() { return reinterpret_cast<char*>(this + 1); }
};

// Collectives have rings of their own, so that they and a send on another stream do not mix.
enum class Channel : uint32_t { kCollective, kPointToPoint };

enum class Peer { kAlive, kLeft, kDead };

struct Membership {
  std::string name;  // of the segment; the same on every rank and nowhere else
  uint32_t ranks;
  uint32_t rank;
  int32_t device;      // physical id; no two ranks of a communicator may share one
  uint64_t group = 0;  // hash of what else must be equal on every rank
};

class Segment {
 public:
  // Waits until every rank is there, `timeout` at most. Error HCCL_E_TIMEOUT names the ranks that are missing; the
  // first error is every waiting rank's.
  static std::unique_ptr<Segment> attach(const Membership& member, std::chrono::seconds timeout);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  uint32_t ranks() const { return member_.ranks; }
  uint32_t rank() const { return member_.rank; }
  uint64_t ring_bytes() const;
  Ring& ring(Channel channel, uint32_t from, uint32_t to);

  // The communicator has failed, on every rank; the first failure stays.
  void fail(const Error& error) noexcept;
  std::optional<Error> failure() const;

  // What this rank's doorbell shows; wait returns when it no longer shows `seen`, or after a while.
  uint32_t doorbell() const;
  void wait(uint32_t seen, std::chrono::milliseconds at_most);
  void ring_doorbell(uint32_t rank);

  Peer peer(uint32_t rank) const;
  int process(uint32_t rank) const;

 private:
  struct Header;
  struct Slot;

  explicit Segment(const Membership& member) : member_(member) {}
  void open(std::chrono::steady_clock::time_point deadline);
  void create_contents();
  void map(uint32_t ranks);
  void enter();
  void wait_for_all(std::chrono::steady_clock::time_point deadline, std::chrono::seconds timeout);
  void refuse_shared_devices() const;
  void unlink() const;
  void ring_all_doorbells();
  static uint64_t bytes_for(uint64_t ranks);
  Header& header() const;
  Slot& slot(uint32_t rank) const;

  Membership member_;
  int file_ = -1;
  char* base_ = nullptr;
  uint64_t bytes_ = 0;
  bool entered_ = false;
};

// A name that no segment has had.
std::string new_segment_name();
bool is_segment_name(const std::string& name);

// Remove segments of this user that no process has open any more.
void remove_abandoned_segments();

}  // namespace hostcann::hccl
