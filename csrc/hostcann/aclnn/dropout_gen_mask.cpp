// The mask of attention's dropout: CANN's arguments around csrc/cpu/drop_mask.h.
#include <algorithm>

#include "aclnnop/aclnn_dropout_gen_mask.h"
#include "aclnnop/aclnn_dropout_gen_mask_v2.h"
#include "attention/dropout.h"
#include "cpu/drop_mask.h"
#include "hostcann/aclnn/checks.h"
#include "hostcann/aclnn/executor.h"
#include "hostcann/aclnn/memory.h"
#include "hostcann/aclnn/problem.h"
#include "hostcann/aclnn/status.h"
#include "hostcann/aclnn/trace.h"

using namespace hostcann;

namespace {

struct MaskArguments {
  const aclIntArray* shape;
  double prob;
  int64_t seed, offset;
  aclDataType prob_type;
  const aclTensor* out;
};

int64_t elements_of(const std::vector<int64_t>& shape) {
  __int128 elements = 1;
  for (const int64_t size : shape) {
    if (size < 0) refuse_value("shape " + ascendspeed::shape_text(shape) + " has a negative size");
    elements = std::min<__int128>(elements * size, __int128{1} << 62);
  }
  return static_cast<int64_t>(elements);
}

Plan plan(const MaskArguments& a) {
  if (a.shape == nullptr) refuse_null("shape");
  if (a.out == nullptr) refuse_null("out");
  if (!(a.prob >= 0.0 && a.prob <= 1.0)) refuse_value("prob=" + std::to_string(a.prob) + " must be in [0, 1]");
  if (a.prob_type != ACL_FLOAT && a.prob_type != ACL_FLOAT16 && a.prob_type != ACL_BF16) {
    refuse_value("prob_type=" + dtype_name(a.prob_type) + " must be ACL_FLOAT, ACL_FLOAT16 or ACL_BF16");
  }
  check_tensor("out", a.out);
  const int64_t numel = elements_of(a.shape->values), bytes = ascendspeed::drop_mask_bytes(numel);
  check_output("out", a.out, {bytes}, ACL_UINT8);
  const Strided out(a.out);
  if (!out.contiguous()) refuse_value(of("out", *a.out) + ": must be contiguous");
  return {.memory = {range_of("out", a.out)},
          .run = [out, numel, bytes, keep_prob = 1.0 - a.prob, seed = static_cast<uint64_t>(a.seed),
                  offset = static_cast<uint64_t>(a.offset)](void*) {
            auto* bits = reinterpret_cast<uint8_t*>(out.data);
            if (keep_prob > 0.0) {
              ascendspeed::cpu::generate_drop_mask(seed, offset, keep_prob, numel, host_threads(), bits);
            } else {
              std::fill_n(bits, bytes, uint8_t{0});
            }
          }};
}

std::string describe(const MaskArguments& a) {
  return json_object({{"shape", json(a.shape)},
                      {"prob", json(a.prob)},
                      {"seed", json(a.seed)},
                      {"offset", json(a.offset)},
                      {"prob_type", json(dtype_name(a.prob_type))},
                      {"out", json(a.out)}});
}

aclnnStatus first_phase(const Api& api, const MaskArguments& a, uint64_t* workspace_size, aclOpExecutor** executor) {
  return hostcann::first_phase(api, [&] { return ::describe(a); }, workspace_size, executor, [&] { return plan(a); });
}

constexpr Api kV1{.name = "aclnnDropoutGenMask"}, kV2{.name = "aclnnDropoutGenMaskV2"};

}  // namespace

aclnnStatus aclnnDropoutGenMaskGetWorkspaceSize(const aclIntArray* shape, double prob, int64_t seed, int64_t offset,
                                                aclTensor* out, uint64_t* workspaceSize, aclOpExecutor** executor) {
  return ::first_phase(kV1, {shape, prob, seed, offset, ACL_FLOAT, out}, workspaceSize, executor);
}
aclnnStatus aclnnDropoutGenMask(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) {
  return second_phase(kV1, workspace, workspaceSize, executor, stream);
}

aclnnStatus aclnnDropoutGenMaskV2GetWorkspaceSize(const aclIntArray* shape, double prob, int64_t seed, int64_t offset,
                                                  aclDataType probDataType, aclTensor* out, uint64_t* workspaceSize,
                                                  aclOpExecutor** executor) {
  return ::first_phase(kV2, {shape, prob, seed, offset, probDataType, out}, workspaceSize, executor);
}
aclnnStatus aclnnDropoutGenMaskV2(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                  aclrtStream stream) {
  return second_phase(kV2, workspace, workspaceSize, executor, stream);
}
