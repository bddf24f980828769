// What the test programs share: one call on the tensors and attributes of a folder, as a CANN sample program makes it.
//
// FOLDER/call.txt has one line for each argument that is passed; what is missing there is passed as a null pointer.
//   input|output NAME DTYPE FORMAT OFFSET RANK SIZES... STRIDES... STORAGE_RANK STORAGE_SIZES...
//   ints NAME COUNT VALUES...
//   value NAME TEXT
// FOLDER/NAME.in holds the bytes of a tensor's storage; those of outputs come back in FOLDER/NAME.out. The program
// prints the phase that was refused, its code and aclGetRecentErrMsg, or "done".
#pragma once

#include "aclnn/aclnn_base.h"

class Call {
 public:
  // A device, a stream, and everything that the folder describes.
  explicit Call(const char* folder);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // NULL where call.txt has no such line.
  aclTensor* tensor(const char* name) const;
  aclIntArray* ints(const char* name) const;
  char* text(const char* name);

  double real(const char* name) const;
  int64_t integer(const char* name) const;

  // What the first phase writes.
  uint64_t bytes = 1;
  aclOpExecutor* executor = nullptr;

  // The rest of a program, after the first phase with its code: the second one, with memory as the first one asks for
  // it; then the outputs' files. Returns the exit status.
  int run(int first_code, aclnnStatus (*second_phase)(void*, uint64_t, aclOpExecutor*, aclrtStream));

 private:
  struct Parts;
  Parts* parts_;  // until the process ends
};
