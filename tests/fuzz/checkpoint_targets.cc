// Files of checkpoints and of other programs' models, and the frames of the trainer link.
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "nibble/v1/trainer_link.pb.h"
#include "tests/fuzz/fuzz_target.h"
#include "worker/checkpoint/manifest.h"
#include "worker/checkpoint/safetensors.h"
#include "worker/interchange/hf_config.h"
#include "worker/link/frame.h"

namespace nibble::fuzz {
namespace {

bool RunSafetensors(absl::string_view input) {
  const auto header = checkpoint::ParseSafetensors(input);
  if (!header.ok()) return false;
  uint64_t end = 0;
  for (const checkpoint::TensorInfo& tensor : header->tensors) {
    Require(tensor.begin == end && tensor.end >= tensor.begin, "tensors follow each other");
    end = tensor.end;
  }
  Require(header->data_start + end == input.size(), "and end with the file");
  return true;
}

std::string Safetensors(absl::string_view json, size_t data_bytes) {
  const uint64_t size = json.size();
  return absl::StrCat(absl::string_view(reinterpret_cast<const char*>(&size), 8), json,
                      std::string(data_bytes, 'd'));
}

std::vector<std::string> SafetensorsSeeds() {
  return {
      Safetensors(
          R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],)"
          R"("data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]}})",
          26),
      Safetensors("{}", 0),
      Safetensors(R"({"a":{"dtype":"F64","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})",
                  0)};
}

bool RunManifest(absl::string_view input) {
  const auto manifest = checkpoint::ManifestFromJson(input);
  if (!manifest.ok()) return false;
  const std::string text = checkpoint::ManifestToJson(*manifest);
  const auto again = checkpoint::ManifestFromJson(text);
  Require(again.ok() && checkpoint::ManifestToJson(*again) == text,
          "a manifest survives being written");
  return true;
}

std::vector<std::string> ManifestSeeds() {
  checkpoint::Manifest manifest;
  manifest.state = {.step = 5,
                    .tokens = 640,
                    .data_position = 20,
                    .seed = 7,
                    .config_digest = std::string(64, 'c'),
                    .loss_sum = 12.5,
                    .loss_count = 5};
  manifest.files = {{checkpoint::kModelFile, 1000, std::string(64, 'a'), std::string(32, 'c')},
                    {checkpoint::kOptimizerFile, 2000, std::string(64, 'b'), std::string(32, 'd')}};
  checkpoint::Manifest old = manifest;
  old.format_version = 1;
  return {checkpoint::ManifestToJson(manifest), checkpoint::ManifestToJson(old),
          "{\"format_version\": 1}"};
}

bool RunHuggingFaceConfig(absl::string_view input) {
  return interchange::ParseHuggingFaceConfig(input).ok();
}

std::vector<std::string> HuggingFaceSeeds() {
  return {R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,
             "intermediate_size":128,"num_attention_heads":4,"num_hidden_layers":2,
             "num_key_value_heads":2,"vocab_size":256,"rms_norm_eps":1e-5,"rope_theta":1e4,
             "max_position_embeddings":128,"tie_word_embeddings":true,"hidden_act":"silu"})",
          R"({"architectures":["GPT2LMHeadModel"],"model_type":"gpt2","n_embd":64,"n_head":4,
             "n_layer":2,"n_positions":128,"vocab_size":256,"activation_function":"gelu_new"})"};
}

bool RunFrames(absl::string_view input) {
  int ends[2];
  Require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "a pair of sockets");
  // What is sent at once must fit the socket's buffer: nobody reads meanwhile.
  const int room = 4 * static_cast<int>(kMaxInputBytes);
  ::setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
  const ssize_t sent = ::send(ends[0], input.data(), std::min(input.size(), kMaxInputBytes),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
  ::close(ends[0]);
  bool of_worker = sent >= 0 && input.size() % 2 == 0;
  int frames = 0;
  for (;; ++frames) {
    v1::TrainerCommand command;
    v1::TrainerReport report;
    const auto more =
        of_worker ? link::ReadFrame(ends[1], &command) : link::ReadFrame(ends[1], &report);
    if (!more.ok() || !*more) break;
    of_worker = !of_worker;
  }
  ::close(ends[1]);
  return frames > 0;
}

std::string Frame(const google::protobuf::MessageLite& message) {
  const std::string bytes = message.SerializeAsString();
  const auto size = static_cast<uint32_t>(bytes.size());
  return absl::StrCat(absl::string_view(reinterpret_cast<const char*>(&size), 4), bytes);
}

std::vector<std::string> FrameSeeds() {
  v1::TrainerCommand start;
  start.mutable_start()->mutable_key()->set_job_id("j-0123456789abcdef");
  start.mutable_start()->mutable_spec()->set_name("seed");
  v1::TrainerReport failed;
  failed.mutable_failed()->set_message("because");
  return {Frame(start) + Frame(failed), Frame(failed), std::string("\xff\xff\xff\xff", 4)};
}

}  // namespace

std::vector<FuzzTarget> CheckpointTargets() {
  return {{"safetensors", RunSafetensors, SafetensorsSeeds},
          {"checkpoint_manifest", RunManifest, ManifestSeeds},
          {"huggingface_config", RunHuggingFaceConfig, HuggingFaceSeeds},
          {"trainer_link", RunFrames, FrameSeeds}};
}

}  // namespace nibble::fuzz
