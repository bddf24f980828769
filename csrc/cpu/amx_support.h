// Whether this process may use AMX on bfloat16. tests/csrc/emulated has another answer.
#pragma once

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace ascendspeed::cpu {

// microkernel_amx.cpp takes AVX-512 with BF16 too; GCC 12's __builtin_cpu_supports knows no AMX. Linux lets a process
// use tiles that asked for it, as they are 8 KiB more to save for each thread; asking again changes nothing.
inline bool has_amx_bf16(bool has_avx512_bf16) {
  if (!has_avx512_bf16) return false;
  constexpr unsigned kOsXsave = 1u << 27, kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;  // leaf 1 ecx, leaf 7 edx
  constexpr unsigned kTileState = 1u << 17 | 1u << 18;                               // of XCR0: shapes and tiles
  constexpr long kRequestPermission = 0x1023, kTileData = 18;                        // of arch_prctl(2)
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & kOsXsave) == 0) return false;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
  asm("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return (eax & kTileState) == kTileState && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace ascendspeed::cpu
