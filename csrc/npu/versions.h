// The versions of the operator's two calls that CANN has, and the choice between them.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "aclnn/aclnn_base.h"
#include "npu/arguments.h"

namespace ascendspeed::npu {

// One version: a pair of functions of libopapi.so, called by address.
struct Version {
  const char* name;  // of the second phase; the first one's ends in GetWorkspaceSize
  bool only_950;     // not there on A2 and A3
  // Calls the first phase at `address` with the arguments in this version's order.
  aclnnStatus (*first_phase)(void* address, const Arguments& arguments, uint64_t* workspace_size,
                             aclOpExecutor** executor);
  // The first argument that was given and that this version lacks; nullptr when it can express the call.
  const char* (*lacks)(const Arguments& arguments);
};

// Newest first. Not each has all that an older one has, so the choice is by call.
std::span<const Version> forward_versions(bool packed);
std::span<const Version> backward_versions(bool packed);

// What is installed: whether a function of this name is exported, and the name of the chip.
struct Installed {
  std::function<bool(const std::string&)> exports;
  std::string soc;
};

// The newest installed version that can express the call.
//
// Throws c10::NotImplementedError: none is there, or it takes a newer CANN to express an argument, which is named.
const Version& choose_version(std::span<const Version> versions, const Arguments& arguments,
                              const Installed& installed);

}  // namespace ascendspeed::npu
