#include "server/telemetry/prometheus_telemetry.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <exception>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/mutex.h"

namespace nibble::telemetry {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

// Seconds. RPCs and commits take 10 us to seconds; training steps 1 ms to minutes.
const prometheus::Histogram::BucketBoundaries kLatencyBuckets = {
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
const prometheus::Histogram::BucketBoundaries kSchedulingBuckets = {
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1};
const prometheus::Histogram::BucketBoundaries kStepBuckets = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120};
const prometheus::Histogram::BucketBoundaries kGroupBuckets = {1,  2,   4,   8,   16,  32,
                                                               64, 128, 256, 512, 1024};
const prometheus::Histogram::BucketBoundaries kWaitBuckets = {0.01, 0.1, 1,    10,    60,
                                                              300,  900, 3600, 14400, 86400};

MetricFamily Family(const std::string& name, const std::string& help, MetricType type) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

void AddGauge(double value, Labels labels, MetricFamily* family) {
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.gauge.value = value;
  family->metric.push_back(std::move(metric));
}

void AddCounter(double value, Labels labels, MetricFamily* family) {
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.counter.value = value;
  family->metric.push_back(std::move(metric));
}

void AddHistogram(const prometheus::Histogram& histogram, Labels labels, MetricFamily* family) {
  ClientMetric metric = histogram.Collect();
  metric.label = std::move(labels);
  family->metric.push_back(std::move(metric));
}

MetricFamily Gauge(const std::string& name, const std::string& help, double value) {
  MetricFamily family = Family(name, help, MetricType::Gauge);
  AddGauge(value, {}, &family);
  return family;
}

MetricFamily Histogram(const std::string& name, const std::string& help,
                       const prometheus::Histogram& histogram) {
  MetricFamily family = Family(name, help, MetricType::Histogram);
  AddHistogram(histogram, {}, &family);
  return family;
}

struct RpcMethod {
  prometheus::Histogram seconds{kLatencyBuckets};
};

struct JobSeries {
  ActiveJob job;
  int64_t step = 0;
  std::map<std::string, double> values;  // newest
  prometheus::Histogram step_seconds{kStepBuckets};
};

// A gauge of an active job and the value of a step that it shows.
struct JobGauge {
  const char* value_name;
  const char* metric_name;
  const char* help;
};
constexpr JobGauge kJobGauges[] = {
    {"loss", "nibble_job_loss", "Training loss of the newest step, nats per token."},
    {"validation_loss", "nibble_job_validation_loss", "Newest validation loss, nats per token."},
    {"learning_rate", "nibble_job_learning_rate", "Learning rate of the newest step."},
    {"grad_norm", "nibble_job_gradient_norm", "Global gradient norm before clipping."},
    {"tokens_per_second", "nibble_job_tokens_per_second", "Training speed of the newest step."},
    {"health/shadow_loss", "nibble_job_shadow_loss",
     "Loss of a step's batch without quantisation, newest measurement, nats per token."},
};

Labels LabelsOf(const ActiveJob& job) {
  return {{"job_id", job.job_id}, {"name", job.name}, {"recipe", job.recipe}};
}

// The labels of health/<class>/<product>/<operand>/<measure>, or health/<class>/wgrad/<measure>;
// nothing for other names.
std::optional<Labels> HealthLabels(const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if ((parts.size() != 4 && parts.size() != 5) || parts[0] != "health") return std::nullopt;
  return Labels{{"layers", parts[1]},
                {"product", parts[2]},
                {"operand", parts.size() == 5 ? parts[3] : ""},
                {"measure", parts.back()}};
}

}  // namespace

// Everything that is counted, under one lock that is held for the length of a map operation or of
// one scrape.
class PrometheusTelemetry::Metrics : public prometheus::Collectable {
 public:
  explicit Metrics(const BuildInfo& build) : build_(build) {
    for (const char* kind : kAlertKinds) alerts_[kind] = 0;
    for (const char* reason : kIncidents) incidents_[reason] = 0;
  }
  std::vector<MetricFamily> Collect() const override;

  const BuildInfo build_;
  mutable Mutex mutex_;
  ControlPlaneCounts counts_ GUARDED_BY(mutex_);
  std::map<std::string, int64_t> alerts_ GUARDED_BY(mutex_);
  std::map<std::string, int64_t> incidents_ GUARDED_BY(mutex_);
  std::map<std::pair<std::string, std::string>, std::unique_ptr<RpcMethod>> rpcs_
      GUARDED_BY(mutex_);
  std::map<std::string, std::unique_ptr<JobSeries>, std::less<>> jobs_ GUARDED_BY(mutex_);
  // Thread-safe themselves.
  prometheus::Histogram commit_seconds_{kLatencyBuckets};
  prometheus::Histogram commit_group_{kGroupBuckets};
  prometheus::Histogram scheduling_seconds_{kSchedulingBuckets};
  prometheus::Histogram queue_wait_seconds_{kWaitBuckets};

 private:
  void CollectControlPlane(std::vector<MetricFamily>* out) const REQUIRES(mutex_);
  void CollectRpcs(std::vector<MetricFamily>* out) const REQUIRES(mutex_);
  void CollectHealth(std::vector<MetricFamily>* out) const REQUIRES(mutex_);
  void CollectJobs(std::vector<MetricFamily>* out) const REQUIRES(mutex_);
};

std::vector<MetricFamily> PrometheusTelemetry::Metrics::Collect() const {
  std::vector<MetricFamily> out;
  MetricFamily info =
      Family("nibble_build_info", "1, with the version as labels.", MetricType::Gauge);
  AddGauge(1, {{"version", build_.version}, {"commit", build_.commit}}, &info);
  out.push_back(std::move(info));
  out.push_back(
      Histogram("nibble_store_commit_seconds", "Time of a durable commit.", commit_seconds_));
  out.push_back(Histogram("nibble_store_commit_group_size", "Changes made durable by one commit.",
                          commit_group_));
  out.push_back(Histogram("nibble_scheduling_seconds", "Time of one step of the scheduler.",
                          scheduling_seconds_));
  out.push_back(Histogram("nibble_queue_wait_seconds", "Time that jobs waited for slots.",
                          queue_wait_seconds_));
  MutexLock lock(mutex_);
  CollectControlPlane(&out);
  CollectRpcs(&out);
  CollectJobs(&out);
  return out;
}

void PrometheusTelemetry::Metrics::CollectControlPlane(std::vector<MetricFamily>* out) const {
  MetricFamily jobs = Family("nibble_jobs", "Jobs by state.", MetricType::Gauge);
  for (const auto& [state, count] : counts_.jobs_by_state) {
    AddGauge(static_cast<double>(count), {{"state", state}}, &jobs);
  }
  out->push_back(std::move(jobs));
  out->push_back(Gauge("nibble_queue_depth", "Jobs that wait for slots.",
                       static_cast<double>(counts_.queue_depth)));
  MetricFamily workers = Family("nibble_workers", "Workers by state.", MetricType::Gauge);
  AddGauge(static_cast<double>(counts_.workers_online), {{"state", "online"}}, &workers);
  AddGauge(static_cast<double>(counts_.workers_unreachable), {{"state", "unreachable"}}, &workers);
  out->push_back(std::move(workers));
  out->push_back(
      Gauge("nibble_slots", "Slots of all workers.", static_cast<double>(counts_.slots_total)));
  out->push_back(Gauge("nibble_slots_used", "Slots that attempts hold.",
                       static_cast<double>(counts_.slots_used)));
  MetricFamily alerts = Family("nibble_alerts_total", "Alerts that the scheduler raised, by kind.",
                               MetricType::Counter);
  for (const auto& [kind, count] : alerts_) {
    AddCounter(static_cast<double>(count), {{"kind", kind}}, &alerts);
  }
  out->push_back(std::move(alerts));
  MetricFamily incidents =
      Family("nibble_training_incidents_total",
             "Events that training safety brought about, by reason.", MetricType::Counter);
  for (const auto& [reason, count] : incidents_) {
    AddCounter(static_cast<double>(count), {{"reason", reason}}, &incidents);
  }
  out->push_back(std::move(incidents));
  out->push_back(
      Gauge("nibble_leases", "Attempts that hold a lease.", static_cast<double>(counts_.leases)));
}

void PrometheusTelemetry::Metrics::CollectRpcs(std::vector<MetricFamily>* out) const {
  MetricFamily seconds = Family("nibble_rpc_seconds", "Time of a call, by method and status code.",
                                MetricType::Histogram);
  for (const auto& [key, rpc] : rpcs_) {
    AddHistogram(rpc->seconds, {{"method", key.first}, {"code", key.second}}, &seconds);
  }
  // The count of calls is a metric of its own, by the name that dashboards expect.
  MetricFamily total =
      Family("nibble_rpc_total", "Calls ended, by method and status code.", MetricType::Counter);
  for (const ClientMetric& metric : seconds.metric) {
    AddCounter(static_cast<double>(metric.histogram.sample_count), metric.label, &total);
  }
  out->push_back(std::move(seconds));
  out->push_back(std::move(total));
}

void PrometheusTelemetry::Metrics::CollectHealth(std::vector<MetricFamily>* out) const {
  MetricFamily family =
      Family("nibble_job_quantisation_health",
             "What quantising does to operands and weight gradients, by class of layers; newest "
             "measurement.",
             MetricType::Gauge);
  for (const auto& [id, series] : jobs_) {
    for (const auto& [name, value] : series->values) {
      const std::optional<Labels> health = HealthLabels(name);
      if (!health.has_value()) continue;
      Labels labels = LabelsOf(series->job);
      labels.insert(labels.end(), health->begin(), health->end());
      AddGauge(value, std::move(labels), &family);
    }
  }
  out->push_back(std::move(family));
}

void PrometheusTelemetry::Metrics::CollectJobs(std::vector<MetricFamily>* out) const {
  CollectHealth(out);
  for (const JobGauge& gauge : kJobGauges) {
    MetricFamily family = Family(gauge.metric_name, gauge.help, MetricType::Gauge);
    for (const auto& [id, series] : jobs_) {
      const auto value = series->values.find(gauge.value_name);
      if (value != series->values.end()) AddGauge(value->second, LabelsOf(series->job), &family);
    }
    out->push_back(std::move(family));
  }
  MetricFamily step = Family("nibble_job_step", "Newest step.", MetricType::Gauge);
  MetricFamily tokens = Family("nibble_job_tokens_total",
                               "Tokens trained on up to the newest step.", MetricType::Counter);
  MetricFamily step_seconds =
      Family("nibble_job_step_seconds", "Time of a training step.", MetricType::Histogram);
  for (const auto& [id, series] : jobs_) {
    AddGauge(static_cast<double>(series->step), LabelsOf(series->job), &step);
    AddHistogram(series->step_seconds, LabelsOf(series->job), &step_seconds);
    const auto value = series->values.find("tokens");
    if (value != series->values.end()) AddCounter(value->second, LabelsOf(series->job), &tokens);
  }
  out->push_back(std::move(step));
  out->push_back(std::move(tokens));
  out->push_back(std::move(step_seconds));
}

class PrometheusTelemetry::Server {
 public:
  Server(const std::string& address, const std::shared_ptr<Metrics>& metrics)
      // One thread renders, one answers a second scraper; slow peers are cut after two seconds.
      : exposer_(std::vector<std::string>{"listening_ports", address, "num_threads", "2",
                                          "request_timeout_ms", "2000", "keep_alive_timeout_ms",
                                          "500"}) {
    exposer_.RegisterCollectable(metrics);
  }
  int port() const { return exposer_.GetListeningPorts().at(0); }

 private:
  prometheus::Exposer exposer_;
};

PrometheusTelemetry::PrometheusTelemetry(const BuildInfo& build)
    : metrics_(std::make_shared<Metrics>(build)) {}
PrometheusTelemetry::~PrometheusTelemetry() = default;

absl::StatusOr<int> PrometheusTelemetry::Serve(const std::string& address) {
  try {
    server_ = std::make_unique<Server>(address, metrics_);
    return server_->port();
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ": ", error.what()));
  }
}

std::string PrometheusTelemetry::Text() const {
  return prometheus::TextSerializer().Serialize(metrics_->Collect());
}

void PrometheusTelemetry::RpcEnded(absl::string_view method, absl::string_view code,
                                   double seconds) {
  MutexLock lock(metrics_->mutex_);
  std::unique_ptr<RpcMethod>& rpc = metrics_->rpcs_[{std::string(method), std::string(code)}];
  if (rpc == nullptr) rpc = std::make_unique<RpcMethod>();
  rpc->seconds.Observe(seconds);
}

void PrometheusTelemetry::Committed(double seconds, int64_t group_size) {
  metrics_->commit_seconds_.Observe(seconds);
  metrics_->commit_group_.Observe(static_cast<double>(group_size));
}

void PrometheusTelemetry::Scheduled(double seconds) {
  metrics_->scheduling_seconds_.Observe(seconds);
}

void PrometheusTelemetry::QueueWaited(double seconds) {
  metrics_->queue_wait_seconds_.Observe(seconds);
}

void PrometheusTelemetry::IncidentNoted(absl::string_view reason) {
  MutexLock lock(metrics_->mutex_);
  ++metrics_->incidents_[std::string(reason)];
}

void PrometheusTelemetry::Alerted(absl::string_view kind) {
  MutexLock lock(metrics_->mutex_);
  ++metrics_->alerts_[std::string(kind)];
}

void PrometheusTelemetry::SetCounts(const ControlPlaneCounts& counts) {
  MutexLock lock(metrics_->mutex_);
  metrics_->counts_ = counts;
}

void PrometheusTelemetry::JobActive(const ActiveJob& job) {
  MutexLock lock(metrics_->mutex_);
  if (metrics_->jobs_.size() >= kMaxJobSeries || metrics_->jobs_.count(job.job_id) > 0) return;
  auto series = std::make_unique<JobSeries>();
  series->job = job;
  metrics_->jobs_.emplace(job.job_id, std::move(series));
}

void PrometheusTelemetry::TrainingSteps(absl::string_view job_id,
                                        const std::vector<TrainingStepReport>& steps) {
  MutexLock lock(metrics_->mutex_);
  const auto found = metrics_->jobs_.find(std::string(job_id));
  if (found == metrics_->jobs_.end()) return;
  JobSeries& series = *found->second;
  for (const TrainingStepReport& report : steps) {
    series.step = report.step;
    for (const auto& [name, value] : report.values) {
      if (name == "step_seconds") {
        series.step_seconds.Observe(value);
      } else if (!absl::StartsWith(name, "health/blocks.")) {  // classes of layers stand for them
        series.values[name] = value;
      }
    }
  }
}

void PrometheusTelemetry::JobInactive(absl::string_view job_id) {
  MutexLock lock(metrics_->mutex_);
  metrics_->jobs_.erase(std::string(job_id));
}

}  // namespace nibble::telemetry
