// Store and MetricStore in memory: for tests and for the simulator.
#ifndef SERVER_STORE_MEMORY_STORE_H_
#define SERVER_STORE_MEMORY_STORE_H_

#include <memory>

#include "server/store/metric_store.h"
#include "server/store/store.h"

namespace nibble::store {

std::unique_ptr<Store> MakeMemoryStore();
std::unique_ptr<MetricStore> MakeMemoryMetricStore();

}  // namespace nibble::store

#endif  // SERVER_STORE_MEMORY_STORE_H_
