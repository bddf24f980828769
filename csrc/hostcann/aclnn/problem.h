// From C arguments to a problem for the rules, with the checks that only the C interface needs: pointers, formats,
// storage, and outputs that the caller has made.
#pragma once

#include <string>
#include <vector>

#include "attention/fill_params.h"
#include "attention/problem.h"
#include "attention/rules.h"
#include "cpu/parallel.h"
#include "hostcann/aclnn/arguments.h"
#include "hostcann/aclnn/memory.h"

namespace hostcann {

// Refuses what no problem can be made of, in this order: missing pointers (161001); formats, dtypes and bounds of every
// tensor; a layout that is not this call's; what is reserved or not built.
void check_arguments(const Api& api, const Arguments& arguments, bool backward);

ascendspeed::Attributes attributes_of(const Arguments& arguments);

// The inputs that both calls have: views, and copies of a sink or drop mask that is not contiguous.
struct Inputs {
  Inputs(const Arguments& arguments, Workspace* workspace);

  ascendspeed::InputMemory memory(char* workspace) const;
  void copy_in(char* workspace) const;

  Strided query, key, value, pse, atten_mask, query_rope, key_rope;
  Contiguous sink, drop_mask;
  uint64_t seed, offset;
};

// All memory that a call touches.
std::vector<MemoryRange> ranges_of(const Arguments& arguments);

// Threads for a kernel, from OpenMP.
ascendspeed::cpu::Parallel host_threads();

}  // namespace hostcann
