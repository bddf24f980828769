// What the opaque objects of aclnn/acl_meta.h are on the host, and what a tensor's dtype and format mean.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "aclnn/acl_meta.h"
#include "attention/dtype.h"
#include "attention/problem.h"

struct aclTensor {
  std::vector<int64_t> sizes, strides, storage_sizes;  // strides and offset count elements
  int64_t offset;
  aclDataType dtype;
  aclFormat format;
  void* data;  // of the storage: the first element lies `offset` elements further
};

struct aclScalar {
  std::vector<unsigned char> bytes;
  aclDataType dtype;
};

struct aclIntArray {
  std::vector<int64_t> values;
};
struct aclFloatArray {
  std::vector<float> values;
};
struct aclBoolArray {
  std::vector<unsigned char> values;
};
struct aclTensorList {
  std::vector<const aclTensor*> values;
};
struct aclScalarList {
  std::vector<const aclScalar*> values;
};

namespace hostcann {

// "ACL_FLOAT16"; for a number that no type has, the number.
ACL_FUNC_VISIBILITY std::string dtype_name(aclDataType dtype);
std::string format_name(aclFormat format);

// Whether sizes and strides say everything about where elements lie; private formats tile them.
bool is_plain_format(aclFormat format);

ascendspeed::DType to_dtype(aclDataType dtype);
ascendspeed::TensorInfo describe(const aclTensor& tensor);
ascendspeed::OptionalTensor describe(const aclTensor* tensor);  // nothing for NULL
ascendspeed::OptionalInts describe(const aclIntArray* array);

int64_t count_elements(const std::vector<int64_t>& sizes);

}  // namespace hostcann
