// Uses of the runtime that Paddle's Python cannot make, for tests of the simulator.
#pragma once

#include <map>
#include <string>

namespace mix::sim {

// Wrong copies, and one that is right, through the interface that Paddle uses: which of them succeed.
std::map<std::string, bool> check_copies();

// Whether work on one stream that waits for an event comes after what another had queued before the event.
bool event_orders();

}  // namespace mix::sim
