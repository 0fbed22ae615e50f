#include "server/rpc/assignment_watch.h"

#include <utility>

#include "base/status_macros.h"
#include "server/rpc/conversions.h"
#include "server/rpc/polled_source.h"

namespace nibble::rpc {
namespace {

class AssignmentWatch : public PolledSource<v1::AssignmentList> {
 public:
  AssignmentWatch(const ApiParts& parts, const v1::WatchAssignmentsRequest& request)
      : PolledSource(parts.pool),
        board_(&parts.coordinator->assignments()),
        worker_id_(request.worker_id()),
        incarnation_(request.incarnation()) {}

 private:
  absl::StatusOr<Polled> Poll() override {
    const auto snapshot = board_->Read(worker_id_, incarnation_);
    if (!snapshot.ok()) {
      const auto reason = absl::IsNotFound(snapshot.status())
                              ? scheduler::ErrorReason::kUnknownWorker
                              : scheduler::ErrorReason::kStaleIncarnation;
      return WithReason(snapshot.status(), scheduler::ErrorReasonName(reason),
                        {{"worker_id", worker_id_}});
    }
    if (snapshot->revision == sent_revision_) return Wait();
    sent_revision_ = snapshot->revision;
    NIBBLE_ASSIGN_OR_RETURN(v1::AssignmentList list, ToProto(*snapshot));
    return Message(std::move(list));
  }

  coordinator::AssignmentBoard* const board_;
  const std::string worker_id_;
  const std::string incarnation_;
  int64_t sent_revision_ = 0;
};

}  // namespace

std::shared_ptr<MessageSource<v1::AssignmentList>> MakeAssignmentWatch(
    const ApiParts& parts, const v1::WatchAssignmentsRequest& request) {
  auto watch = std::make_shared<AssignmentWatch>(parts, request);
  watch->WakeOn(&parts.coordinator->feed(), {coordinator::AssignmentsTopic(request.worker_id())});
  return watch;
}

}  // namespace nibble::rpc
