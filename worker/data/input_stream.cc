#include "worker/data/input_stream.h"

#include <bzlib.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace nibble::data {
namespace {

constexpr size_t kBufferBytes = 256 * 1024;
constexpr int kMaxZstdWindowLog = 27;

// The bytes of the file, with a buffer that decoders take from.
class RawFile {
 public:
  RawFile(int fd, std::string path) : fd_(fd), path_(std::move(path)), buffer_(kBufferBytes) {}
  ~RawFile() { close(fd_); }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  // Makes sure that something is buffered; false at the end of the file.
  absl::StatusOr<bool> Fill() {
    if (begin_ < end_) return true;
    begin_ = 0;
    end_ = 0;
    ssize_t n;
    do {
      n = read(fd_, buffer_.data(), buffer_.size());
    } while (n < 0 && errno == EINTR);
    if (n < 0) return ErrnoStatus(errno, "read", path_);
    end_ = static_cast<size_t>(n);
    return n > 0;
  }
  absl::string_view buffered() const { return {buffer_.data() + begin_, end_ - begin_}; }
  void Consume(size_t bytes) {
    begin_ += bytes;
    consumed_ += static_cast<int64_t>(bytes);
  }
  int64_t consumed() const { return consumed_; }
  absl::Status Damaged(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat(path_, ": ", what, " near byte ", consumed_));
  }

 private:
  int fd_;
  std::string path_;
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  int64_t consumed_ = 0;
};

class PlainStream : public InputStream {
 public:
  explicit PlainStream(std::unique_ptr<RawFile> file) : file_(std::move(file)) {}
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    NIBBLE_ASSIGN_OR_RETURN(const bool more, file_->Fill());
    if (!more) return size_t{0};
    const size_t n = std::min(size, file_->buffered().size());
    std::memcpy(buffer, file_->buffered().data(), n);
    file_->Consume(n);
    return n;
  }
  int64_t file_bytes_read() const override { return file_->consumed(); }

 private:
  std::unique_ptr<RawFile> file_;
};

// One or more gzip members.
class GzipStream : public InputStream {
 public:
  explicit GzipStream(std::unique_ptr<RawFile> file) : file_(std::move(file)) {}
  ~GzipStream() override { inflateEnd(&stream_); }

  absl::Status Init() {
    constexpr int kGzipOnly = 16;
    if (inflateInit2(&stream_, MAX_WBITS + kGzipOnly) != Z_OK) {
      return absl::ResourceExhaustedError("zlib is out of memory");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    while (true) {
      NIBBLE_ASSIGN_OR_RETURN(const bool more, file_->Fill());
      if (!more) {
        if (!between_members_) return file_->Damaged("the gzip data ends too early");
        return size_t{0};
      }
      const absl::string_view in = file_->buffered();
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
      stream_.avail_in = static_cast<uInt>(in.size());
      stream_.next_out = reinterpret_cast<Bytef*>(buffer);
      stream_.avail_out = static_cast<uInt>(size);
      between_members_ = false;
      const int result = inflate(&stream_, Z_NO_FLUSH);
      file_->Consume(in.size() - stream_.avail_in);
      if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) {
        return file_->Damaged("damaged gzip data");
      }
      if (result == Z_STREAM_END) {
        between_members_ = true;
        inflateReset(&stream_);
      }
      const size_t produced = size - stream_.avail_out;
      if (produced > 0) return produced;
    }
  }
  int64_t file_bytes_read() const override { return file_->consumed(); }

 private:
  std::unique_ptr<RawFile> file_;
  z_stream stream_ = {};
  bool between_members_ = false;
};

// One or more Zstandard frames.
class ZstdStream : public InputStream {
 public:
  explicit ZstdStream(std::unique_ptr<RawFile> file)
      : file_(std::move(file)), stream_(ZSTD_createDStream()) {}
  ~ZstdStream() override { ZSTD_freeDStream(stream_); }

  absl::Status Init() {
    if (stream_ == nullptr ||
        ZSTD_isError(ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, kMaxZstdWindowLog))) {
      return absl::ResourceExhaustedError("zstd is out of memory");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    while (true) {
      NIBBLE_ASSIGN_OR_RETURN(const bool more, file_->Fill());
      // Without more input the decoder may still hold output.
      if (!more && frame_done_) return size_t{0};
      const absl::string_view view = file_->buffered();
      ZSTD_inBuffer in = {view.data(), view.size(), 0};
      ZSTD_outBuffer out = {buffer, size, 0};
      const size_t result = ZSTD_decompressStream(stream_, &out, &in);
      if (ZSTD_isError(result)) {
        return file_->Damaged(absl::StrCat("damaged zstd data: ", ZSTD_getErrorName(result)));
      }
      file_->Consume(in.pos);
      frame_done_ = result == 0;
      if (out.pos > 0) return out.pos;
      if (!more && !frame_done_) return file_->Damaged("the zstd data ends too early");
    }
  }
  int64_t file_bytes_read() const override { return file_->consumed(); }

 private:
  std::unique_ptr<RawFile> file_;
  ZSTD_DStream* stream_;
  bool frame_done_ = false;
};

// One or more bzip2 streams. The format's own limit bounds the decoder's memory: 3.7 MB.
class Bzip2Stream : public InputStream {
 public:
  explicit Bzip2Stream(std::unique_ptr<RawFile> file) : file_(std::move(file)) {}
  ~Bzip2Stream() override { BZ2_bzDecompressEnd(&stream_); }

  absl::Status Init() {
    if (BZ2_bzDecompressInit(&stream_, /*verbosity=*/0, /*small=*/0) != BZ_OK) {
      return absl::ResourceExhaustedError("bzip2 is out of memory");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    while (true) {
      NIBBLE_ASSIGN_OR_RETURN(const bool more, file_->Fill());
      if (!more && between_streams_) return size_t{0};
      const absl::string_view in = file_->buffered();
      stream_.next_in = const_cast<char*>(in.data());
      stream_.avail_in = static_cast<unsigned>(in.size());
      stream_.next_out = buffer;
      stream_.avail_out = static_cast<unsigned>(size);
      const int result = BZ2_bzDecompress(&stream_);
      if (result != BZ_OK && result != BZ_STREAM_END) {
        return file_->Damaged("damaged bzip2 data");
      }
      file_->Consume(in.size() - stream_.avail_in);
      const size_t produced = size - stream_.avail_out;
      between_streams_ = result == BZ_STREAM_END;
      if (between_streams_) {
        BZ2_bzDecompressEnd(&stream_);
        stream_ = {};
        NIBBLE_RETURN_IF_ERROR(Init());
      }
      if (produced > 0) return produced;
      if (!more && !between_streams_) return file_->Damaged("the bzip2 data ends too early");
    }
  }
  int64_t file_bytes_read() const override { return file_->consumed(); }

 private:
  std::unique_ptr<RawFile> file_;
  bz_stream stream_ = {};
  bool between_streams_ = false;
};

template <typename Stream>
absl::StatusOr<std::unique_ptr<InputStream>> MakeStream(std::unique_ptr<RawFile> file) {
  auto stream = std::make_unique<Stream>(std::move(file));
  NIBBLE_RETURN_IF_ERROR(stream->Init());
  return std::unique_ptr<InputStream>(std::move(stream));
}

}  // namespace

absl::StatusOr<std::unique_ptr<InputStream>> InputStream::Open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  auto file = std::make_unique<RawFile>(fd, path);
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus(errno, "stat", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  NIBBLE_RETURN_IF_ERROR(file->Fill().status());
  const absl::string_view start = file->buffered();
  if (start.substr(0, 2) == absl::string_view("\x1f\x8b", 2)) {
    return MakeStream<GzipStream>(std::move(file));
  }
  if (start.substr(0, 4) == absl::string_view("\x28\xb5\x2f\xfd", 4)) {
    return MakeStream<ZstdStream>(std::move(file));
  }
  // "BZh", the size of a block, and the mark of one.
  if (start.substr(0, 3) == "BZh" && start.size() > 10 && start.substr(4, 6) == "1AY&SY") {
    return MakeStream<Bzip2Stream>(std::move(file));
  }
  return std::unique_ptr<InputStream>(std::make_unique<PlainStream>(std::move(file)));
}

}  // namespace nibble::data
