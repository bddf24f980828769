#include "hostcann/aclnn/checks.h"

#include <algorithm>

#include "attention/layout.h"
#include "hostcann/aclnn/objects.h"
#include "hostcann/aclnn/status.h"

namespace hostcann {
namespace {

using ascendspeed::shape_text;

// Whether the last element lies within the storage; wide enough for any sizes and strides.
bool is_within_storage(const aclTensor& tensor) {
  __int128 last = tensor.offset, storage = 1;
  for (size_t dim = 0; dim < tensor.sizes.size(); ++dim) {
    last += static_cast<__int128>(tensor.sizes[dim] - 1) * tensor.strides[dim];
  }
  for (int64_t size : tensor.storage_sizes) {
    storage = std::min<__int128>(storage * size, __int128{1} << 63);
  }
  return last < storage;
}

}  // namespace

std::string of(const char* name, const aclTensor& tensor) { return std::string(name) + " " + shape_text(tensor.sizes); }

bool is_empty(const aclTensor& tensor) { return count_elements(tensor.sizes) == 0; }

void check_tensor(const char* name, const aclTensor* tensor) {
  if (tensor == nullptr) return;
  if (!is_plain_format(tensor->format)) {
    refuse_value(of(name, *tensor) + ": format " + format_name(tensor->format) +
                 " is not supported, use ACL_FORMAT_ND");
  }
  if (aclDataTypeSize(tensor->dtype) == 0) {
    refuse_value(of(name, *tensor) + ": dtype " + dtype_name(tensor->dtype) + " is not supported");
  }
  if (is_empty(*tensor)) return;
  const bool backwards = std::any_of(tensor->strides.begin(), tensor->strides.end(), [](int64_t s) { return s < 0; });
  if (tensor->offset < 0 || backwards || !is_within_storage(*tensor)) {
    refuse_value(of(name, *tensor) + ": strides " + shape_text(tensor->strides) + " and offset " +
                 std::to_string(tensor->offset) + " reach out of the storage " + shape_text(tensor->storage_sizes));
  }
}

void check_output(const char* name, const aclTensor* output, const std::vector<int64_t>& sizes, aclDataType dtype) {
  if (output->sizes != sizes) refuse_value(of(name, *output) + ": expected " + shape_text(sizes));
  if (output->dtype != dtype) {
    refuse_value(of(name, *output) + ": dtype " + dtype_name(output->dtype) + ", expected " + dtype_name(dtype));
  }
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    if (sizes[dim] > 1 && output->strides[dim] == 0) {
      refuse_value(of(name, *output) + ": strides " + shape_text(output->strides) + " give elements the same memory");
    }
  }
}

}  // namespace hostcann
