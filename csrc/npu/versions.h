// The versions of the operator's two calls that CANN has, and the choice between them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "npu/arguments.h"
#include "npu/library.h"

namespace ascendspeed::npu {

struct Version {
  const char* name;
  bool only_950;  // not there on A2 and A3
  // Calls the first phase at `address` with the arguments in this version's order.
  aclnnStatus (*first_phase)(void* address, const Arguments& arguments, uint64_t* workspace_size,
                             aclOpExecutor** executor);
  // The first argument that was given and that this version lacks; nullptr when it can express the call.
  const char* (*lacks)(const Arguments& arguments);
  // Whether CANN's page of this version admits the call, which it can express.
  bool (*admits)(const Arguments& arguments);
};

// The versions that one kind of call has, newest first, and those of them that are installed.
class Versions {
 public:
  static const Versions& forward(bool packed);
  static const Versions& backward(bool packed);

  struct Installed {
    const Version* version;
    Api api;
  };

  // The newest installed one that can express the call, as not each has all that an older one has, and whose page
  // admits it. Where no page does, CANN is asked all the same, and has the last word.
  //
  // Throws c10::NotImplementedError: none is there, or it takes a newer CANN to express an argument, which is named.
  const Installed& choose(const Arguments& arguments) const;

 private:
  explicit Versions(std::span<const Version> all);

  std::string soc_;
  std::vector<const Version*> of_chip_;  // that this chip has
  std::vector<Installed> installed_;     // and libopapi.so exports
};

}  // namespace ascendspeed::npu
