#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"
#include "client/output.h"
#include "client/table.h"
#include "client/text.h"

namespace nibble::client {
namespace {

class InfoVerb : public Verb {
 public:
  VerbText text() const override {
    return {"info",
            "The daemon: version, age, addresses",
            "Shows which daemon answers: its version, since when it runs, how many jobs it keeps, "
            "where its Prometheus metrics are and where its state lies.",
            "nibble info\nnibble info --server trainer.example.org:7878",
            {"table", "json", "yaml"}};
  }
  std::vector<Option> options() override { return {}; }

  absl::StatusOr<int> Run(Session& session) override {
    NIBBLE_ASSIGN_OR_RETURN(Connection * connection, session.connection());
    NIBBLE_ASSIGN_OR_RETURN(const v1::ServerInfo info, connection->GetServerInfo());
    if (session.structured()) {
      PrintStructured(session, info);
      return 0;
    }
    Facts facts;
    facts.Add("server", Safe(connection->server()));
    facts.Add("version", absl::StrCat(Safe(info.version()), " (", Safe(info.commit()), ")"));
    facts.Add("started",
              absl::StrCat(IsoTime(info.start_time()), "  (",
                           Age(Micros(info.start_time()), session.clock().WallMicros()), " ago)"));
    facts.Add("jobs", Grouped(info.jobs()));
    facts.Add("metrics", Safe(info.metrics_address()));
    facts.Add("state", Safe(info.state_directory()));
    facts.Print(session.terminal());
    return 0;
  }
};

}  // namespace

std::unique_ptr<Verb> MakeInfoVerb() { return std::make_unique<InfoVerb>(); }

}  // namespace nibble::client
