#include "hostcann/aclnn/memory.h"

#include <cstring>

namespace hostcann {
namespace {

// visit(offset of the element in elements of a, likewise of b), in row-major order of the sizes.
template <typename Visit>
void for_each_pair(const std::vector<int64_t>& sizes, const std::vector<int64_t>& a, const std::vector<int64_t>& b,
                   size_t dim, int64_t at_a, int64_t at_b, Visit&& visit) {
  if (dim == sizes.size()) return visit(at_a, at_b);
  for (int64_t i = 0; i < sizes[dim]; ++i) {
    for_each_pair(sizes, a, b, dim + 1, at_a + i * a[dim], at_b + i * b[dim], visit);
  }
}

void copy(const Strided& to, const Strided& from) {
  for_each_pair(to.sizes, to.strides, from.strides, 0, 0, 0, [&](int64_t at_to, int64_t at_from) {
    std::memcpy(to.data + at_to * to.bytes, from.data + at_from * from.bytes, static_cast<size_t>(to.bytes));
  });
}

}  // namespace

std::vector<int64_t> row_major(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t dim = sizes.size(); dim > 1; --dim) strides[dim - 2] = strides[dim - 1] * sizes[dim - 1];
  return strides;
}

Strided::Strided(const aclTensor* tensor) {
  if (tensor == nullptr) return;
  bytes = static_cast<int64_t>(aclDataTypeSize(tensor->dtype));
  data = static_cast<char*>(tensor->data) + tensor->offset * bytes;
  sizes = tensor->sizes;
  strides = tensor->strides;
}

bool Strided::contiguous() const {
  const std::vector<int64_t> expected = row_major(sizes);
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    if (sizes[dim] > 1 && strides[dim] != expected[dim]) return false;
  }
  return true;
}

void Strided::zero(int64_t first) const {
  if (first >= sizes.front()) return;
  std::vector<int64_t> rest = sizes;
  rest.front() -= first;
  char* from = data + first * strides.front() * bytes;
  for_each_pair(rest, strides, strides, 0, 0, 0,
                [&](int64_t at, int64_t) { std::memset(from + at * bytes, 0, static_cast<size_t>(bytes)); });
}

Contiguous::Contiguous(const aclTensor* tensor, Workspace* workspace) : original_(tensor) {
  copied_ = original_.count() > 0 && !original_.contiguous();
  if (copied_) offset_ = workspace->take(original_.count() * original_.bytes);
}

Strided Contiguous::copy(char* workspace) const {
  Strided at = original_;
  at.data = data(workspace);
  at.strides = row_major(at.sizes);
  return at;
}

void Contiguous::copy_in(char* workspace) const {
  if (copied_) hostcann::copy(copy(workspace), original_);
}

void Contiguous::copy_out(char* workspace) const {
  if (copied_) hostcann::copy(original_, copy(workspace));
}

MemoryRange range_of(const char* name, const aclTensor* tensor) {
  const Strided strided(tensor);
  if (strided.count() == 0) return {name, nullptr, 0};
  int64_t last = 0;
  for (size_t dim = 0; dim < strided.sizes.size(); ++dim) last += (strided.sizes[dim] - 1) * strided.strides[dim];
  return {name, strided.data, static_cast<uint64_t>((last + 1) * strided.bytes)};
}

}  // namespace hostcann
