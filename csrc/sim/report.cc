#include "sim/report.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "sim/counters.h"
#include "sim/faults.h"
#include "sim/kernels.h"
#include "sim/memory.h"
#include "sim/runtime.h"

namespace mix::sim {

namespace {

constexpr size_t LISTED = 20;  // rows of a table for people

struct Asked {
  bool print = false;
  std::string file;
  pid_t process = 0;
};
Asked& asked() {
  static auto* one = new Asked;
  return *one;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string traffic_json(const std::map<std::string, Traffic>& table) {
  std::string out;
  for (const auto& [name, entry] : table)
    out += (out.empty() ? "" : ", ") + quoted(name) + ": {\"calls\": " + std::to_string(entry.calls) +
           ", \"bytes\": " + std::to_string(entry.bytes) + "}";
  return "{" + out + "}";
}

std::string in_units(double size) {
  const char* units[] = {"B", "KiB", "MiB", "GiB"};
  int unit = 0;
  while (size >= 1024 && unit < 3) size /= 1024, ++unit;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", size, units[unit]);
  return text;
}

void add_traffic(std::ostringstream& out, const char* title, const std::map<std::string, Traffic>& table) {
  std::vector<std::pair<std::string, Traffic>> rows(table.begin(), table.end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.second.calls > b.second.calls; });
  Traffic sum;
  for (const auto& row : rows) sum.calls += row.second.calls, sum.bytes += row.second.bytes;
  out << "  " << title << ": " << sum.calls << ", " << in_units(static_cast<double>(sum.bytes)) << "\n";
  for (size_t i = 0; i < std::min(rows.size(), LISTED); ++i)
    out << "    " << rows[i].first << ": " << rows[i].second.calls << ", "
        << in_units(static_cast<double>(rows[i].second.bytes)) << "\n";
  if (rows.size() > LISTED) out << "    and " << rows.size() - LISTED << " more\n";
}

std::string label(const Entry& entry) { return std::string(entry.name) + ":" + phi::DataTypeToString(entry.dtype); }

void at_exit() {
  if (getpid() != asked().process) return;  // a forked child's counters are not its own
  if (asked().print) std::fputs(report_text().c_str(), stderr);
  auto file = asked().file;
  if (file.empty()) return;
  const auto mark = file.find("%p");
  if (mark != std::string::npos) file.replace(mark, 2, std::to_string(getpid()));
  std::ofstream(file) << report_json() << "\n";
}

}  // namespace

std::string report_json() {
  std::string kernels, memory, faults;
  for (const auto& entry : entries()) {
    if (entry->calls + entry->fallbacks == 0) continue;
    kernels += (kernels.empty() ? "" : ",\n") + std::string("{\"kernel\": ") + quoted(entry->name) +
               ", \"dtype\": " + quoted(phi::DataTypeToString(entry->dtype)) +
               ", \"calls\": " + std::to_string(entry->calls) + ", \"bytes\": " + std::to_string(entry->bytes) +
               ", \"fallbacks\": " + std::to_string(entry->fallbacks) +
               ", \"bytes_in\": " + std::to_string(entry->bytes_in) +
               ", \"bytes_out\": " + std::to_string(entry->bytes_out) + "}";
  }
  for (int device = 0; device < configuration().devices; ++device) {
    const auto use = Memory::instance().use(device);
    memory += std::string(device ? ", " : "") + "{\"limit\": " + std::to_string(use.limit) +
              ", \"current\": " + std::to_string(use.current) + ", \"peak\": " + std::to_string(use.peak) +
              ", \"allocations\": " + std::to_string(use.allocations) + "}";
  }
  for (const auto& fault : Faults::instance().list())
    faults += (faults.empty() ? "" : ", ") + std::string("{\"fault\": ") + quoted(fault.text) +
              ", \"calls\": " + std::to_string(fault.calls) + ", \"hits\": " + std::to_string(fault.hits) + "}";
  const auto& counters = Counters::instance();
  return "{\"kernels\": [" + kernels + "],\n\"copies\": " + traffic_json(counters.copies()) +
         ",\n\"collectives\": " + traffic_json(counters.collectives()) +
         ",\n\"rejected\": " + traffic_json(counters.rejections()) + ",\n\"memory\": [" + memory +
         "],\n\"faults\": [" + faults + "]}";
}

std::string report_text() {
  std::ostringstream out;
  out << "simulated " << configuration().device_type << ":\n";
  for (int device = 0; device < configuration().devices; ++device) {
    const auto use = Memory::instance().use(device);
    out << "  device " << device << ": " << in_units(static_cast<double>(use.current)) << " in use, peak "
        << in_units(static_cast<double>(use.peak)) << " of " << in_units(static_cast<double>(use.limit)) << ", "
        << use.allocations << " allocations\n";
  }
  int64_t calls = 0, kinds = 0;
  std::map<std::string, Traffic> fallbacks;
  for (const auto& entry : entries()) {
    calls += entry->calls, kinds += entry->calls > 0;
    if (entry->fallbacks > 0) fallbacks[label(*entry)] = {entry->fallbacks, entry->bytes_in + entry->bytes_out};
  }
  out << "  " << calls << " calls of " << kinds << " kernels on the device\n";
  const auto& counters = Counters::instance();
  add_traffic(out, "fallbacks to the CPU", fallbacks);
  add_traffic(out, "copies", counters.copies());
  if (!counters.collectives().empty()) add_traffic(out, "collectives", counters.collectives());
  for (const auto& [name, entry] : counters.rejections()) out << "  refused " << name << ": " << entry.calls << "\n";
  for (const auto& fault : Faults::instance().list())
    out << "  fault " << fault.text << ": hit " << fault.hits << " of " << fault.calls << " calls\n";
  return out.str();
}

void report_at_exit(bool print, const std::string& file) {
  asked() = {print, file, getpid()};
  if (print || !file.empty()) std::atexit(at_exit);
}

}  // namespace mix::sim
