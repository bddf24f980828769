// A communicator: puts collectives on streams, each in its turn, and carries a failure to every rank.
//
// A collective runs on the worker thread of the stream that it was put on, so communicators on different streams do not
// wait for each other, in whatever order they are used. Within one communicator calls of one lane run in the order in
// which they were made, on whichever streams: all collectives are one lane, the sends to a rank one, the receives from
// a rank one.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "acl/acl_rt.h"
#include "hostcann/acl/fault.h"
#include "hostcann/hccl/collectives.h"
#include "hostcann/hccl/description.h"
#include "hostcann/hccl/segment.h"
#include "hostcann/hccl/settings.h"

namespace hostcann::hccl {

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  // Waits for all ranks; throws Error.
  Communicator(const Membership& member, const Settings& settings);

  uint32_t ranks() const { return member_.ranks; }
  uint32_t rank() const { return member_.rank; }
  int32_t device() const { return member_.device; }
  const std::string& segment_name() const { return member_.name; }
  const std::string& name() const { return name_; }
  std::optional<Error> failure() const { return segment_->failure(); }

  // False where this id has been used before.
  bool claim_sub_communicator(uint64_t id);

  struct Agreement {
    Header header;                  // count is set from the next two
    std::vector<uint64_t> sends;    // elements of this rank's message to each rank
    std::vector<uint64_t> expects;  // and from each rank
  };

  // `run` after all ranks have agreed. Both return at once; an Error now is one of this call alone.
  void collective(aclrtStream stream, Agreement agreement, std::function<void(Exchange&)> run);

  // Messages to and from other ranks, at most one each way per rank; `local` before them. `called` is the exported
  // function.
  void point_to_point(const char* called, aclrtStream stream, std::vector<Message> messages,
                      std::function<void()> local);

 private:
  struct Lane {
    uint64_t next = 0;     // ticket of the next call
    uint64_t serving = 0;  // ticket whose turn it is
    std::set<uint64_t> finished_early;
  };
  struct Turn;

  void issue(Function function, const char* called, std::vector<uint32_t> lanes, Channel channel, aclrtStream stream,
             std::function<void(Exchange&)> run);
  void execute(Turn& turn, Channel channel, const std::function<void(Exchange&)>& run);
  void await(const Turn& turn);
  void suffer(const Turn& turn, const Strike& fault);
  template <typename Over>
  void wait(const Turn& turn, Over over);
  void finish(const Turn& turn);
  void report(const Error& error);

  const Membership member_;
  const std::string name_;
  const std::chrono::seconds exec_timeout_;
  const std::unique_ptr<Segment> segment_;
  std::mutex issuing_;  // tickets are taken in the order in which the streams get the calls
  std::mutex mutex_;    // of what follows
  std::condition_variable turned_;
  std::vector<Lane> lanes_;
  std::set<uint64_t> sub_communicators_;
  bool reported_ = false;
};

}  // namespace hostcann::hccl
