// The table of primitives in csrc/cpu/microkernel.h, each against double, on tiles of exactly the promised size.
#include "cpu/microkernel.h"

#include <stdexcept>

#include "attention_reference.h"
#include "checks.h"

namespace ascendspeed::test {
namespace {

constexpr double kU = 0x1p-24, kFlush = 0x1p-125;

// A tile of random floats; the last row ends after `columns`.
struct Floats {
  ExactMemory memory;
  int64_t count;

  explicit Floats(int64_t n) : memory(n * 4), count(n) {}
  Floats(Random& random, int64_t n, double magnitude) : Floats(n) {
    for (int64_t i = 0; i < n; ++i) data()[i] = static_cast<float>(magnitude * random.normal());
  }
  float* data() const { return memory.as<float>(); }
  float operator[](int64_t i) const { return data()[i]; }
  std::vector<double> copy() const { return {data(), data() + count}; }
};

void check_matmul(const cpu::Microkernel& kernel, Random& random) {
  const int rows = static_cast<int>(random.one_in(4) ? 1 : random.whole(1, 75)),
            depth = static_cast<int>(random.whole(1, 40));
  const int columns = cpu::padded(random.whole(1, 150));
  const int ldb = columns + cpu::kTileAlign * static_cast<int>(random.whole(0, 2));
  const int ldc = columns + cpu::kTileAlign * static_cast<int>(random.whole(0, 2));
  const bool transposed = random.one_in(2), accumulate = random.one_in(2);
  const ptrdiff_t a_row = transposed ? 1 : depth + 3, a_depth = transposed ? rows + 2 : 1;
  const Floats a(random, (rows - 1) * a_row + (depth - 1) * a_depth + 1, 1.0);
  const Floats b(random, int64_t{depth - 1} * ldb + columns, 1.0);
  const Floats c(random, int64_t{rows - 1} * ldc + columns, 1.0);
  const std::vector<double> before = c.copy();
  kernel.float32.matmul(rows, columns, depth, a.data(), a_row, a_depth, b.data(), ldb, c.data(), ldc, accumulate);
  for (int64_t i = 0; i < c.count; ++i) {
    const int64_t r = i / ldc, n = i % ldc;
    if (n >= columns) {
      expect("matmul: column beyond the tile", i, c[i], before[i], 0.0);
      continue;
    }
    double sum = accumulate ? before[i] : 0.0, magnitude = std::abs(sum);
    for (int64_t p = 0; p < depth; ++p) {
      const double product = double{a[r * a_row + p * a_depth]} * double{b[p * ldb + n]};
      sum += product;
      magnitude += std::abs(product);
    }
    expect("matmul", i, c[i], sum, (depth + 1) * kU * magnitude);
  }
}

struct Visibility {
  ExactMemory bytes;
  cpu::RowVisibility row;

  Visibility(Random& random, int columns) : bytes(columns), row{} {
    const int most = columns - static_cast<int>(random.whole(0, 15));
    row.begin = random.one_in(2) ? 0 : static_cast<int>(random.whole(0, most));
    row.end = random.one_in(2) ? most : static_cast<int>(random.whole(row.begin, most));
    const int64_t density = random.pick<int64_t>({1, 2, 6});
    for (int c = 0; c < columns; ++c) bytes.data()[c] = random.one_in(density) ? 1 : 0;
    if (random.one_in(2)) row.mask = bytes.data();
    if (random.one_in(4)) row = {0, columns, nullptr};
  }
  bool at(int c) const { return c >= row.begin && c < row.end && (row.mask == nullptr || row.mask[c] == 0); }
};

void check_softmax(const cpu::Microkernel& kernel, Random& random) {
  const int rows = static_cast<int>(random.whole(1, 4)), columns = cpu::padded(random.whole(1, 96));
  const int ld = columns + cpu::kTileAlign * static_cast<int>(random.whole(0, 1));
  std::vector<Visibility> visibilities;
  std::vector<cpu::RowVisibility> visible;
  std::vector<cpu::RowStats> stats;
  const bool all = random.one_in(4);
  for (int r = 0; r < rows; ++r) {
    visibilities.emplace_back(random, columns);
    if (all) visibilities[r].row = {0, columns, nullptr};
    visible.push_back(visibilities[r].row);
    stats.push_back(random.one_in(2) ? cpu::RowStats{-__builtin_inff(), 0.0f} : cpu::RowStats{1.5f, 3.0f});
  }
  const std::vector<cpu::RowStats> start = stats;
  const Floats scores(random, int64_t{rows - 1} * ld + columns, 20.0), factors(rows);
  const std::vector<double> before = scores.copy();
  const double scale = static_cast<float>(random.pick({1.0, 0.125, -0.3}));
  kernel.softmax_rows(rows, columns, static_cast<float>(scale), all ? nullptr : visible.data(), scores.data(), ld,
                      stats.data(), factors.data());
  for (int64_t i = 0; i < scores.count; ++i) {
    if (i % ld >= columns) expect("softmax_rows: column beyond the tile", i, scores[i], before[i], 0.0);
  }
  for (int r = 0; r < rows; ++r) {
    const double* row = before.data() + r * ld;
    double max = start[r].max, sum = 0.0;
    for (int c = 0; c < columns; ++c) {
      if (visibilities[r].at(c)) max = std::max(max, scale * row[c]);
    }
    // A score is rounded, and so are the maximum and the difference; exp is within 2 ulp.
    const double relative = std::expm1(2 * kU * (std::abs(scale) * 70.0 + std::abs(max)) + 6 * kU);
    for (int c = 0; c < columns; ++c) {
      const bool seen = visibilities[r].at(c);
      const double e = seen ? std::exp(scale * row[c] - max) : 0.0;
      expect("softmax_rows", r * ld + c, scores[r * ld + c], e, seen ? e * relative + kFlush : 0.0);
      sum += e;
    }
    const double factor = start[r].sum == 0.0f ? 1.0 : std::exp(start[r].max - max);
    expect("softmax_rows: factor", r, factors[r], factor, factor * relative + kFlush);
    expect("softmax_rows: max", r, stats[r].max, max, std::abs(max) * kU);
    const double total = start[r].sum * factor + sum;
    expect("softmax_rows: sum", r, stats[r].sum, total, total * (relative + (columns + 2) * kU) + columns * kFlush);
  }
}

void check_softmax_grad(const cpu::Microkernel& kernel, Random& random) {
  const int columns = cpu::padded(random.whole(1, 96));
  const Visibility visible(random, columns);
  const Floats scores(random, columns, 5.0), dp(random, columns, 2.0);
  const std::vector<double> s = scores.copy(), d = dp.copy();
  const float scale = 0.5f, grad_scale = -0.75f, max = 9.0f, inverse_sum = 0.25f, delta = 0.3f;
  kernel.softmax_grad_row(columns, scale, grad_scale, visible.row, max, inverse_sum, delta, scores.data(), dp.data());
  for (int c = 0; c < columns; ++c) {
    const double p = visible.at(c) ? std::exp(double{scale} * s[c] - max) * inverse_sum : 0.0;
    const double ds = p * grad_scale * (d[c] - delta), relative = std::expm1(2 * kU * (10.0 + max) + 8 * kU);
    expect("softmax_grad_row: P", c, scores[c], p, p * relative);
    expect("softmax_grad_row: dS", c, dp[c], ds,
           std::abs(ds) * (relative + 3 * kU) + p * kU * (std::abs(d[c]) + std::abs(delta)));
  }
}

void check_dots(const cpu::Microkernel& kernel, Random& random) {
  const int columns = cpu::padded(random.whole(1, 112)), count = static_cast<int>(random.whole(1, 9));
  const int ldb = columns + static_cast<int>(random.whole(0, 3));
  const Floats a(random, columns, 1.0), b(random, (count - 1) * ldb + columns, 1.0), c(random, count, 1.0);
  kernel.dots(count, columns, a.data(), b.data(), ldb, c.data());
  for (int i = 0; i < count; ++i) {
    double sum = 0.0, magnitude = 0.0;
    for (int k = 0; k < columns; ++k) {
      const double product = double{a[k]} * double{b[i * ldb + k]};
      sum += product;
      magnitude += std::abs(product);
    }
    expect("dots", i, c[i], sum, (columns + 1) * kU * magnitude);
  }
}

void check_rows(const cpu::Microkernel& kernel, Random& random) {
  const int columns = cpu::padded(random.whole(1, 112));
  const float factor = static_cast<float>(random.normal());
  const Floats row(random, columns, 1.0), shift(random, columns, 1.0);
  std::vector<double> before = row.copy();
  kernel.add_row(columns, factor, shift.data(), row.data());
  for (int c = 0; c < columns; ++c) {
    const double product = factor * before[c], sum = product + shift[c];
    expect("add_row", c, row[c], sum, kU * (std::abs(product) + std::abs(sum)));
  }
  before = row.copy();
  kernel.scale_row(columns, factor, row.data());
  for (int c = 0; c < columns; ++c) expect("scale_row", c, row[c], static_cast<float>(factor * before[c]), 0.0);
  before = row.copy();
  ExactMemory keep(columns);
  for (int c = 0; c < columns; ++c) keep.data()[c] = random.one_in(2) ? 1 : 0;
  kernel.drop_row(columns, factor, keep.data(), row.data());
  for (int c = 0; c < columns; ++c) {
    expect("drop_row", c, row[c], keep.data()[c] ? static_cast<float>(factor * before[c]) : 0.0, 0.0);
  }

  const bool root = random.one_in(2);
  const int64_t first = random.pick<int64_t>({random.whole(-200, 200), 1 << 20, -(int64_t{1} << 40)});
  kernel.distance_row(columns, factor, first, root, row.data());
  for (int c = 0; c < columns; ++c) {
    const double distance = std::abs(static_cast<double>(first + c));
    const double want = factor * (root ? std::sqrt(distance) : distance);
    expect("distance_row", c, row[c], want, 3 * kU * std::abs(want));
  }
}

void check_generator(const cpu::Microkernel& kernel, Random& random) {
  const int columns = static_cast<int>(random.whole(1, 100));
  const uint64_t seed = random.bits(), offset = random.bits();
  const uint64_t first = random.one_in(2) ? random.bits() >> 2 : (uint64_t{1} << 34) - 50;  // a counter's low word ends
  const double keep_prob = random.pick({0.5, 0.9, 1.0, 1e-3});
  const ExactMemory keep(columns);
  kernel.generate_keep(seed, offset, most_of_keep_prob(keep_prob), first, columns, keep.data());
  for (int c = 0; c < columns; ++c) {
    const bool kept = generator_keeps(seed, offset, keep_prob, first + static_cast<uint64_t>(c));
    expect("generate_keep", c, keep.data()[c], kept, 0.0);
  }
}

void check_loads(const cpu::Microkernel& kernel, Random& random) {
  const DType dtype = random.pick({DType::kFloat32, DType::kFloat16, DType::kBFloat16});
  const int rows = static_cast<int>(random.whole(1, 40)), columns = static_cast<int>(random.whole(1, 70));
  const Tensor tensor = random_tensor(random, {1, 1, rows, columns}, dtype, 3.0);
  Image image(dtype, tensor.sizes, random_strides(random, tensor.sizes, false));
  image.write(tensor);
  const int ld = cpu::padded(columns) + cpu::kTileAlign * static_cast<int>(random.whole(0, 1));
  const Floats tile(int64_t{rows} * ld);
  kernel.float32.load_rows(dtype, image.memory.data(), image.strides[2], image.strides[3], rows, columns, tile.data(),
                           ld);
  for (int64_t i = 0; i < tile.count; ++i) {
    expect("load_rows", i, tile[i], i % ld < columns ? tensor.at(0, 0, i / ld)[i % ld] : 0.0, 0.0);
  }
  const int transposed_ld = cpu::padded(rows) + cpu::kTileAlign * static_cast<int>(random.whole(0, 1));
  const Floats transposed(int64_t{columns} * transposed_ld);
  kernel.float32.load_transposed(dtype, image.memory.data(), image.strides[2], image.strides[3], rows, columns,
                                 transposed.data(), transposed_ld);
  for (int64_t i = 0; i < transposed.count; ++i) {
    const int64_t r = i % transposed_ld, c = i / transposed_ld;
    if (r >= cpu::padded(rows)) continue;  // not for anybody to read
    expect("load_transposed", i, transposed[i], r < rows ? tensor.at(0, 0, r)[c] : 0.0, 0.0);
  }

  const Floats factors(random, rows, 1.0);
  const bool scaled = random.one_in(2);
  const Image stored(dtype, tensor.sizes, image.strides);
  kernel.store_rows(dtype, tile.data(), ld, rows, columns, scaled ? factors.data() : nullptr, stored.memory.data(),
                    stored.strides[2], stored.strides[3]);
  const Tensor result = stored.read();
  for (int64_t i = 0; i < result.count(); ++i) {
    const double factor = scaled ? factors[i / columns] : 1.0;
    const double want = format_of(dtype).round(static_cast<float>(tensor.values[i] * factor));
    expect("store_rows", i, result.values[i], want, 0.0);
  }
  if (!stored.gaps_intact()) throw std::runtime_error("store_rows: memory around the rows was written");
}

}  // namespace

void check_microkernel(uint64_t number) {
  const cpu::Microkernel& kernel = cpu::active_microkernel();
  Random random(number);
  for (auto* check :
       {check_matmul, check_softmax, check_softmax_grad, check_dots, check_rows, check_generator, check_loads}) {
    check(kernel, random);
  }
}

void check_conversions(bool float16_ties) {
  const cpu::Microkernel& kernel = cpu::active_microkernel();
  constexpr int kCodes = 1 << 16;
  const ExactMemory codes(kCodes * 2);
  for (int i = 0; i < kCodes; ++i) codes.as<uint16_t>()[i] = static_cast<uint16_t>(i);
  for (DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    const FloatFormat& format = format_of(dtype);
    const Floats numbers(kCodes);
    kernel.float32.load_rows(dtype, codes.data(), 0, 1, 1, kCodes, numbers.data(), kCodes);
    for (int i = 0; i < kCodes; ++i) expect("load_rows: code", i, numbers[i], format.decode(i), 0.0);

    // Between every number and the next: at the tie, one float below and one above. One at a time too: the tail of a
    // row is not converted as a vector.
    const Floats ties(int64_t{kCodes} * 3);
    for (int i = 0; i < kCodes; ++i) {
      const bool last = !std::isfinite(format.decode(i + 1 == kCodes ? i : i + 1));
      const auto tie = static_cast<float>(last ? format.decode(i) : (format.decode(i) + format.decode(i + 1)) / 2);
      ties.data()[3 * i] = tie;
      ties.data()[3 * i + 1] = std::nextafterf(tie, 0.0f);
      ties.data()[3 * i + 2] = std::nextafterf(tie, std::copysign(__builtin_inff(), tie));
    }
    const int count = static_cast<int>(ties.count);
    for (int step : {count, 1}) {
      const ExactMemory stored(int64_t{count} * 2);
      kernel.store_rows(dtype, ties.data(), step, count / step, step, nullptr, stored.data(), step, 1);
      for (int i = 0; i < count; ++i) {
        if (dtype == DType::kFloat16 && !float16_ties && i % 3 == 0) continue;
        expect("store_rows: tie", i, format.decode(stored.as<uint16_t>()[i]), format.round(ties[i]), 0.0);
      }
    }
  }
}

}  // namespace ascendspeed::test
