// op_runner: runs one numeric operation of a backend over the cases of a file (op_cases.h) and
// writes the raw results, for comparison with other implementations.
//
//   --mode=quantize     per case: codes, then scales (PackedNvfp4), to nearest
//   --mode=quantize_sr  the same with stochastic rounding: --seed, --tensor, --step
//   --mode=rht          Hadamard transform along rows, FP32
//   --mode=swizzle      the scales in cuBLASLt's layout
//   --mode=gemm         per pair of cases X, W: X W^T in FP32; X 1x16, W 16x16, to nearest
//   --mode=roundtrip    --recipe, --operand=activation|weight: dequantised FP32, to nearest.
//   Recipes
//                       other than nvfp4 take matrices of any size.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/nvfp4/swizzle.h"
#include "kernels/op_cases.h"
#include "kernels/op_engine.h"

namespace nibble::kernels {
namespace {

struct Options {
  std::string mode, backend = "cpu", in, out, recipe = "nvfp4", operand = "activation";
  std::string seed = "0", tensor = "0", step = "0";
  int threads = 0;
};

// Decimal, or hexadecimal after 0x.
absl::StatusOr<uint64_t> ParseNumber(absl::string_view flag, absl::string_view text,
                                     uint64_t largest) {
  uint64_t value = 0;
  const bool hex = absl::StartsWith(text, "0x") || absl::StartsWith(text, "0X");
  const bool ok = hex ? absl::SimpleHexAtoi(text, &value) : absl::SimpleAtoi(text, &value);
  if (!ok || value > largest) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " is '", text, "'; it takes 0 to ",
                                                   largest, ", decimal or hexadecimal with 0x"));
  }
  return value;
}

// The output file; removed unless everything was written.
class Output {
 public:
  explicit Output(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "wb")) {}
  ~Output() {
    if (file_ != nullptr) {
      std::fclose(file_);
      std::remove(path_.c_str());
    }
  }
  absl::Status Write(const void* data, size_t bytes) {
    if (file_ == nullptr || std::fwrite(data, 1, bytes, file_) != bytes) return Error();
    return absl::OkStatus();
  }
  template <class T>
  absl::Status Write(const std::vector<T>& values) {
    return Write(values.data(), values.size() * sizeof(T));
  }
  absl::Status Close() {
    if (file_ == nullptr) return Error();
    const int result = std::fclose(file_);
    file_ = nullptr;
    return result == 0 ? absl::OkStatus() : Error();
  }

 private:
  absl::Status Error() const {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path_));
  }
  const std::string path_;
  FILE* file_;
};

OperandRequest RequestOf(OpCase& c, int block_rows) {
  OperandRequest request;
  request.source = {c.x.data(), DType::kF32, c.rows, c.cols};
  request.format = {Format::kNvfp4, block_rows, 0, Rounding::kNearest};
  request.key.total_cols = c.cols;
  return request;
}

// The format that a recipe has for an operand to nearest; nothing for an unknown recipe.
std::optional<OperandFormat> FormatOf(absl::string_view recipe, bool weight) {
  OperandFormat format;
  if (recipe == "fp32") {
    format.format = Format::kF32;
  } else if (recipe == "bf16") {
    format.format = Format::kBF16;
  } else if (recipe == "fp8") {
    format.format = Format::kFp8;
  } else if (recipe == "fp8_blockwise") {
    format.format = Format::kFp8Block;
  } else if (recipe == "mxfp8") {
    format.format = Format::kMxfp8;
  } else if (recipe == "mxfp4") {
    format.format = Format::kMxfp4;
  } else if (recipe == "nvfp4") {
    format.format = Format::kNvfp4;
  } else {
    return std::nullopt;
  }
  const bool tiles = format.format == Format::kNvfp4 || format.format == Format::kFp8Block;
  if (weight && tiles) format.block_rows = BlockSizeOf(format.format);
  return format;
}

std::vector<uint8_t> Swizzled(const PackedNvfp4& packed) {
  const int64_t across = packed.cols / 16;
  std::vector<uint8_t> out(nvfp4::SwizzledBytes(packed.rows, across), 0);
  for (int64_t r = 0; r < packed.rows; ++r) {
    for (int64_t c = 0; c < across; ++c) {
      out[nvfp4::SwizzledOffset(r, c, across)] = packed.scales[r * across + c];
    }
  }
  return out;
}

class Runner {
 public:
  Runner(const Options& options, std::unique_ptr<OpEngine> engine, std::unique_ptr<Backend> backend)
      : options_(options), engine_(std::move(engine)), backend_(std::move(backend)) {}

  absl::Status ReadKey() {
    NIBBLE_ASSIGN_OR_RETURN(key_.seed, ParseNumber("--seed", options_.seed, UINT64_MAX));
    NIBBLE_ASSIGN_OR_RETURN(key_.tensor_id, ParseNumber("--tensor", options_.tensor, UINT32_MAX));
    NIBBLE_ASSIGN_OR_RETURN(key_.step, ParseNumber("--step", options_.step, UINT32_MAX));
    return absl::OkStatus();
  }

  absl::Status Run(OpCaseReader& cases, Output& out) {
    if (options_.mode == "gemm") return RunPairs(cases, out);
    for (int32_t i = 0; i < cases.count(); ++i) {
      NIBBLE_ASSIGN_OR_RETURN(OpCase c, cases.Next());
      NIBBLE_RETURN_IF_ERROR(RunCase(c, out));
    }
    return cases.ExpectEnd();
  }

 private:
  absl::Status RunCase(OpCase& c, Output& out) {
    OperandRequest request = RequestOf(c, c.tile);
    if (options_.mode == "rht") {
      request.format.hadamard_size = 16;
      return out.Write(engine_->Hadamard(request));
    }
    if (options_.mode == "roundtrip") {
      request.format = *FormatOf(options_.recipe, options_.operand == "weight");
      return out.Write(engine_->RoundTrip(request));
    }
    if (options_.mode == "quantize_sr") {
      request.format.rounding = Rounding::kStochastic;
      request.key = key_;
      request.key.total_cols = c.cols;
    }
    const PackedNvfp4 packed = engine_->Quantize(request);
    if (options_.mode == "swizzle") return out.Write(Swizzled(packed));
    NIBBLE_RETURN_IF_ERROR(out.Write(packed.codes));
    return out.Write(packed.scales);
  }

  absl::Status RunPairs(OpCaseReader& cases, Output& out) {
    if (cases.count() % 2 != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("gemm takes pairs of cases; the file has ", cases.count()));
    }
    for (int32_t i = 0; i < cases.count(); i += 2) {
      NIBBLE_ASSIGN_OR_RETURN(OpCase x, cases.Next());
      NIBBLE_ASSIGN_OR_RETURN(OpCase w, cases.Next());
      if (x.cols != w.cols) {
        return absl::InvalidArgumentError(absl::StrCat("cases ", i, " and ", i + 1, ": X has ",
                                                       x.cols, " columns and W ", w.cols));
      }
      NIBBLE_RETURN_IF_ERROR(Multiply(x, w, out));
    }
    return cases.ExpectEnd();
  }

  // In blocks of rows of the result, so that memory stays bounded by the operands'; on a GPU, whose
  // packed operands cannot be cut, at once.
  absl::Status Multiply(OpCase& x, OpCase& w, Output& out) {
    constexpr int64_t kBlockElements = int64_t{16} << 20;
    NIBBLE_ASSIGN_OR_RETURN(const Prepared a, Prepare(RequestOf(x, 1)));
    NIBBLE_ASSIGN_OR_RETURN(const Prepared b, Prepare(RequestOf(w, 16)));
    const int64_t block =
        backend_->name() == "cuda" ? x.rows : std::max<int64_t>(1, kBlockElements / w.rows);
    std::vector<float> y(std::min(block, x.rows) * w.rows);
    NIBBLE_ASSIGN_OR_RETURN(const auto product,
                            backend_->Allocate(static_cast<int64_t>(y.size() * sizeof(float))));
    for (int64_t row = 0; row < x.rows; row += block) {
      Operand part = a.operand;
      part.rows = std::min(block, x.rows - row);
      part.data = static_cast<const char*>(part.data) + row * x.cols * SizeOf(part.storage);
      const Matrix c = {product->data(), DType::kF32, part.rows, w.rows};
      backend_->Multiply(part, b.operand, c, false);
      backend_->CopyToHost(y.data(), c.data, c.bytes());
      NIBBLE_RETURN_IF_ERROR(backend_->Synchronize());
      NIBBLE_RETURN_IF_ERROR(out.Write(y.data(), part.rows * w.rows * sizeof(float)));
    }
    return absl::OkStatus();
  }

  struct Prepared {
    std::unique_ptr<DeviceBuffer> source;
    std::unique_ptr<DeviceBuffer> storage;
    Operand operand;
  };
  absl::StatusOr<Prepared> Prepare(OperandRequest request) {
    Prepared result;
    NIBBLE_ASSIGN_OR_RETURN(result.source, backend_->Allocate(request.source.bytes()));
    backend_->CopyToDevice(result.source->data(), request.source.data, request.source.bytes());
    request.source.data = result.source->data();
    NIBBLE_ASSIGN_OR_RETURN(result.storage, backend_->Allocate(backend_->OperandBytes(
                                                request.format, request.source.dtype,
                                                request.source.rows, request.source.cols)));
    result.operand = backend_->PrepareOperand(request, result.storage->data());
    return result;
  }

  const Options& options_;
  std::unique_ptr<OpEngine> engine_;
  std::unique_ptr<Backend> backend_;
  StochasticKey key_;
};

absl::Status Run(const Options& options) {
  const BackendOptions backend_options = {.threads = options.threads};
  NIBBLE_ASSIGN_OR_RETURN(auto engine, CreateOpEngine(options.backend, backend_options));
  NIBBLE_ASSIGN_OR_RETURN(auto backend, CreateBackend(options.backend, backend_options));
  Runner runner(options, std::move(engine), std::move(backend));
  NIBBLE_RETURN_IF_ERROR(runner.ReadKey());
  const bool any_size = options.mode == "roundtrip" && options.recipe != "nvfp4";
  NIBBLE_ASSIGN_OR_RETURN(auto cases, OpCaseReader::Open(options.in, any_size ? 1 : 16));
  Output out(options.out);
  NIBBLE_RETURN_IF_ERROR(runner.Run(*cases, out));
  return out.Close();
}

}  // namespace
}  // namespace nibble::kernels

int main(int argc, char** argv) {
  nibble::kernels::Options options;
  CLI::App app("Runs one numeric operation of a backend over the cases of a file.");
  app.add_option("--mode", options.mode, "operation")
      ->required()
      ->check(CLI::IsMember({"quantize", "quantize_sr", "rht", "swizzle", "gemm", "roundtrip"}));
  app.add_option("--backend", options.backend, "backend")
      ->check(CLI::IsMember({"reference", "cpu", "cuda"}));
  app.add_option("--in", options.in, "cases")->required();
  app.add_option("--out", options.out, "results")->required();
  app.add_option("--seed", options.seed, "quantize_sr: 64 bits, decimal or 0x");
  app.add_option("--tensor", options.tensor, "quantize_sr: tensor id");
  app.add_option("--step", options.step, "quantize_sr: training step, from 0");
  app.add_option("--recipe", options.recipe, "roundtrip: recipe")
      ->check(CLI::IsMember({"fp32", "bf16", "fp8", "fp8_blockwise", "mxfp8", "mxfp4", "nvfp4"}));
  app.add_option("--operand", options.operand, "roundtrip: operand")
      ->check(CLI::IsMember({"activation", "weight"}));
  app.add_option("--threads", options.threads, "compute threads; 0: all processors");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = nibble::kernels::Run(options);
  if (!status.ok()) {
    std::fprintf(stderr, "op_runner: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}
