#include "worker/checkpoint/safetensors.h"

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble::checkpoint {
namespace {

using ::testing::HasSubstr;

std::string File(absl::string_view header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return absl::StrCat(file, header, std::string(data_bytes, 'x'));
}

std::string Tensor(absl::string_view name, absl::string_view rest) {
  return absl::StrCat("\"", name, "\":{", rest, "}");
}

TEST(Safetensors, ReadsWhatTheFormatAllows) {
  // Keys in any order, metadata, spaces, a scalar, an empty tensor, other dtypes.
  const std::string header =
      R"({"__metadata__": {"format": "pt"},
          "b": {"data_offsets": [24, 28], "shape": [], "dtype": "F32"},
          "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
          "none": {"dtype": "I64", "shape": [3, 0], "data_offsets": [28, 28]},
          "c": {"dtype": "BF16", "shape": [1], "data_offsets": [28, 30]}}   )";
  ASSERT_OK_AND_ASSIGN(SafetensorsHeader parsed, ParseSafetensors(File(header, 30)));
  ASSERT_EQ(parsed.tensors.size(), 4);
  EXPECT_EQ(parsed.tensors[0].name, "a");
  EXPECT_EQ(parsed.tensors[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(parsed.data_start, 8 + header.size());
  ASSERT_NE(parsed.Find("c"), nullptr);
  EXPECT_EQ(parsed.Find("c")->dtype, "BF16");
  EXPECT_EQ(parsed.Find("d"), nullptr);
  EXPECT_THAT(ParseSafetensors(File("{}", 0)), IsOk());
}

struct Hostile {
  const char* what;
  std::string file;
};

// Seen red with the checks of overflow, of overlaps, of holes and of repeated keys taken out.
TEST(Safetensors, RefusesEverythingElse) {
  const std::string good = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  const auto header = [](const std::string& tensors, size_t bytes = 8) {
    return File(absl::StrCat("{", tensors, "}"), bytes);
  };
  std::string huge_length(8, '\xff');
  std::string over_limit(8, '\0');
  const uint64_t over = kMaxHeaderBytes + 1;
  std::memcpy(over_limit.data(), &over, 8);
  const std::vector<Hostile> rows = {
      {"nothing", ""},
      {"seven bytes", "1234567"},
      {"length over the file", huge_length + "{}"},
      {"length over the limit", over_limit + std::string(100, ' ')},
      {"length of one byte more than there is",
       [&] {
         std::string file = File("{}", 0);
         file[0] = 3;
         return file;
       }()},
      {"an empty header", File("", 8)},
      {"leading space", File(" {}", 0)},
      {"an array", File("[]", 0)},
      {"a second value", File("{} {}", 0)},
      {"cut off", header(absl::StrCat("\"a\":{", good))},
      {"not UTF-8", header(Tensor("\xff", good))},
      {"deep nesting", File(absl::StrCat("{\"a\":", std::string(100'000, '['), "}"), 0)},
      {"deep objects", File(
                           [] {
                             std::string text;
                             for (int i = 0; i < 50'000; ++i) text += "{\"a\":";
                             return text;
                           }(),
                           0)},
      {"a nested shape",
       header(Tensor("a", R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"))},
      {"a tensor that is a number", header("\"a\":1")},
      {"a tensor that is null", header("\"a\":null")},
      {"no dtype", header(Tensor("a", R"("shape":[2],"data_offsets":[0,8])"))},
      {"no shape", header(Tensor("a", R"("dtype":"F32","data_offsets":[0,8])"))},
      {"no offsets", header(Tensor("a", R"("dtype":"F32","shape":[2])"))},
      {"one offset", header(Tensor("a", R"("dtype":"F32","shape":[2],"data_offsets":[0])"))},
      {"three offsets", header(Tensor("a", R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"))},
      {"an unknown key", header(Tensor("a", good + R"(,"more":1)"))},
      {"a repeated key", header(Tensor("a", good + R"(,"shape":[2])"))},
      {"a repeated dtype", header(Tensor("a", good + R"(,"dtype":"F32")"))},
      {"a repeated tensor", header(Tensor("a", good) + "," + Tensor("a", good))},
      {"repeated metadata", header(R"("__metadata__":{},"__metadata__":{},)" + Tensor("a", good))},
      {"metadata that is no object", header(R"("__metadata__":"x",)" + Tensor("a", good))},
      {"metadata with a number", header(R"("__metadata__":{"x":1},)" + Tensor("a", good))},
      {"nested metadata", header(R"("__metadata__":{"x":{}},)" + Tensor("a", good))},
      {"an unknown dtype",
       header(Tensor("a", R"("dtype":"F31","shape":[2],"data_offsets":[0,8])"))},
      {"a dtype that is a number",
       header(Tensor("a", R"("dtype":4,"shape":[2],"data_offsets":[0,8])"))},
      {"a negative dimension",
       header(Tensor("a", R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"))},
      {"a fractional dimension",
       header(Tensor("a", R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"))},
      {"a dimension that is a string",
       header(Tensor("a", R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])"))},
      {"nine dimensions",
       header(Tensor("a", R"("dtype":"F32","shape":[2,1,1,1,1,1,1,1,1],"data_offsets":[0,8])"))},
      {"a product that wraps to the right size",
       header(Tensor("a", R"("dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8])"))},
      {"a product of two that wraps",
       header(
           Tensor("a", R"("dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8])"))},
      {"an offset beyond 64 bits",
       header(Tensor("a", R"("dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551624])"))},
      {"offsets in the wrong order",
       header(Tensor("a", R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"))},
      {"a range of another size",
       header(Tensor("a", R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"))},
      {"data beyond the file", header(Tensor("a", good), /*bytes=*/7)},
      {"bytes that no tensor has", header(Tensor("a", good), /*bytes=*/9)},
      {"data without tensors", File("{}", 1)},
      {"a hole at the start",
       header(Tensor("a", R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"))},
      {"a hole", header(Tensor("a", R"("dtype":"F32","shape":[1],"data_offsets":[0,4])") + "," +
                            Tensor("b", R"("dtype":"F32","shape":[1],"data_offsets":[8,12])"),
                        12)},
      {"an overlap", header(Tensor("a", good) + "," +
                                Tensor("b", R"("dtype":"F32","shape":[2],"data_offsets":[4,12])"),
                            12)},
      {"the same range twice", header(Tensor("a", good) + "," + Tensor("b", good))},
      {"a long name", header(Tensor(std::string(513, 'n'), good))},
  };
  for (const Hostile& row : rows) {
    EXPECT_THAT(ParseSafetensors(row.file), StatusIs(absl::StatusCode::kDataLoss)) << row.what;
  }
}

TEST(Safetensors, RefusesTooManyTensors) {
  std::string header = "{";
  for (size_t i = 0; i <= kMaxTensors; ++i) {
    absl::StrAppend(&header, i == 0 ? "" : ",", "\"", i,
                    R"(":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})");
  }
  EXPECT_THAT(ParseSafetensors(File(header + "}", 0)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("100000 tensors")));
}

TEST(Safetensors, NamesInMessagesAreEscaped) {
  const std::string header = R"({"\u001b[31m":{"dtype":"F32","shape":[2],"data_offsets":[0,7]}})";
  const auto parsed = ParseSafetensors(File(header, 7));
  EXPECT_THAT(parsed, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("\\x1b[31m")));
}

// No truncation of a good file is good.
TEST(Safetensors, RefusesEveryTruncation) {
  const std::string file = File(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  ASSERT_THAT(ParseSafetensors(file), IsOk());
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_THAT(ParseSafetensors(file.substr(0, size)), StatusIs(absl::StatusCode::kDataLoss))
        << size;
  }
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  ASSERT_OK_AND_ASSIGN(const TemporaryDirectory directory, TemporaryDirectory::Make());
  const std::string path = JoinPath(directory.path(), "t.safetensors");
  std::vector<TensorInfo> tensors(2);
  tensors[0].name = "first \"quoted\"";
  tensors[0].shape = {2, 2};
  tensors[1].name = "second";
  tensors[1].shape = {3};
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7};
  ASSERT_OK_AND_ASSIGN(auto writer, SafetensorsWriter::Create(path, tensors));
  ASSERT_THAT(writer->Append(values.data(), 3), IsOk());  // pieces need not end with tensors
  ASSERT_THAT(writer->Append(values.data() + 3, 4), IsOk());
  ASSERT_THAT(writer->Finish(), IsOk());

  ASSERT_OK_AND_ASSIGN(const std::string file, ReadFile(path, 1 << 20));
  EXPECT_EQ(writer->size_bytes(), static_cast<int64_t>(file.size()));
  EXPECT_EQ(writer->sha256(), Sha256Hex(file));
  ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, ParseSafetensors(file));
  EXPECT_EQ(header.data_start % 8, 0);
  const TensorInfo* second = header.Find("second");
  ASSERT_NE(second, nullptr);
  float value = 0;
  std::memcpy(&value, file.data() + header.data_start + second->begin, 4);
  EXPECT_EQ(value, 5);
  EXPECT_THAT(SafetensorsWriter::Create(path, tensors), StatusIs(absl::StatusCode::kAlreadyExists));
}

// Around the buffer, the page and the size from which a digest is computed beside the writing.
TEST(SafetensorsWriter, SizesAroundItsBuffers) {
  ASSERT_OK_AND_ASSIGN(const TemporaryDirectory directory, TemporaryDirectory::Make());
  for (const int64_t size : {1, 1000, 1024, 262'144, 2'097'152 - 30, 2'097'152, 2'500'001}) {
    std::vector<float> values(size);
    for (int64_t i = 0; i < size; ++i) values[i] = static_cast<float>(i);
    TensorInfo tensor;
    tensor.name = "values";
    tensor.shape = {size};
    const std::string path = JoinPath(directory.path(), absl::StrCat(size));
    ASSERT_OK_AND_ASSIGN(auto writer, SafetensorsWriter::Create(path, {tensor}));
    // In two pieces, small and large.
    const int64_t first = size / 3;
    ASSERT_THAT(writer->Append(values.data(), first), IsOk());
    ASSERT_THAT(writer->Append(values.data() + first, size - first), IsOk());
    ASSERT_THAT(writer->Finish(), IsOk());
    ASSERT_OK_AND_ASSIGN(const MappedFile file, MappedFile::Open(path));
    EXPECT_EQ(static_cast<int64_t>(file.contents().size()), writer->size_bytes());
    EXPECT_EQ(Sha256Hex(file.contents()), writer->sha256());
    ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, ParseSafetensors(file.contents()));
    EXPECT_EQ(file.contents().substr(header.data_start),
              absl::string_view(reinterpret_cast<const char*>(values.data()), size * 4));
  }
}

}  // namespace
}  // namespace nibble::checkpoint
