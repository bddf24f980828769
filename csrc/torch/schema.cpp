// Schema text and argument unpacking, side by side so that their order can be compared by eye.
#include "torch/schema.h"

#include "torch/tensor_info.h"

namespace ascendspeed {
namespace {

// gen_mask_parallel and sync choose the stream a device makes its dropout mask on; the CPU has none and makes no mask.
constexpr const char* kAttributes =
    "int head_num, str input_layout, "
    "Tensor? pse=None, Tensor? drop_mask=None, Tensor? padding_mask=None, Tensor? atten_mask=None, "
    "Tensor? sink=None, Tensor? query_rope=None, Tensor? key_rope=None, int[]? prefix=None, int[]? "
    "actual_seq_qlen=None, int[]? actual_seq_kvlen=None, "
    "int[]? q_start_idx=None, int[]? kv_start_idx=None, float scale=1.0, float keep_prob=1.0, "
    "int pre_tockens=2147483647, int next_tockens=2147483647, int inner_precise=0, int sparse_mode=0, "
    "int pse_type=1, str softmax_layout='', int seed=0, int offset=0, bool gen_mask_parallel=True, "
    "bool sync=False";

// Reads a call's arguments in schema order.
class Reader {
 public:
  explicit Reader(torch::jit::Stack* stack) : stack_(*stack) {}

  // Undefined where the caller passed None, which the rules refuse by name.
  at::Tensor tensor() { return optional_tensor().value_or(at::Tensor()); }
  std::optional<at::Tensor> optional_tensor() { return stack_[next_++].toOptional<at::Tensor>(); }
  OptionalInts ints() {
    const c10::IValue& value = stack_[next_++];
    if (value.isNone()) return std::nullopt;
    return value.toIntVector();
  }
  int64_t integer() { return stack_[next_++].toInt(); }
  bool boolean() { return stack_[next_++].toBool(); }
  double real() { return stack_[next_++].toDouble(); }
  std::string string() { return std::string(stack_[next_++].toStringView()); }
  void finish() { stack_.clear(); }

 private:
  torch::jit::Stack& stack_;
  size_t next_ = 0;
};

AttributeArguments read_attributes(Reader& read) {
  AttributeArguments result;
  Attributes& a = result.attributes;
  a.head_num = read.integer();
  a.input_layout = read.string();
  result.pse = read.optional_tensor();
  a.pse = describe(result.pse);
  result.drop_mask = read.optional_tensor();
  a.drop_mask = describe(result.drop_mask);
  a.padding_mask = describe(read.optional_tensor());
  result.atten_mask = read.optional_tensor();
  a.atten_mask = describe(result.atten_mask);
  result.sink = read.optional_tensor();
  a.sink = describe(result.sink);
  result.query_rope = read.optional_tensor();
  a.query_rope = describe(result.query_rope);
  result.key_rope = read.optional_tensor();
  a.key_rope = describe(result.key_rope);
  a.prefix = read.ints();
  a.actual_seq_qlen = read.ints();
  a.actual_seq_kvlen = read.ints();
  a.q_start_idx = read.ints();
  a.kv_start_idx = read.ints();
  a.scale = read.real();
  a.keep_prob = read.real();
  a.pre_tockens = read.integer();
  a.next_tockens = read.integer();
  a.inner_precise = read.integer();
  a.sparse_mode = read.integer();
  a.pse_type = read.integer();
  a.softmax_layout = read.string();
  result.seed = static_cast<uint64_t>(read.integer());
  result.offset = static_cast<uint64_t>(read.integer());
  read.boolean();  // gen_mask_parallel
  read.boolean();  // sync
  return result;
}

bool on_one_device(const torch::jit::Stack& stack) {
  std::optional<c10::Device> device;
  for (const c10::IValue& value : stack) {
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    if (device && *device != value.toTensor().device()) return false;
    device = value.toTensor().device();
  }
  return true;
}

OptionalTensor describe_given(const at::Tensor& tensor) { return describe(std::optional<at::Tensor>(tensor)); }

}  // namespace

std::string forward_schema() {
  return std::string("flash_attention_score(Tensor query, Tensor key, Tensor value, ") + kAttributes +
         ") -> (Tensor attention_out, Tensor softmax_max, Tensor softmax_sum)";
}

std::string backward_schema() {
  return std::string(
             "flash_attention_score_grad(Tensor query, Tensor key, Tensor value, Tensor dy, Tensor? softmax_max, "
             "Tensor? softmax_sum, Tensor? softmax_in, Tensor? attention_in, ") +
         kAttributes +
         ", bool needs_dpse=False) -> (Tensor dq, Tensor dk, Tensor dv, Tensor dpse, Tensor dsink, "
         "Tensor dq_rope, Tensor dk_rope)";
}

NamedDevices devices_of(const c10::FunctionSchema& schema, const torch::jit::Stack& stack) {
  NamedDevices devices;
  if (on_one_device(stack)) return devices;
  for (size_t i = 0; i < stack.size(); ++i) {
    if (!stack[i].isTensor() || !stack[i].toTensor().defined()) continue;
    devices.emplace_back(schema.arguments()[i].name(), stack[i].toTensor().device().str());
  }
  return devices;
}

ForwardArguments pop_forward(torch::jit::Stack* stack) {
  Reader read(stack);
  ForwardArguments arguments{read.tensor(), read.tensor(), read.tensor(), read_attributes(read)};
  read.finish();
  return arguments;
}

BackwardArguments pop_backward(torch::jit::Stack* stack) {
  Reader read(stack);
  BackwardArguments arguments{read.tensor(),          read.tensor(),          read.tensor(),
                              read.tensor(),          read.optional_tensor(), read.optional_tensor(),
                              read.optional_tensor(), read.optional_tensor(), read_attributes(read),
                              read.boolean()};
  read.finish();
  return arguments;
}

ForwardProblem ForwardArguments::problem() const {
  return {describe_given(query), describe_given(key), describe_given(value), rest.attributes};
}

BackwardProblem BackwardArguments::problem() const {
  return {describe_given(query), describe_given(key),    describe_given(value),
          describe_given(dy),    describe(softmax_max),  describe(softmax_sum),
          describe(softmax_in),  describe(attention_in), rest.attributes};
}

}  // namespace ascendspeed
