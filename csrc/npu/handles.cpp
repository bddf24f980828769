#include "npu/handles.h"

#include "npu/library.h"

namespace ascendspeed::npu {
namespace {

aclDataType to_acl(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return ACL_FLOAT;
    case at::kHalf:
      return ACL_FLOAT16;
    case at::kBFloat16:
      return ACL_BF16;
    case at::kBool:
      return ACL_BOOL;
    case at::kByte:
      return ACL_UINT8;
    default:  // the rules let no other one through
      TORCH_INTERNAL_ASSERT(false, "no tensor of the operator is ", c10::toString(type));
  }
}

}  // namespace

Handles::~Handles() {
  static const auto destroy_tensor = function<decltype(aclDestroyTensor)>("aclDestroyTensor");
  static const auto destroy_array = function<decltype(aclDestroyIntArray)>("aclDestroyIntArray");
  for (const aclTensor* tensor : tensors_) destroy_tensor(tensor);
  for (const aclIntArray* array : arrays_) destroy_array(array);
}

const aclTensor* Handles::tensor(const char* name, const at::Tensor& tensor) {
  static const auto create = function<decltype(aclCreateTensor)>("aclCreateTensor");
  if (!tensor.defined()) return nullptr;
  check_format(name, tensor);
  // The storage as one dimension, and the view into it: no copy is made here of what is not contiguous.
  const c10::Storage& storage = tensor.storage();
  const auto elements = static_cast<int64_t>(storage.nbytes() / tensor.itemsize());
  const aclTensor* made =
      create(tensor.sizes().data(), tensor.dim(), to_acl(tensor.scalar_type()), tensor.strides().data(),
             tensor.storage_offset(), ACL_FORMAT_ND, &elements, 1, const_cast<void*>(storage.data()));
  check_made(made, "aclCreateTensor");
  tensors_.push_back(made);
  return made;
}

const aclTensor* Handles::tensor(const char* name, const std::optional<at::Tensor>& tensor) {
  return tensor ? this->tensor(name, *tensor) : nullptr;
}

const aclIntArray* Handles::ints(const OptionalInts& values) {
  static const auto create = function<decltype(aclCreateIntArray)>("aclCreateIntArray");
  if (!values || values->empty()) return nullptr;
  const aclIntArray* made = create(values->data(), values->size());
  check_made(made, "aclCreateIntArray");
  arrays_.push_back(made);
  return made;
}

}  // namespace ascendspeed::npu
