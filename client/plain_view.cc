// Lines of `nibble watch` for pipes and logs, and its quiet form.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/message_text.h"
#include "client/metric_rows.h"
#include "client/status.h"
#include "client/text.h"
#include "client/watch_view.h"
#include "nlohmann/json.hpp"

namespace nibble::client {

std::string DisplayName(const JobProgress& progress, const std::vector<JobProgress>& all) {
  const std::string& name = progress.job().spec().name();
  int same = 0;
  for (const JobProgress& other : all) same += other.job().spec().name() == name ? 1 : 0;
  if (name.empty()) return Safe(progress.job().job_id());
  return same > 1 ? absl::StrCat(Safe(name), " ", Safe(progress.job().job_id())) : Safe(name);
}

std::string OutcomeText(const Terminal& terminal, const v1::Job& job) {
  const Color color = job.state() == v1::SUCCEEDED ? Color::kGreen : Color::kRed;
  std::string text = Paint(terminal, color, StateName(job.state()));
  if (job.state() == v1::SUCCEEDED) {
    const v1::TrainingResult& result = job.result();
    if (result.steps() == 0) return text;  // it only scored; `nibble get` shows what
    absl::StrAppendFormat(&text, "  train loss %.4f", result.train_loss());
    if (result.validation_loss() != 0) {
      absl::StrAppendFormat(&text, ", validation loss %.4f, %.4f bits/byte",
                            result.validation_loss(), result.validation_bits_per_byte());
    }
    absl::StrAppend(&text, ", ", Short(result.tokens_per_second()), " tokens/s");
  } else {
    absl::StrAppend(&text, "  ", ReasonName(job.reason()));
    if (!job.reason_message().empty()) absl::StrAppend(&text, ": ", Safe(job.reason_message()));
  }
  return text;
}

namespace {

std::string EndLine(const Terminal& terminal, const JobProgress& progress) {
  return progress.deleted() ? "deleted" : OutcomeText(terminal, progress.job());
}

class PlainView : public WatchView {
 public:
  PlainView(Session* session, const WatchOptions& options)
      : session_(*session), options_(options) {}

  void StateChanged(const JobProgress& progress, const std::vector<JobProgress>& all) override {
    const v1::Job& job = progress.job();
    session_.out() << DisplayName(progress, all) << "  " << StateName(job.state()) << "  "
                   << ReasonName(job.reason());
    if (!job.reason_message().empty()) session_.out() << ": " << Safe(job.reason_message());
    session_.out() << "\n";
  }

  void RowAdded(const JobProgress& progress, const v1::MetricRow& row,
                const std::vector<JobProgress>& all) override {
    const double validation_loss = ValueOf(row, "validation_loss");
    const int64_t total = progress.job().total_steps();
    if (row.step() == 0) return;  // of scores alone
    if (std::isnan(validation_loss) && row.step() != total && !IsDue(progress, row)) return;
    session_.out() << DisplayName(progress, all) << "  step " << row.step();
    if (total > 0) session_.out() << "/" << total;
    session_.out() << "  loss " << Loss(ValueOf(row, "loss"));
    const double speed = ValueOf(row, "tokens_per_second");
    if (!std::isnan(speed)) session_.out() << "  " << Short(speed) << " tokens/s";
    if (progress.SecondsLeft() > 0)
      session_.out() << "  " << Duration(progress.SecondsLeft()) << " left";
    if (!std::isnan(validation_loss)) {
      session_.out() << absl::StrFormat("  validation loss %.4f, %.4f bits/byte", validation_loss,
                                        ValueOf(row, "validation_bits_per_byte"));
    }
    session_.out() << "\n";
  }

  void Refresh(const std::vector<JobProgress>& all, bool connected) override {
    if (connected != connected_) {
      session_.err() << (connected ? "connected again\n"
                                   : "lost the connection to nibbled; trying again\n");
    }
    connected_ = connected;
    ended_.resize(all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      if (ended_[i] || !all[i].Finished()) continue;
      ended_[i] = true;
      session_.out() << DisplayName(all[i], all) << "  " << EndLine(session_.terminal(), all[i])
                     << "\n";
    }
    session_.out().flush();
  }

  void End(const std::vector<JobProgress>& all) override { Refresh(all, connected_); }

 private:
  bool IsDue(const JobProgress& progress, const v1::MetricRow& row) {
    if (options_.every_time <= absl::ZeroDuration()) return row.step() % options_.every_steps == 0;
    int64_t& last = last_line_nanos_[progress.job().job_id()];
    const int64_t now = session_.clock().MonotonicNanos();
    if (last != 0 && now - last < absl::ToInt64Nanoseconds(options_.every_time)) return false;
    last = now;
    return true;
  }

  Session& session_;
  const WatchOptions options_;
  bool connected_ = true;
  std::vector<bool> ended_;
  std::map<std::string, int64_t> last_line_nanos_;
};

class JsonLinesView : public WatchView {
 public:
  explicit JsonLinesView(Session* session) : session_(*session) {}

  void StateChanged(const JobProgress& progress, const std::vector<JobProgress>&) override {
    const v1::Job& job = progress.job();
    Print({{"job_id", job.job_id()},
           {"state", StateName(job.state())},
           {"reason", ReasonName(job.reason())},
           {"message", job.reason_message()},
           {"attempt", job.attempt()}});
  }
  void RowAdded(const JobProgress& progress, const v1::MetricRow& row,
                const std::vector<JobProgress>&) override {
    nlohmann::ordered_json line = {{"job_id", progress.job().job_id()}};
    line.update(MessageJson(row));
    Print(line);
  }
  void Refresh(const std::vector<JobProgress>& all, bool) override {
    ended_.resize(all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      if (ended_[i] || !all[i].Finished()) continue;
      ended_[i] = true;
      StateChanged(all[i], all);
    }
    session_.out().flush();
  }
  void End(const std::vector<JobProgress>& all) override { Refresh(all, true); }

 private:
  void Print(const nlohmann::ordered_json& line) { session_.out() << JsonLine(line) << "\n"; }

  Session& session_;
  std::vector<bool> ended_;
};

class QuietView : public WatchView {
 public:
  explicit QuietView(Session* session) : session_(*session) {}
  void StateChanged(const JobProgress&, const std::vector<JobProgress>&) override {}
  void RowAdded(const JobProgress&, const v1::MetricRow&,
                const std::vector<JobProgress>&) override {}
  void Refresh(const std::vector<JobProgress>&, bool) override {}
  void End(const std::vector<JobProgress>& all) override {
    // Standard output holds only what the verb itself prints.
    Terminal plain = session_.terminal();
    plain.color = false;
    for (const JobProgress& progress : all) {
      if (!progress.Finished()) continue;
      session_.err() << DisplayName(progress, all) << "  " << EndLine(plain, progress) << "\n";
    }
  }

 private:
  Session& session_;
};

}  // namespace

std::unique_ptr<WatchView> MakePlainView(Session* session, const WatchOptions& options) {
  return std::make_unique<PlainView>(session, options);
}
std::unique_ptr<WatchView> MakeJsonLinesView(Session* session) {
  return std::make_unique<JsonLinesView>(session);
}
std::unique_ptr<WatchView> MakeQuietView(Session* session) {
  return std::make_unique<QuietView>(session);
}

}  // namespace nibble::client
