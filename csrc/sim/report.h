// The counters of a process, for its end.
#pragma once

#include <string>

namespace mix::sim {

// One JSON object: kernels, copies, collectives, rejected, memory, faults.
std::string report_json();
// Lines for people, largest first.
std::string report_text();
// At the end of the process: lines to standard error when `print`, the object to a file when it is named.
// A `%p` in the file's name becomes the process's number.
void report_at_exit(bool print, const std::string& file);

}  // namespace mix::sim
