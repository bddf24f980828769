// Element types that the rules and kernels tell apart.
#pragma once

namespace ascendspeed {

enum class DType { kFloat32, kFloat16, kBFloat16, kBool, kUInt8, kOther };

}  // namespace ascendspeed
