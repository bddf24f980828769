#include "hostcann/hccl/process.h"

#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

namespace hostcann::hccl {
namespace {

struct Stat {
  char state;
  uint64_t start_time;
};

// State X, dead, for a process that is not there.
Stat read_stat(int32_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return {'X', 0};
  // The command's name in parentheses may hold anything; the state is field 3 and the start time field 22 (proc(5)).
  std::istringstream fields(line.substr(line.rfind(')') + 1));
  Stat stat{'X', 0};
  std::string skipped;
  fields >> stat.state;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> stat.start_time;
  return stat;
}

}  // namespace

ProcessIdentity this_process() { return {getpid(), read_stat(getpid()).start_time}; }

bool is_alive(const ProcessIdentity& process) {
  const Stat stat = read_stat(process.pid);
  return stat.state != 'X' && stat.state != 'Z' && stat.start_time == process.start_time;
}

}  // namespace hostcann::hccl
