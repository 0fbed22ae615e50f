// The live view of `nibble watch`: a block a job, drawn over the one before.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/job_view.h"
#include "client/plot.h"
#include "client/text.h"
#include "client/watch_view.h"

namespace nibble::client {
namespace {

constexpr int64_t kFrameNanos = 200'000'000;
constexpr int kLargestWidth = 100;
constexpr int kLargestPlotRows = 8;
constexpr int kSmallestPlotRows = 3;
// Lines of a block without its plot; the plot has two below its drawing area, and perhaps a legend.
constexpr int kBlockLines = 3;
constexpr int kPlotFrameLines = 3;

class LiveView : public WatchView {
 public:
  explicit LiveView(Session* session) : session_(*session) { session_.out() << "\033[?25l"; }
  // Also on an early end the cursor must come back.
  ~LiveView() override { session_.out() << "\033[?25h" << std::flush; }

  void StateChanged(const JobProgress&, const std::vector<JobProgress>&) override { due_ = true; }
  void RowAdded(const JobProgress&, const v1::MetricRow&,
                const std::vector<JobProgress>&) override {}

  void Refresh(const std::vector<JobProgress>& all, bool connected) override {
    const int64_t now = session_.clock().MonotonicNanos();
    if (!due_ && now - last_frame_nanos_ < kFrameNanos) return;
    due_ = false;
    last_frame_nanos_ = now;
    connected_ = connected;
    Draw(all);
  }

  void End(const std::vector<JobProgress>& all) override { Draw(all); }

 private:
  void Draw(const std::vector<JobProgress>& all) {
    UpdateSize(session_.terminal());
    std::string frame;
    if (lines_drawn_ > 0) absl::StrAppend(&frame, "\033[", lines_drawn_, "A\r");
    const std::vector<std::string> lines = Lines(all);
    for (const std::string& line : lines) {
      absl::StrAppend(&frame, Truncate(line, session_.terminal().columns - 1), "\033[K\n");
    }
    lines_drawn_ = static_cast<int>(lines.size());
    session_.out() << frame << "\033[J" << std::flush;
  }

  std::vector<std::string> Lines(const std::vector<JobProgress>& all) const {
    const int available = session_.terminal().rows - 1 - (connected_ ? 0 : 1);
    const int jobs = static_cast<int>(all.size());
    const int plot_rows =
        std::min(kLargestPlotRows, (available - jobs + 1) / jobs - kBlockLines - kPlotFrameLines);
    const bool blocks = jobs * kBlockLines + jobs - 1 <= available;
    std::vector<std::string> lines;
    for (const JobProgress& progress : all) {
      if (!blocks) {
        if (static_cast<int>(lines.size()) >= available) break;
        lines.push_back(absl::StrCat(Title(progress, all), "  ", Bar(progress, 20)));
        continue;
      }
      if (!lines.empty()) lines.push_back("");
      AddBlock(progress, all, plot_rows, &lines);
    }
    if (!connected_) {
      lines.push_back(Paint(session_.terminal(), Color::kYellow,
                            "No answer from nibbled; trying again. The jobs do not depend on it."));
    }
    return lines;
  }

  void AddBlock(const JobProgress& progress, const std::vector<JobProgress>& all, int plot_rows,
                std::vector<std::string>* lines) const {
    const Terminal& terminal = session_.terminal();
    lines->push_back(Title(progress, all));
    lines->push_back(Bar(progress, std::clamp(terminal.columns - 60, 10, 40)));
    lines->push_back(Values(progress));
    if (plot_rows < kSmallestPlotRows) return;
    const PlotSize size{.columns = std::min(terminal.columns - 1, kLargestWidth),
                        .rows = plot_rows};
    const std::string plot = Plot(terminal, progress.Curves(), size, "steps");
    for (const absl::string_view line : absl::StrSplit(plot, '\n', absl::SkipEmpty())) {
      lines->emplace_back(line);
    }
  }

  std::string Title(const JobProgress& progress, const std::vector<JobProgress>& all) const {
    const Terminal& terminal = session_.terminal();
    const v1::Job& job = progress.job();
    std::string title =
        absl::StrCat(Paint(terminal, Color::kBold, DisplayName(progress, all)), "  ");
    if (progress.deleted()) return title + "deleted";
    if (progress.Finished()) return title + OutcomeText(terminal, job);
    absl::StrAppend(&title, PaintState(terminal, job.state()));
    if (job.state() != v1::RUNNING && !job.reason_message().empty()) {
      absl::StrAppend(&title, "  ", Safe(job.reason_message()));
    }
    if (job.attempt() > 1) absl::StrAppend(&title, "  attempt ", job.attempt());
    return title;
  }

  std::string Bar(const JobProgress& progress, int columns) const {
    const v1::Job& job = progress.job();
    const double total = static_cast<double>(job.total_steps());
    const double share = total > 0 ? static_cast<double>(progress.step()) / total : 0;
    std::string line = absl::StrCat(
        ProgressBar(session_.terminal(), share, columns),
        absl::StrFormat(" %3.0f %%  step %d/%d", 100 * share, progress.step(), job.total_steps()));
    if (progress.tokens_per_second() > 0) {
      absl::StrAppend(&line, "  ", Short(progress.tokens_per_second()), " tokens/s");
    }
    const double left = progress.SecondsLeft();
    if (job.state() == v1::RUNNING && left >= 0)
      absl::StrAppend(&line, "  ", Duration(left), " left");
    return line;
  }

  std::string Values(const JobProgress& progress) const {
    if (std::isnan(progress.loss())) return Paint(session_.terminal(), Color::kDim, "no step yet");
    // The most wanted first: narrow windows cut the rest off.
    std::string line = absl::StrCat("loss ", Loss(progress.loss()));
    if (progress.has_validation()) {
      absl::StrAppendFormat(&line, "  validation %.4f (%.3f bits/byte, step %d)",
                            progress.validation_loss(), progress.validation_bits_per_byte(),
                            progress.validation_step());
    }
    absl::StrAppendFormat(&line, "  learning rate %.3g  gradient norm %.3g",
                          progress.learning_rate(), progress.grad_norm());
    return line;
  }

  Session& session_;
  bool due_ = true;
  bool connected_ = true;
  int64_t last_frame_nanos_ = 0;
  int lines_drawn_ = 0;
};

}  // namespace

std::unique_ptr<WatchView> MakeLiveView(Session* session) {
  return std::make_unique<LiveView>(session);
}

}  // namespace nibble::client
