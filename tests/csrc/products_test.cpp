// Operands and products of bfloat16 (Products in csrc/cpu/microkernel.h): units number by number, sums against double.
#include <cmath>
#include <stdexcept>
#include <vector>

#include "checks.h"
#include "cpu/microkernel.h"
#include "tensor.h"

namespace ascendspeed::test {
namespace {

constexpr double kU = 0x1p-24;
constexpr DType kType = DType::kBFloat16;

enum class Way { kLoadRows, kPackRows, kLoadTransposed, kLoadStacked, kPackStacked };
bool along_rows(Way way) { return way == Way::kLoadRows || way == Way::kPackRows; }
bool packed(Way way) { return way == Way::kPackRows || way == Way::kPackStacked; }

// `count` vectors of `depth` numbers: the rows of a first factor, or the columns of a second one.
struct Operand {
  Tensor numbers;  // [1, 1, count, depth]
  int depth_units;
  int lines, ld;       // in memory; a line is a vector where units lie along rows, else one unit of every vector
  int64_t row, depth;  // steps from a vector to the next, and from a unit to the next
  ExactMemory memory;
};

Operand allocate(const cpu::Products& q, Random& random, Way way, int count, int depth) {
  const int units = (depth + q.along - 1) / q.along;
  const int width = way == Way::kPackRows ? cpu::padded(depth) / q.along : along_rows(way) ? units : cpu::padded(count);
  const int lines = along_rows(way) ? count : units;
  const int ld = width + (way == Way::kLoadRows ? 1 : cpu::kTileAlign) * static_cast<int>(random.whole(0, 2));
  return {Tensor({1, 1, count, depth}),
          units,
          lines,
          ld,
          along_rows(way) ? ld : 1,
          along_rows(way) ? 1 : ld,
          ExactMemory(int64_t{lines} * ld * q.unit_bytes)};
}

// Numbers to memory of bfloat16 and on to units.
void load(const cpu::Products& q, Random& random, Way way, Operand& operand) {
  operand.numbers = random_tensor(random, operand.numbers.sizes, kType, 1.0);
  const auto& [batch, head, count, depth] = operand.numbers.sizes;
  Tensor source = operand.numbers;
  if (way == Way::kLoadStacked) {
    source = Tensor({1, 1, depth, count});
    for (int64_t v = 0; v < count; ++v) {
      for (int64_t k = 0; k < depth; ++k) source.at(0, 0, k)[v] = operand.numbers.at(0, 0, v)[k];
    }
  }
  Image image(kType, source.sizes, random_strides(random, source.sizes, false));
  image.write(source);
  const auto load_units = way == Way::kLoadRows         ? q.load_rows
                          : way == Way::kLoadTransposed ? q.load_transposed
                                                        : q.load_stacked;
  load_units(kType, image.memory.data(), image.strides[2], image.strides[3], static_cast<int>(source.sizes[2]),
             static_cast<int>(source.sizes[3]), operand.memory.data(), operand.ld);
}

// Numbers in a float32 tile to units, rounded.
void pack(const cpu::Products& q, Random& random, Way way, Operand& operand) {
  const auto& [batch, head, count, depth] = operand.numbers.sizes;
  const int rows = static_cast<int>(along_rows(way) ? count : depth);
  const int columns = cpu::padded(along_rows(way) ? depth : count);
  const ExactMemory tile(int64_t{rows} * columns * 4);
  std::memset(tile.data(), 0, static_cast<size_t>(tile.bytes()));
  for (int64_t v = 0; v < count; ++v) {
    for (int64_t k = 0; k < depth; ++k) {
      const auto number = static_cast<float>(random.normal());
      operand.numbers.at(0, 0, v)[k] = format_of(kType).round(number);
      tile.as<float>()[along_rows(way) ? v * columns + k : k * columns + v] = number;
    }
  }
  (along_rows(way) ? q.pack_rows : q.pack_stacked)(rows, columns, tile.as<float>(), columns, operand.memory.data(),
                                                   operand.ld);
}

void check_units(const cpu::Products& q, Way way, const Operand& operand) {
  const auto& [batch, head, count, depth] = operand.numbers.sizes;
  // What a pack or a transpose leaves of a line is not for anybody to read.
  const int64_t padded_units = along_rows(way) ? cpu::padded(depth) / q.along : cpu::padded(count);
  const int64_t width = packed(way) || way == Way::kLoadTransposed ? padded_units : operand.ld;
  for (int64_t line = 0; line < operand.lines; ++line) {
    for (int64_t place = 0; place < width; ++place) {
      const int64_t v = along_rows(way) ? line : place, unit = along_rows(way) ? place : line;
      for (int i = 0; i < q.along; ++i) {
        const int64_t at = (line * operand.ld + place) * q.along + i, k = unit * q.along + i;
        const double want = v < count && k < depth ? operand.numbers.at(0, 0, v)[k] : 0.0;
        expect("number of a unit", at, format_of(kType).decode(operand.memory.as<uint16_t>()[at]), want, 0.0);
      }
    }
  }
  if (!operand.memory.margins_intact()) throw std::runtime_error("memory around an operand was written");
}

Operand random_operand(const cpu::Products& q, Random& random, Way way, int count, int depth) {
  Operand operand = allocate(q, random, way, count, depth);
  (packed(way) ? pack : load)(q, random, way, operand);
  check_units(q, way, operand);
  return operand;
}

void check_product(const cpu::Products& q, Random& random, const Operand& a, const Operand& b) {
  const auto rows = static_cast<int>(a.numbers.sizes[2]), columns = static_cast<int>(b.numbers.sizes[2]);
  const int64_t depth = a.numbers.sizes[3];
  const bool accumulate = random.one_in(2);
  const int ldc = columns + cpu::kTileAlign * static_cast<int>(random.whole(0, 2));
  const ExactMemory c((int64_t{rows - 1} * ldc + columns) * 4);
  for (int64_t i = 0; i < c.bytes() / 4; ++i) c.as<float>()[i] = static_cast<float>(random.normal());
  const std::vector<float> before(c.as<float>(), c.as<float>() + c.bytes() / 4);
  q.matmul(rows, columns, a.depth_units, a.memory.data(), a.row, a.depth, b.memory.data(), b.ld, c.as<float>(), ldc,
           accumulate);
  for (int64_t i = 0; i < c.bytes() / 4; ++i) {
    const int64_t r = i / ldc, n = i % ldc;
    const float start = before[static_cast<size_t>(i)];
    if (n >= columns) {
      expect("matmul: column beyond the tile", i, c.as<float>()[i], start, 0.0);
      continue;
    }
    double sum = accumulate ? start : 0.0, magnitude = std::abs(sum);
    for (int64_t k = 0; k < depth; ++k) {
      const double product = a.numbers.at(0, 0, r)[k] * b.numbers.at(0, 0, n)[k];  // exact, in float32 too
      sum += product;
      magnitude += std::abs(product);
    }
    // bfdot and bfmmla round to odd, which is off by up to two rounding units.
    expect("matmul", i, c.as<float>()[i], sum, (static_cast<double>(depth) + 1) * 2 * kU * magnitude);
  }
  if (!c.margins_intact()) throw std::runtime_error("memory around c was written");
}

}  // namespace

void check_bfloat16_products(uint64_t number) {
  const cpu::Products* q = cpu::active_microkernel().bfloat16;
  if (q == nullptr) return;
  Random random(number);
  const int rows = static_cast<int>(random.one_in(4) ? 1 : random.whole(1, 75)),
            columns = cpu::padded(random.whole(1, 150));
  const int depth = static_cast<int>(random.one_in(4) ? random.whole(1, 900) : random.whole(1, 150));
  const auto first = random.pick({Way::kLoadRows, Way::kPackRows, Way::kLoadStacked, Way::kPackStacked});
  const auto second = random.pick({Way::kLoadTransposed, Way::kLoadStacked, Way::kPackStacked});
  const Operand a = random_operand(*q, random, first, rows, depth);
  check_product(*q, random, a, random_operand(*q, random, second, columns, depth));
}

}  // namespace ascendspeed::test
