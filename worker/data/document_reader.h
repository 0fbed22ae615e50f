// The documents of one input file, one after the other. Internal to worker/data.
#ifndef WORKER_DATA_DOCUMENT_READER_H_
#define WORKER_DATA_DOCUMENT_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/input_stream.h"
#include "worker/data/prepare.h"

namespace nibble::data {

struct DocumentFormat {
  bool jsonl = false;
  std::string json_field;  // jsonl
  std::string separator;   // text; empty: the file is one document
};

// InputFormat::kAuto is told by the name of the file.
DocumentFormat MakeDocumentFormat(InputFormat format, absl::string_view path,
                                  const std::string& json_field, const std::string& separator);

class DocumentReader {
 public:
  // Errors as InputStream::Open.
  static absl::StatusOr<std::unique_ptr<DocumentReader>> Open(const std::string& path,
                                                              const DocumentFormat& format);

  // False at the end. Documents may be empty. INVALID_ARGUMENT, with file and line: a line that is
  // no object with a string json_field. RESOURCE_EXHAUSTED: a document over kMaxDocumentTextBytes.
  // DATA_LOSS as InputStream::Read.
  absl::StatusOr<bool> Next(std::string* document);

  int64_t file_bytes_read() const { return stream_->file_bytes_read(); }

 private:
  DocumentReader(std::unique_ptr<InputStream> stream, std::string path, DocumentFormat format);
  absl::StatusOr<bool> NextPart(std::string* part);
  absl::StatusOr<bool> ReadMore();

  std::unique_ptr<InputStream> stream_;
  const std::string path_;
  const DocumentFormat format_;
  const std::string separator_;
  std::string pending_;  // text not yet handed out starts at begin_
  size_t begin_ = 0;
  bool at_end_ = false;
  bool started_ = false;
  int64_t parts_ = 0;
};

}  // namespace nibble::data

#endif  // WORKER_DATA_DOCUMENT_READER_H_
