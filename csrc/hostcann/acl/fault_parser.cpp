// The grammar of ASCENDSPEED_HOSTCANN_FAULT, as docs/hostcann.md states it.
#include <limits>
#include <map>
#include <stdexcept>
#include <string_view>

#include "hostcann/acl/fault.h"
#include "hostcann/acl/number.h"

namespace hostcann {
namespace {

// The rule that a fault breaks.
struct Malformed : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

std::string quoted(std::string_view text) { return "\"" + std::string(text) + "\""; }

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

// key=value, ... of one fault; each is to be taken by what knows it.
class Fields {
 public:
  explicit Fields(std::string_view text) {
    for (const std::string_view field : split(text, ',')) {
      const std::size_t equals = field.find('=');
      const std::string_view key = field.substr(0, equals);
      if ((equals == std::string_view::npos) != (key == "die")) throw Malformed(quoted(field) + " is not key=value");
      const std::string_view value = key == "die" ? key : field.substr(equals + 1);
      if (!values_.emplace(key, value).second) throw Malformed(std::string(key) + " is there twice");
    }
  }

  std::optional<std::string_view> take(std::string_view key) {
    const auto found = values_.find(key);
    if (found == values_.end()) return std::nullopt;
    const std::string_view value = found->second;
    values_.erase(found);
    return value;
  }

  void all_taken(const std::string& kind) const {
    if (!values_.empty()) throw Malformed(kind + " has no " + std::string(values_.begin()->first));
  }

 private:
  std::map<std::string_view, std::string_view> values_;
};

// 3, 3-5, or 3- for all from the third on.
void read_calls(std::optional<std::string_view> text, Fault& fault) {
  if (!text) throw Malformed("call=N is missing");
  const std::size_t dash = text->find('-');
  const auto first = parse_number<uint64_t>(text->substr(0, dash));
  auto last = first;
  if (dash != std::string_view::npos) {
    const std::string_view end = text->substr(dash + 1);
    last = end.empty() ? std::numeric_limits<uint64_t>::max() : parse_number<uint64_t>(end);
  }
  if (!first || !last || *first < 1 || *last < *first) {
    throw Malformed("call=" + std::string(*text) + " must be a number from 1 on, a range such as 3-5, or 3-");
  }
  fault.first = *first;
  fault.last = *last;
}

FaultPoint read_phase(std::optional<std::string_view> text) {
  if (text == "first") return FaultPoint::kFirstPhase;
  if (text == "second") return FaultPoint::kSecondPhase;
  if (text == "stream") return FaultPoint::kOnStream;
  throw Malformed("aclnn needs phase=first, phase=second or phase=stream");
}

Strike read_collective(Fields& fields) {
  constexpr double kDay = 86400;
  const auto delay = fields.take("delay");
  Strike suffers;
  suffers.die = fields.take("die").has_value();
  if (delay.has_value() == suffers.die) throw Malformed("hccl needs one of delay=SECONDS and die");
  if (suffers.die) return suffers;
  const double seconds = parse_number<double>(*delay).value_or(0);
  if (!(seconds > 0 && seconds <= kDay)) {
    throw Malformed("delay=" + std::string(*delay) + " must be a number of seconds above 0, at most 86400");
  }
  suffers.delay = std::chrono::duration<double>(seconds);
  return suffers;
}

// Functions that are not there are not known here; a name of another library is a mistake.
void read_function(std::optional<std::string_view> name, std::string_view prefix, Fault& fault) {
  if (!name) return;
  if (!name->starts_with(prefix) || name->ends_with("GetWorkspaceSize")) {
    throw Malformed("function=" + std::string(*name) + " must be the name of a function " + std::string(prefix) +
                    "..., without GetWorkspaceSize");
  }
  fault.function = *name;
}

void read_device(std::optional<std::string_view> text, uint32_t devices, Fault& fault) {
  if (!text) return;
  const auto device = parse_number<uint32_t>(*text);
  if (!device || *device >= devices) {
    throw Malformed("device=" + std::string(*text) + " must be below the " + std::to_string(devices) + " devices");
  }
  fault.device = static_cast<int32_t>(*device);
}

Fault parse_fault(std::string_view text, uint32_t devices) {
  const std::size_t colon = text.find(':');
  const std::string kind(text.substr(0, colon));
  if (colon == std::string_view::npos || (kind != "aclnn" && kind != "malloc" && kind != "hccl")) {
    throw Malformed("must begin with aclnn:, malloc: or hccl:");
  }
  Fields fields(text.substr(colon + 1));
  Fault fault{};
  fault.text = text;
  read_calls(fields.take("call"), fault);
  read_device(fields.take("device"), devices, fault);
  const auto function = fields.take("function");
  if (kind == "aclnn") {
    fault.point = read_phase(fields.take("phase"));
    read_function(function, "aclnn", fault);
  } else if (kind == "malloc") {
    fault.point = FaultPoint::kMemory;
    read_function(function, "aclrtMalloc", fault);
  } else {
    fault.point = FaultPoint::kCollective;
    fault.suffers = read_collective(fields);
    read_function(function, "Hccl", fault);
  }
  fields.all_taken(kind);
  return fault;
}

}  // namespace

std::vector<Fault> parse_faults(const std::string& value, uint32_t devices, std::string* problem) {
  std::vector<Fault> faults;
  for (const std::string_view text : split(value, ';')) {
    try {
      faults.push_back(parse_fault(text, devices));
    } catch (const Malformed& rule) {
      *problem = quoted(text) + ": " + rule.what();
      return {};
    }
  }
  return faults;
}

}  // namespace hostcann
