// Numbers, times and names as people read them.
#ifndef CLIENT_TEXT_H_
#define CLIENT_TEXT_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "google/protobuf/timestamp.pb.h"
#include "nibble/v1/job.pb.h"

namespace nibble::client {

// 1234567 → "1,234,567".
std::string Grouped(int64_t value);

// Three significant digits with a decimal prefix: 25123 → "25.1k", 1.2e9 → "1.20G". `value` >= 0.
std::string Short(double value);

// Bytes with a binary prefix: 1536 → "1.5 KiB".
std::string Bytes(int64_t bytes);

// "0.4 s", "12 s", "3:05", "2:07:09", "3 d 4 h". Negative or not finite: "?".
std::string Duration(double seconds);

// Four decimals, or "-" where the value is not finite.
std::string Loss(double value);

// The shortest text that reads back as the same double; "nan", "inf" and "-inf" for the others.
std::string Exact(double value);

// "+0.85 %".
std::string SignedPercent(double share);

int64_t Micros(const google::protobuf::Timestamp& time);

// "2026-11-23T14:41:43Z"; "-" where the timestamp is not set.
std::string IsoTime(const google::protobuf::Timestamp& time);

// RFC 3339 with as many decimals as it has: what JSON output shows.
std::string ExactTime(const google::protobuf::Timestamp& time);

// "12 s", "3 min", "5 h", "12 d".
std::string Age(int64_t then_micros, int64_t now_micros);

// "RUNNING"; an unknown number as such.
std::string StateName(v1::JobState state);
std::string ReasonName(v1::JobReason reason);

// SUCCEEDED, FAILED or CANCELLED.
bool IsTerminal(v1::JobState state);

// Number of insertions, deletions and replacements between two words: for "did you mean".
int EditDistance(absl::string_view a, absl::string_view b);

}  // namespace nibble::client

#endif  // CLIENT_TEXT_H_
