#include "hostcann/hccl/reduction.h"

#include <string>
#include <type_traits>

#include "hostcann/hccl/error.h"

namespace hostcann::hccl {
namespace {

// A type in memory, and the one that its elements are combined in. Single precision gives the sum and product of two
// float16 or bfloat16 numbers with enough bits that rounding it once more is rounding the exact result.
template <class T>
struct Plain {
  using Storage = T;
  static T load(T x) { return x; }
  static T store(T x) { return x; }
};

struct Float16 {
  using Storage = _Float16;
  static float load(_Float16 x) { return static_cast<float>(x); }
  static _Float16 store(float x) { return static_cast<_Float16>(x); }
};

struct BFloat16 {
  using Storage = uint16_t;
  static float load(uint16_t x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16); }
  static uint16_t store(float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    if (x != x) return static_cast<uint16_t>((bits >> 16) | 0x40);  // keep it a NaN after truncation
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
};

template <class T>
T wrap(T a, T b, bool product) {
  if constexpr (std::is_integral_v<T>) {
    // 64 unsigned bits: narrower ones would be promoted to int, whose overflow is undefined.
    const uint64_t x = static_cast<uint64_t>(a), y = static_cast<uint64_t>(b);
    return static_cast<T>(product ? x * y : x + y);
  } else {
    return product ? a * b : a + b;
  }
}

struct Sum {
  template <class T>
  T operator()(T a, T b) const {
    return wrap(a, b, false);
  }
};
struct Product {
  template <class T>
  T operator()(T a, T b) const {
    return wrap(a, b, true);
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b || a != a ? a : b;
  }
};

template <class Type, class Op>
void combine(void* into, const void* from, uint64_t count) {
  auto* const a = static_cast<typename Type::Storage*>(into);
  auto* const b = static_cast<const typename Type::Storage*>(from);
  for (uint64_t i = 0; i < count; ++i) a[i] = Type::store(Op()(Type::load(a[i]), Type::load(b[i])));
}

template <class Type>
void combine(HcclReduceOp op, void* into, const void* from, uint64_t count) {
  switch (op) {
    case HCCL_REDUCE_SUM:
      return combine<Type, Sum>(into, from, count);
    case HCCL_REDUCE_PROD:
      return combine<Type, Product>(into, from, count);
    case HCCL_REDUCE_MAX:
      return combine<Type, Max>(into, from, count);
    case HCCL_REDUCE_MIN:
      return combine<Type, Min>(into, from, count);
    default:
      throw Error(HCCL_E_INTERNAL, "reduction " + std::to_string(op));
  }
}

}  // namespace

uint64_t element_size(HcclDataType type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8:
    case HCCL_DATA_TYPE_UINT8:
      return 1;
    case HCCL_DATA_TYPE_INT16:
    case HCCL_DATA_TYPE_UINT16:
    case HCCL_DATA_TYPE_FP16:
    case HCCL_DATA_TYPE_BFP16:
      return 2;
    case HCCL_DATA_TYPE_INT32:
    case HCCL_DATA_TYPE_UINT32:
    case HCCL_DATA_TYPE_FP32:
      return 4;
    case HCCL_DATA_TYPE_INT64:
    case HCCL_DATA_TYPE_UINT64:
    case HCCL_DATA_TYPE_FP64:
      return 8;
    default:
      return 0;
  }
}

bool can_reduce(HcclDataType type, HcclReduceOp op) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8:
    case HCCL_DATA_TYPE_INT32:
    case HCCL_DATA_TYPE_INT64:
    case HCCL_DATA_TYPE_FP16:
    case HCCL_DATA_TYPE_FP32:
      return true;
    case HCCL_DATA_TYPE_INT16:
    case HCCL_DATA_TYPE_BFP16:
      return op != HCCL_REDUCE_PROD;
    default:
      return false;
  }
}

void reduce(HcclDataType type, HcclReduceOp op, void* into, const void* from, uint64_t count) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8:
      return combine<Plain<int8_t>>(op, into, from, count);
    case HCCL_DATA_TYPE_INT16:
      return combine<Plain<int16_t>>(op, into, from, count);
    case HCCL_DATA_TYPE_INT32:
      return combine<Plain<int32_t>>(op, into, from, count);
    case HCCL_DATA_TYPE_INT64:
      return combine<Plain<int64_t>>(op, into, from, count);
    case HCCL_DATA_TYPE_FP32:
      return combine<Plain<float>>(op, into, from, count);
    case HCCL_DATA_TYPE_FP16:
      return combine<Float16>(op, into, from, count);
    case HCCL_DATA_TYPE_BFP16:
      return combine<BFloat16>(op, into, from, count);
    default:
      throw Error(HCCL_E_INTERNAL, "reduction of data type " + std::to_string(type));
  }
}

}  // namespace hostcann::hccl
