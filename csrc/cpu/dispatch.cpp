// Which instruction set runs: the one list, best first, and ASCENDSPEED_CPU_ISA.
#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "cpu/microkernel.h"
#ifdef __x86_64__
#include "cpu/amx_support.h"
#endif

namespace ascendspeed::cpu {

extern const Microkernel kGeneric;
extern const Microkernel kGenericBf16;
#ifdef __x86_64__
extern const Microkernel kAvx2;
extern const Microkernel kAvx512;
extern const Microkernel kAvx512Bf16;
extern const Microkernel kAmxBf16;
#elif defined(__aarch64__) && defined(__linux__)
extern const Microkernel kNeon;
extern const Microkernel kNeonBf16;
#endif

namespace {

struct Candidate {
  const Microkernel* kernel;
  bool (*supported)();  // by the running CPU and operating system
};

#ifdef __x86_64__
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") != 0;
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16") != 0; }
#elif defined(__aarch64__) && defined(__linux__)
constexpr unsigned long kHwcap2Bf16 = 1ul << 14;  // HWCAP2_BF16, which older headers lack
#endif

constexpr std::array kBestFirst = {
#ifdef __x86_64__
    Candidate{&kAmxBf16, [] { return has_amx_bf16(has_avx512_bf16()); }},
    Candidate{&kAvx512Bf16, has_avx512_bf16},
    Candidate{&kAvx512, has_avx512},
    Candidate{&kAvx2,
              [] {
                return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                       __builtin_cpu_supports("f16c") != 0;
              }},
#elif defined(__aarch64__) && defined(__linux__)
    Candidate{&kNeonBf16, [] { return (getauxval(AT_HWCAP2) & kHwcap2Bf16) != 0; }},
    Candidate{&kNeon, [] { return true; }},
#endif
    Candidate{&kGeneric, [] { return true; }},
    Candidate{&kGenericBf16, [] { return true; }}};  // after the one that is always there: only ever by name

const Microkernel& choose() {
  const char* wanted = std::getenv("ASCENDSPEED_CPU_ISA");
  if (wanted != nullptr && *wanted == '\0') wanted = nullptr;
  std::string supported;
  for (const auto& [kernel, is_supported] : kBestFirst) {
    if (!is_supported()) continue;
    if (wanted == nullptr || std::string(wanted) == kernel->name) return *kernel;
    supported += std::string(" ") + kernel->name;
  }
  throw std::invalid_argument("ASCENDSPEED_CPU_ISA=" + std::string(wanted) + " is not one of:" + supported);
}

}  // namespace

const Microkernel& active_microkernel() {
  static const Microkernel& kernel = choose();
  return kernel;
}

}  // namespace ascendspeed::cpu
