// Creation, inspection and destruction of the objects; nothing here knows an operator.
#include "hostcann/aclnn/objects.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "attention/layout.h"
#include "hostcann/aclnn/status.h"

namespace hostcann {
namespace {

using ascendspeed::DType;

struct TypeName {
  aclDataType type;
  const char* name;
};
constexpr TypeName kTypes[] = {
    {ACL_FLOAT, "ACL_FLOAT"},   {ACL_FLOAT16, "ACL_FLOAT16"},     {ACL_BF16, "ACL_BF16"},
    {ACL_BOOL, "ACL_BOOL"},     {ACL_UINT8, "ACL_UINT8"},         {ACL_INT8, "ACL_INT8"},
    {ACL_INT16, "ACL_INT16"},   {ACL_UINT16, "ACL_UINT16"},       {ACL_INT32, "ACL_INT32"},
    {ACL_UINT32, "ACL_UINT32"}, {ACL_INT64, "ACL_INT64"},         {ACL_UINT64, "ACL_UINT64"},
    {ACL_DOUBLE, "ACL_DOUBLE"}, {ACL_COMPLEX64, "ACL_COMPLEX64"}, {ACL_COMPLEX128, "ACL_COMPLEX128"},
};

struct FormatFacts {
  aclFormat format;
  const char* name;
  bool plain;
};
constexpr FormatFacts kFormats[] = {
    {ACL_FORMAT_ND, "ACL_FORMAT_ND", true},
    {ACL_FORMAT_NCHW, "ACL_FORMAT_NCHW", true},
    {ACL_FORMAT_NHWC, "ACL_FORMAT_NHWC", true},
    {ACL_FORMAT_NCDHW, "ACL_FORMAT_NCDHW", true},
    {ACL_FORMAT_NDHWC, "ACL_FORMAT_NDHWC", true},
    {ACL_FORMAT_NCL, "ACL_FORMAT_NCL", true},
    {ACL_FORMAT_FRACTAL_NZ, "ACL_FORMAT_FRACTAL_NZ", false},
};

const FormatFacts* facts_of(aclFormat format) {
  for (const FormatFacts& facts : kFormats) {
    if (facts.format == format) return &facts;
  }
  return nullptr;
}

// What `make` makes; nullptr and a message where it fails.
template <typename Make>
auto create(const char* function, Make&& make) -> decltype(make()) {
  decltype(make()) object = nullptr;
  guarded(function, [&] { object = make(); });
  return object;
}

// A copy of what the caller has in host memory.
template <typename To, typename From>
std::vector<To> copy_of(const char* name, const From* values, uint64_t count) {
  if (values == nullptr && count > 0) refuse_null(name);
  return std::vector<To>(values, values + count);
}

template <typename T>
aclnnStatus destroy(const T* object) {
  delete object;
  return ACLNN_SUCCESS;
}

template <typename List, typename Destroy>
aclnnStatus destroy_list(const List* list, Destroy&& destroy_member) {
  if (list == nullptr) return ACLNN_SUCCESS;
  for (const auto* member : list->values) destroy_member(member);
  return destroy(list);
}

template <typename Object, typename Result, typename Read>
aclnnStatus get(const char* function, const Object* object, Result* result, Read&& read) {
  return guarded(function, [&] {
    if (object == nullptr) refuse_null("the object");
    if (result == nullptr) refuse_null("the result");
    *result = read(*object);
  });
}

template <typename List>
aclnnStatus get_size(const char* function, const List* list, uint64_t* size) {
  return get(function, list, size, [](const List& of) { return of.values.size(); });
}

aclnnStatus get_sizes(const char* function, const aclTensor* tensor, const std::vector<int64_t> aclTensor::* member,
                      int64_t** values, uint64_t* count) {
  return guarded(function, [&] {
    if (tensor == nullptr) refuse_null("tensor");
    if (values == nullptr || count == nullptr) refuse_null("the result");
    const std::vector<int64_t>& from = tensor->*member;
    *values = new int64_t[from.size()];
    std::copy(from.begin(), from.end(), *values);
    *count = from.size();
  });
}

}  // namespace

std::string dtype_name(aclDataType dtype) {
  for (const TypeName& entry : kTypes) {
    if (entry.type == dtype) return entry.name;
  }
  return "aclDataType " + std::to_string(dtype);
}

std::string format_name(aclFormat format) {
  const FormatFacts* facts = facts_of(format);
  return facts == nullptr ? "aclFormat " + std::to_string(format) : facts->name;
}

bool is_plain_format(aclFormat format) {
  const FormatFacts* facts = facts_of(format);
  return facts != nullptr && facts->plain;
}

ascendspeed::TensorInfo describe(const aclTensor& tensor) {
  return {tensor.sizes, to_dtype(tensor.dtype), dtype_name(tensor.dtype)};
}

ascendspeed::OptionalTensor describe(const aclTensor* tensor) {
  if (tensor == nullptr) return std::nullopt;
  return describe(*tensor);
}

ascendspeed::OptionalInts describe(const aclIntArray* array) {
  if (array == nullptr) return std::nullopt;
  return array->values;
}

ascendspeed::DType to_dtype(aclDataType dtype) {
  switch (dtype) {
    case ACL_FLOAT:
      return DType::kFloat32;
    case ACL_FLOAT16:
      return DType::kFloat16;
    case ACL_BF16:
      return DType::kBFloat16;
    case ACL_BOOL:
      return DType::kBool;
    case ACL_UINT8:
      return DType::kUInt8;
    default:
      return DType::kOther;
  }
}

int64_t count_elements(const std::vector<int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

}  // namespace hostcann

using namespace hostcann;

aclTensor* aclCreateTensor(const int64_t* view_dims, uint64_t view_dims_num, aclDataType dtype, const int64_t* strides,
                           int64_t offset, aclFormat format, const int64_t* storage_dims, uint64_t storage_dims_num,
                           void* data) {
  return create("aclCreateTensor", [&] {
    aclTensor tensor{copy_of<int64_t>("viewDims", view_dims, view_dims_num),
                     copy_of<int64_t>("strides", strides, view_dims_num),
                     copy_of<int64_t>("storageDims", storage_dims, storage_dims_num),
                     offset,
                     dtype,
                     format,
                     data};
    for (const auto& [name, sizes] : {std::pair("viewDims", &tensor.sizes), {"storageDims", &tensor.storage_sizes}}) {
      if (std::any_of(sizes->begin(), sizes->end(), [](int64_t size) { return size < 0; })) {
        refuse_value(std::string(name) + " " + ascendspeed::shape_text(*sizes) + " has a negative size");
      }
    }
    return new aclTensor(std::move(tensor));
  });
}

aclScalar* aclCreateScalar(void* value, aclDataType dtype) {
  return create("aclCreateScalar", [&] {
    const size_t bytes = aclDataTypeSize(dtype);
    if (bytes == 0) refuse_value("dataType: " + dtype_name(dtype) + " has no scalars");
    return new aclScalar{copy_of<unsigned char>("value", static_cast<const unsigned char*>(value), bytes), dtype};
  });
}

aclIntArray* aclCreateIntArray(const int64_t* value, uint64_t size) {
  return create("aclCreateIntArray", [&] { return new aclIntArray{copy_of<int64_t>("value", value, size)}; });
}
aclFloatArray* aclCreateFloatArray(const float* value, uint64_t size) {
  return create("aclCreateFloatArray", [&] { return new aclFloatArray{copy_of<float>("value", value, size)}; });
}
aclBoolArray* aclCreateBoolArray(const bool* value, uint64_t size) {
  return create("aclCreateBoolArray", [&] { return new aclBoolArray{copy_of<unsigned char>("value", value, size)}; });
}
aclTensorList* aclCreateTensorList(const aclTensor* const* value, uint64_t size) {
  return create("aclCreateTensorList",
                [&] { return new aclTensorList{copy_of<const aclTensor*>("value", value, size)}; });
}
aclScalarList* aclCreateScalarList(const aclScalar* const* value, uint64_t size) {
  return create("aclCreateScalarList",
                [&] { return new aclScalarList{copy_of<const aclScalar*>("value", value, size)}; });
}

aclnnStatus aclDestroyTensor(const aclTensor* tensor) { return destroy(tensor); }
aclnnStatus aclDestroyScalar(const aclScalar* scalar) { return destroy(scalar); }
aclnnStatus aclDestroyIntArray(const aclIntArray* array) { return destroy(array); }
aclnnStatus aclDestroyFloatArray(const aclFloatArray* array) { return destroy(array); }
aclnnStatus aclDestroyBoolArray(const aclBoolArray* array) { return destroy(array); }
aclnnStatus aclDestroyTensorList(const aclTensorList* list) { return destroy_list(list, aclDestroyTensor); }
aclnnStatus aclDestroyScalarList(const aclScalarList* list) { return destroy_list(list, aclDestroyScalar); }

aclnnStatus aclGetViewShape(const aclTensor* tensor, int64_t** sizes, uint64_t* count) {
  return get_sizes("aclGetViewShape", tensor, &aclTensor::sizes, sizes, count);
}
aclnnStatus aclGetStorageShape(const aclTensor* tensor, int64_t** sizes, uint64_t* count) {
  return get_sizes("aclGetStorageShape", tensor, &aclTensor::storage_sizes, sizes, count);
}
aclnnStatus aclGetViewStrides(const aclTensor* tensor, int64_t** strides, uint64_t* count) {
  return get_sizes("aclGetViewStrides", tensor, &aclTensor::strides, strides, count);
}
aclnnStatus aclGetViewOffset(const aclTensor* tensor, int64_t* offset) {
  return get("aclGetViewOffset", tensor, offset, [](const aclTensor& of) { return of.offset; });
}
aclnnStatus aclGetFormat(const aclTensor* tensor, aclFormat* format) {
  return get("aclGetFormat", tensor, format, [](const aclTensor& of) { return of.format; });
}
aclnnStatus aclGetDataType(const aclTensor* tensor, aclDataType* dtype) {
  return get("aclGetDataType", tensor, dtype, [](const aclTensor& of) { return of.dtype; });
}

aclnnStatus aclGetIntArraySize(const aclIntArray* array, uint64_t* size) {
  return get_size("aclGetIntArraySize", array, size);
}
aclnnStatus aclGetFloatArraySize(const aclFloatArray* array, uint64_t* size) {
  return get_size("aclGetFloatArraySize", array, size);
}
aclnnStatus aclGetBoolArraySize(const aclBoolArray* array, uint64_t* size) {
  return get_size("aclGetBoolArraySize", array, size);
}
aclnnStatus aclGetTensorListSize(const aclTensorList* list, uint64_t* size) {
  return get_size("aclGetTensorListSize", list, size);
}
aclnnStatus aclGetScalarListSize(const aclScalarList* list, uint64_t* size) {
  return get_size("aclGetScalarListSize", list, size);
}
