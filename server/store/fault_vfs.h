// An SQLite VFS over the system's that fails where a test says and knows what a power cut would
// leave: what each file held when it was last synced. For tests; one at a time in a process.
#ifndef SERVER_STORE_FAULT_VFS_H_
#define SERVER_STORE_FAULT_VFS_H_

#include <map>
#include <string>

namespace nibble::store {

class FaultVfs {
 public:
  // Registers the VFS under this name.
  static constexpr char kName[] = "nibble-faults";
  FaultVfs();
  ~FaultVfs();
  FaultVfs(const FaultVfs&) = delete;
  FaultVfs& operator=(const FaultVfs&) = delete;

  // From now on every sync fails with EIO / every write finds the disk full.
  void FailSyncs(bool fail);
  void FillDisk(bool full);
  // Whether syncs keep images; costs a copy of the file each.
  void KeepImages(bool keep);
  // A weakness on purpose: syncs of this file (by its name) do not reach the disk from now on. For
  // the write-ahead log that is what synchronous=NORMAL leaves out.
  void ForgetSyncsOf(const std::string& name);
  // What a power cut now would leave, by file name without directory.
  std::map<std::string, std::string> PowerCutImage() const;
};

}  // namespace nibble::store

#endif  // SERVER_STORE_FAULT_VFS_H_
