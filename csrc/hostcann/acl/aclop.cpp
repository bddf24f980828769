// The objects of the old way to run an operator by its name. Running one is refused; the objects are what a program
// builds on its way there, so that the refusal names the operator.
#include <cstdint>
#include <string>
#include <vector>

#include "acl/acl_base.h"
#include "hostcann/acl/refused.h"
#include "hostcann/acl/stream.h"

using hostcann::refuse;

struct aclTensorDesc {
  aclDataType type;
  std::vector<int64_t> dims;
  aclFormat format;
};

struct aclDataBuffer {
  void* data;
  size_t size;
};

// Attributes are not kept: what would read them is aclopCompileAndExecute.
struct aclopAttr {};

namespace {

aclError null_of(const char* function, const char* argument) {
  return refuse(ACL_ERROR_INVALID_PARAM, std::string(function) + ": " + argument + " is null");
}

aclError accept_attribute(const char* function, const aclopAttr* attr, const char* name) {
  if (attr == nullptr) return null_of(function, "attr");
  return name == nullptr ? null_of(function, "attrName") : ACL_SUCCESS;
}

std::vector<int64_t> dims_of(int count, const int64_t* dims) {
  return count > 0 && dims != nullptr ? std::vector<int64_t>(dims, dims + count) : std::vector<int64_t>();
}

}  // namespace

extern "C" {

ACL_FUNC_VISIBILITY aclError aclopCompileAndExecute(const char* opType, int, const aclTensorDesc* const*,
                                                    const aclDataBuffer* const*, int, const aclTensorDesc* const*,
                                                    aclDataBuffer* const*, const aclopAttr*, int, int, const char*,
                                                    aclrtStream) {
  return hostcann::not_implemented("aclopCompileAndExecute of", opType == nullptr ? "a null opType" : opType);
}

// How aclopCompileAndExecute would compile: nothing else reads it.
ACL_FUNC_VISIBILITY aclError aclSetCompileopt(int, const char* value) {
  return value == nullptr ? null_of("aclSetCompileopt", "value") : ACL_SUCCESS;
}

ACL_FUNC_VISIBILITY aclDataBuffer* aclCreateDataBuffer(void* data, size_t size) {
  return new aclDataBuffer{data, size};
}

ACL_FUNC_VISIBILITY aclError aclDestroyDataBuffer(const aclDataBuffer* dataBuffer) {
  if (dataBuffer == nullptr) return null_of("aclDestroyDataBuffer", "dataBuffer");
  delete dataBuffer;
  return ACL_SUCCESS;
}

ACL_FUNC_VISIBILITY aclTensorDesc* aclCreateTensorDesc(aclDataType dataType, int numDims, const int64_t* dims,
                                                       aclFormat format) {
  if (numDims < 0 || (numDims > 0 && dims == nullptr)) {
    refuse(ACL_ERROR_INVALID_PARAM, "aclCreateTensorDesc: numDims=" + std::to_string(numDims) +
                                        " must be at least 0, and dims not null when it is above");
    return nullptr;
  }
  return new aclTensorDesc{dataType, dims_of(numDims, dims), format};
}

ACL_FUNC_VISIBILITY void aclDestroyTensorDesc(const aclTensorDesc* desc) { delete desc; }

ACL_FUNC_VISIBILITY aclDataType aclGetTensorDescType(const aclTensorDesc* desc) {
  return desc == nullptr ? ACL_DT_UNDEFINED : desc->type;
}

ACL_FUNC_VISIBILITY aclFormat aclGetTensorDescFormat(const aclTensorDesc* desc) {
  return desc == nullptr ? ACL_FORMAT_UNDEFINED : desc->format;
}

ACL_FUNC_VISIBILITY size_t aclGetTensorDescNumDims(const aclTensorDesc* desc) {
  return desc == nullptr ? 0 : desc->dims.size();
}

ACL_FUNC_VISIBILITY aclError aclGetTensorDescDimV2(const aclTensorDesc* desc, size_t index, int64_t* dimSize) {
  if (dimSize == nullptr) return null_of("aclGetTensorDescDimV2", "dimSize");
  *dimSize = 0;
  if (desc == nullptr) return null_of("aclGetTensorDescDimV2", "desc");
  if (index >= desc->dims.size()) {
    return refuse(ACL_ERROR_INVALID_PARAM, "aclGetTensorDescDimV2: index=" + std::to_string(index) +
                                               " must be below the " + std::to_string(desc->dims.size()) + " dims");
  }
  *dimSize = desc->dims[index];
  return ACL_SUCCESS;
}

// The format, shape and placement that the kernel would see, and the name it would have in a graph.
ACL_FUNC_VISIBILITY aclError aclSetTensorFormat(aclTensorDesc* desc, aclFormat) {
  return desc == nullptr ? null_of("aclSetTensorFormat", "desc") : ACL_SUCCESS;
}

ACL_FUNC_VISIBILITY aclError aclSetTensorShape(aclTensorDesc* desc, int, const int64_t*) {
  return desc == nullptr ? null_of("aclSetTensorShape", "desc") : ACL_SUCCESS;
}

ACL_FUNC_VISIBILITY aclError aclSetTensorPlaceMent(aclTensorDesc* desc, aclMemType) {
  return desc == nullptr ? null_of("aclSetTensorPlaceMent", "desc") : ACL_SUCCESS;
}

ACL_FUNC_VISIBILITY void aclSetTensorDescName(aclTensorDesc*, const char*) {}

ACL_FUNC_VISIBILITY aclopAttr* aclopCreateAttr() { return new aclopAttr; }

ACL_FUNC_VISIBILITY void aclopDestroyAttr(const aclopAttr* attr) { delete attr; }

ACL_FUNC_VISIBILITY aclError aclopSetAttrBool(aclopAttr* attr, const char* attrName, uint8_t) {
  return accept_attribute("aclopSetAttrBool", attr, attrName);
}

ACL_FUNC_VISIBILITY aclError aclopSetAttrInt(aclopAttr* attr, const char* attrName, int64_t) {
  return accept_attribute("aclopSetAttrInt", attr, attrName);
}

ACL_FUNC_VISIBILITY aclError aclopSetAttrFloat(aclopAttr* attr, const char* attrName, float) {
  return accept_attribute("aclopSetAttrFloat", attr, attrName);
}

ACL_FUNC_VISIBILITY aclError aclopSetAttrString(aclopAttr* attr, const char* attrName, const char*) {
  return accept_attribute("aclopSetAttrString", attr, attrName);
}

ACL_FUNC_VISIBILITY aclError aclopSetAttrDataType(aclopAttr* attr, const char* attrName, aclDataType) {
  return accept_attribute("aclopSetAttrDataType", attr, attrName);
}

ACL_FUNC_VISIBILITY aclError aclopSetAttrListBool(aclopAttr* attr, const char* attrName, int, const uint8_t*) {
  return accept_attribute("aclopSetAttrListBool", attr, attrName);
}

ACL_FUNC_VISIBILITY aclError aclopSetAttrListInt(aclopAttr* attr, const char* attrName, int, const int64_t*) {
  return accept_attribute("aclopSetAttrListInt", attr, attrName);
}

ACL_FUNC_VISIBILITY aclError aclopSetAttrListFloat(aclopAttr* attr, const char* attrName, int, const float*) {
  return accept_attribute("aclopSetAttrListFloat", attr, attrName);
}

ACL_FUNC_VISIBILITY aclError aclopSetAttrListListInt(aclopAttr* attr, const char* attrName, int, const int*,
                                                     const int64_t* const*) {
  return accept_attribute("aclopSetAttrListListInt", attr, attrName);
}

}  // extern "C"
