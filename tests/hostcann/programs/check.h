// A test program: named cases, and checks that say what was compared. main runs
// the case that argv[1] names.
#pragma once

#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <string>

#include "acl/acl.h"

namespace check {

inline std::map<std::string, std::function<void()>>& cases() {
  static std::map<std::string, std::function<void()>> all;
  return all;
}

template <typename Got, typename Want>
void equal(const Got& got, const Want& want, const char* text, int line) {
  if (got == want) return;
  const char* said = aclGetRecentErrMsg();
  std::cerr << "line " << line << ": " << text << " is " << got << ", not " << want
            << "; recent error: " << (said == nullptr ? "none" : said) << std::endl;
  std::_Exit(1);
}

// The recent error message holds `part`; asking takes it away.
inline void error_says(const char* part, int line) {
  const char* said = aclGetRecentErrMsg();
  if (said != nullptr && std::strstr(said, part) != nullptr) return;
  std::cerr << "line " << line << ": the recent error is not about '" << part << "' but "
            << (said == nullptr ? "none" : said) << std::endl;
  std::_Exit(1);
}

}  // namespace check

#define EQUAL(got, want) check::equal(got, want, #got, __LINE__)
#define OK(call) check::equal(call, ACL_SUCCESS, #call, __LINE__)
#define ERROR_SAYS(part) check::error_says(part, __LINE__)
#define CASE(name)                                                       \
  static void name();                                                    \
  static const bool name##_added = (check::cases()[#name] = name, true); \
  static void name()

int main(int argc, char** argv) {
  const auto found = argc > 1 ? check::cases().find(argv[1]) : check::cases().end();
  if (found == check::cases().end()) return 2;
  found->second();
  std::cout << "done" << std::endl;
}
